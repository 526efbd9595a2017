"""Names of categories, sources and suites: which are refused when the configuration is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from drirl_core.config import load_config
from drirl_core.errors import ConfigError
from drirl_core.graph.layout import build_graph
from drirl_core.taxonomy import load_categories

MODELS = {"policy": "hf:org/policy", "encoder": "hf:org/encoder"}
LONG = "causing_material_harm_by_disseminating_misinformation_in_medicine_or_law"


def _load(folder: Path, sections: dict[str, Any]) -> Any:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump({"models": MODELS, **sections}), encoding="utf-8")
    return load_config(file)


def _source(name: str) -> dict[str, Any]:
    return {"prompts": {"sources": [{"name": name, "path": "p.jsonl"}]}}


def _suite(name: str) -> dict[str, Any]:
    return {"benchmarks": {"suites": [{"name": name, "path": "suite"}]}}


@pytest.mark.parametrize(
    "sections",
    [
        _source("suite_red_team"),
        {"demonstrations": {"helpful": {"name": "suite_red_team", "path": "h.csv"}}},
        {"demonstrations": {"refusals": {"name": "suite_red_team", "path": "h.csv"}}},
        {"demonstrations": {"demonstrator": {"source": {"name": "suite_red_team", "path": "d.jsonl"}}}},
    ],
)
def test_a_source_named_as_the_files_of_a_suite_is_refused(tmp_path: Path, sections: dict[str, Any]) -> None:
    """Both would be the asset `source_suite_red_team`, and the user's file would never be opened."""
    with pytest.raises(
        ConfigError,
        match=r"the source 'suite_red_team' \(.*and the suite 'red_team' \(benchmarks\.suites\[0\]\).*rename",
    ):
        _load(tmp_path, {**sections, **_suite("red_team")})


def test_such_a_name_is_fine_without_the_suite(tmp_path: Path) -> None:
    config = _load(tmp_path, _source("suite_red_team"))
    assert "source_suite_red_team" in build_graph(config).sources


def test_every_source_has_an_asset_of_its_own(tmp_path: Path) -> None:
    """Two prompt files, the shipped demonstrations, harmless rows and refusals, and two suites: seven."""
    sources = [{"name": "mine", "path": "a.csv"}, {"name": "suite", "path": "b.csv"}]
    suites = [{"name": "embedded"}, {"name": "mine", "path": "suite"}]
    config = _load(tmp_path, {"prompts": {"sources": sources}, "benchmarks": {"suites": suites}})
    assert len(build_graph(config).sources) == 7


def test_two_files_of_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    demonstrator = {"source": {"name": "mine", "path": "d.jsonl"}}
    sections = {**_source("mine"), "demonstrations": {"demonstrator": demonstrator}}
    with pytest.raises(
        ConfigError,
        match=r"two sources are called 'mine': .*p\.jsonl and .*d\.jsonl; .*"
        r"\(prompts\.sources\[0\] and demonstrations\.demonstrator\.source\)",
    ):
        _load(tmp_path, sections)
    demonstrator["source"]["path"] = "p.jsonl"  # one file that holds both
    assert _load(tmp_path, sections).prompts.sources[0].name == "mine"


@pytest.mark.parametrize("make", [_source, _suite])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "use lower-case letters"),
        (" ", "use lower-case letters"),
        ("Mine", "use lower-case letters"),
        ("my-file", "use lower-case letters"),
        ("my file", "use lower-case letters"),
        ("1st", "beginning with a letter"),
        ("_x", "beginning with a letter"),
        ("größe", "from a to z"),
        ("ﬁle", "from a to z"),  # a ligature
        ("x\n", "use lower-case letters"),
        (LONG, "it has 72 characters, and a name has at most 63"),
    ],
)
def test_names_that_dagster_cannot_take_are_refused(tmp_path: Path, make: Any, name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(name)) + ".*" + re.escape(problem)):
        _load(tmp_path, make(name))


@pytest.mark.parametrize("make", [_source, _suite])
def test_a_name_of_63_characters_is_taken(tmp_path: Path, make: Any) -> None:
    assert _load(tmp_path, make("a" * 63))
    with pytest.raises(ConfigError, match="it has 64 characters"):
        _load(tmp_path, make("a" * 64))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["privacy", LONG], f"'{LONG}' cannot name a category; it has 72 characters, and a name has at most 63"),
        (["helpful"], "'helpful' cannot name a category; it is reserved"),
        (["all"], "'all' cannot name a category; it is reserved"),
        (["_totals"], "beginning with a letter"),
        ([""], "'' cannot name a category"),
        (["a", "A"], "'A' cannot name a category"),
        (["a_b", "a__b"], "'a__b' cannot name a category; write one '_' between two words"),
        (["a", "a_"], "'a_' cannot name a category; write one '_'"),
        ([None], "None cannot name a category"),
    ],
)
def test_categories_are_refused_with_the_bound(tmp_path: Path, names: list[Any], problem: str) -> None:
    file = tmp_path / "taxonomy.yaml"
    file.write_text(yaml.safe_dump({"categories": names}), encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load_categories(file)


def test_a_category_of_63_characters_is_taken_and_other_keys_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "taxonomy.yaml"
    file.write_text(f"categories: [{'a' * 63}]", encoding="utf-8")
    assert load_categories(file) == ("a" * 63,)
    file.write_text("categories: [a]\nlabels: {b: a}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the key 'labels' is not read"):
        load_categories(file)


def test_the_name_of_the_drop_folder_is_taken_even_without_one(tmp_path: Path) -> None:
    """A source of that name would be read as the files that the drop folder accepted."""
    with pytest.raises(ConfigError, match=r"a source is called 'inbox'.*rename it \(prompts\.sources\[0\]\)"):
        _load(tmp_path, _source("inbox"))


def test_a_run_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name is empty"):
        _load(tmp_path, {"name": " "})
