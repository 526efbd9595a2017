"""Every asset links to the function that makes it, and finding that function imports nothing."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from places import ROOT

from drirl_core.errors import ConfigError
from drirl_core.graph.stages import STAGES
from pipeline import definitions
from pipeline.instance.settings import load
from pipeline.wiring.code_references import CODE_REFERENCES, code_references

DEMO = "configs/demo.yaml"


def _reference(metadata):
    (reference,) = metadata[CODE_REFERENCES].code_references
    return reference


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package in a directory of its own, whose import fails."""
    folder = tmp_path / "site-packages" / "elsewhere" / "rooms"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('heavy')\n")
    (folder / "stage.py").write_text('"""def build"""\n\n\ndef build_all():\n    pass\n\n\ndef build():\n    pass\n')
    (folder / "__init__.py").write_text("\nasync def fetch():\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    return folder


def test_each_asset_links_to_the_line_of_its_function(monkeypatch):
    monkeypatch.delenv("DRIRL_CONFIG", raising=False)
    nodes = load(DEMO).graph.nodes
    others = {"retraining_plan": "plan", "promoted_policy": "promoted_policy"}
    for spec in definitions.defs().resolve_all_asset_specs():
        name = spec.key.to_user_string()
        if name in nodes:
            expected = STAGES[nodes[name].stage].function.split(":")[1]
        else:
            expected = others.get(name, "source_version")
        reference = _reference(spec.metadata)
        line = Path(reference.file_path).read_text().splitlines()[reference.line_number - 1]
        assert line.startswith(f"def {expected}("), name


def test_a_function_is_found_without_importing_its_module():
    code = (
        "import sys; from pipeline.instance.settings import load; "
        "from pipeline.wiring.code_references import code_references; "
        f"found = code_references('drirl_core.policy.grpo:build_policy_checkpoint', load({DEMO!r}).config); "
        "assert found; print([name for name in sys.modules if name.startswith('drirl_core.policy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("function", "file", "line"),
    [("stage:build", "stage.py", 8), ("stage:gone", "stage.py", None), (":fetch", "__init__.py", 2)],
)
def test_a_package_installed_elsewhere_is_found_where_it_lies(installed, function, file, line):
    module, name = function.split(":")
    reference = _reference(code_references(f"elsewhere.rooms{module and '.'}{module}:{name}", load(DEMO).config))

    assert (reference.file_path, reference.line_number) == (str(installed / file), line)


@pytest.mark.parametrize("function", ["nowhere.stage:build", "elsewhere.rooms.gone:build"])
def test_a_module_without_a_source_file_has_no_link(installed, function):
    assert code_references(function, load(DEMO).config) == {}


def test_with_an_address_the_link_leads_to_the_web(installed):
    config = load(DEMO, {"operations.source_url": "https://example.org/me/drirl/blob/main/"}).config

    shown = _reference(code_references("elsewhere.rooms.stage:build", config))
    whole_file = _reference(code_references("elsewhere.rooms.stage:gone", config))
    assert isinstance(shown, dg.UrlCodeReference)
    assert shown.url == "https://example.org/me/drirl/blob/main/elsewhere/rooms/stage.py#L8"
    assert whole_file.url == "https://example.org/me/drirl/blob/main/elsewhere/rooms/stage.py"


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ConfigError, match=r"operations.source_url is 'git@example.org:me/drirl'"):
        load(DEMO, {"operations.source_url": "git@example.org:me/drirl"})
