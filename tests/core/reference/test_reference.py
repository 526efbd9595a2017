"""Pages and picture that are made from the code are up to date and complete, and the documents' links lead somewhere."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import drirl_core
from drirl_core.checks.asking import rules_of
from drirl_core.config import CompletionsConfig, Config, ModelsConfig, PolicyConfig, load_config
from drirl_core.config.explain import settings_of
from drirl_core.graph.layout import Graph, build_graph
from drirl_core.graph.stages import STAGES
from drirl_core.reference.pages import pages
from drirl_core.reference.picture import SOURCES, graph_picture, places, stage_edges
from drirl_core.reference.settings import anchor

ROOT = Path(drirl_core.__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages(ROOT)


@pytest.fixture(scope="module")
def demo() -> Graph:
    return build_graph(load_config(ROOT / "configs" / "demo.yaml"))


def test_files_made_from_the_code_are_up_to_date(made: dict[str, str]) -> None:
    stale = [name for name, text in made.items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run `python -m drirl_core.reference`"


def test_every_setting_is_there_once_with_its_help(made: dict[str, str]) -> None:
    text = made["docs/reference/settings.md"]
    names = re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)
    assert len(names) == len(set(names))
    assert {"seed", "policy.steps", "prompts.sources.columns", "operations.alerts.hooks.kind", "sft.lora.rank"} <= set(
        names
    )
    assert "| `policy.steps` | whole number | `24` | Optimiser steps. |" in text.splitlines()
    assert "| `models.policy` | text | **must be given** |" in text
    assert "| `prompts.taxonomy` | text, or null | `null` |" in text


def test_a_default_is_the_one_of_the_class() -> None:
    found = {setting.name: setting for setting in settings_of(PolicyConfig)}
    assert found["kl"].default == PolicyConfig().kl
    assert found["lora"].section is not None and found["start"].kind == "one of `sft`, `base`"


def test_a_section_says_which_stages_it_decides(made: dict[str, str]) -> None:
    text = made["docs/reference/settings.md"]
    assert (
        "Decides, at least in part: `hardness`, `policy_checkpoint`, `joint_checkpoint`, `grpo_checkpoint`, `staged_competence_checkpoint`, `rloo_checkpoint`, `rloo_s_checkpoint`, `verifiable_checkpoint`, `propositions_checkpoint`."
        in text.split("\n## hardness\n")[1].split("|")[0]
    )
    assert "Decides no result" in text.split("\n## checks\n")[1].split("|")[0]


def test_every_stage_column_and_check_is_there(made: dict[str, str]) -> None:
    parts = re.split(r"^## (\w+)$", made["docs/reference/tables.md"], flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    shown = {name: stage for name, stage in STAGES.items() if not re.match("round_[2-4]_", name)}
    assert list(sections) == list(shown)  # further rounds are those of the first once more
    for name, stage in shown.items():
        for column in stage.table.columns if stage.table else ():
            assert f"| `{column}` |" in sections[name]
        for rule in rules_of(name):
            assert f"| `{rule.name}` | {rule.description} |" in sections[name]
    assert "| no promotion | `checks.max_kl` |" in sections["promotion_candidate"]
    assert "`safety_dataset_<category>` and `helpful_dataset`" in sections["dataset"]


# ------------------------------------------------------------------------------------------------------------- picture


def test_an_arrow_that_a_longer_path_implies_is_left_out(demo: Graph) -> None:
    """Rewards are made from data sets and pools; a pool is made from data sets, so only its arrow stays."""
    edges = stage_edges(demo)
    assert edges[SOURCES] == ["prompt_pool"]
    assert edges["dataset"] == ["balance_report", "sft_checkpoint", "reference_classifiers"]
    assert edges["completion_pool"] == ["reward_model"]
    assert edges["benchmark"] == ["promotion_candidate", "report", "model_card"]
    assert set(edges) == {SOURCES, *demo.stages}


def test_no_path_of_the_graph_is_lost(demo: Graph) -> None:
    edges = stage_edges(demo)

    def below(name: str) -> set[str]:
        return set(edges[name]).union(*(below(end) for end in edges[name]))

    for node in demo.nodes.values():
        for name in node.inputs:
            start = demo.nodes[name].stage if name in demo.nodes else SOURCES
            assert node.stage == start or node.stage in below(start)


@pytest.mark.parametrize("start", ["sft", "base"])
def test_boxes_do_not_overlap_and_no_long_arrow_crosses_one(start: str) -> None:
    config = Config(
        models=ModelsConfig(policy="hf:a/b", encoder="hf:a/c"),
        policy=PolicyConfig(start=start),  # type: ignore[arg-type]
        completions=CompletionsConfig(samples={"base": 1, "sft": 0}) if start == "base" else CompletionsConfig(),
    )
    edges = stage_edges(build_graph(config))
    where = places(edges)
    assert ("sft_checkpoint" in where) == (start == "sft")
    assert len({(place.row, place.lane) for place in where.values()}) == len(where)
    boxes = {(place.row, place.lane): name for name, place in where.items()}
    for name, ends in edges.items():
        for end in ends:
            assert where[end].row > where[name].row
            crossed = [boxes.get((row, where[name].lane)) for row in range(where[name].row + 1, where[end].row)]
            assert crossed == [None] * len(crossed), f"{name} to {end}"


def test_the_picture_is_sound_and_readable_at_the_width_of_a_page(demo: Graph) -> None:
    root = ElementTree.fromstring(graph_picture(demo))
    space = "{http://www.w3.org/2000/svg}"
    assert float(root.attrib["width"]) <= 520
    texts = [text.text or "" for text in root.iter(f"{space}text")]
    assert [name.replace("_", " ") for name in (SOURCES, *demo.stages)] == texts[::2]
    assert "8 assets, one per category" in texts
    boxes = list(root.iter(f"{space}rect"))
    assert len(boxes) == len(demo.stages) + 1
    assert max(map(len, texts)) * 6 <= float(boxes[0].attrib["width"])  # a letter of 10.5 px is about 5.5 px wide


# --------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_of_the_documents_lead_to_a_file_and_a_heading(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, heading = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        found = file.exists()
        if found and heading and file.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            found = heading in {anchor(re.sub(r"[`*]", "", line).strip()) for line in headings}
        if not found:
            broken.append(target)
    assert broken == []


def test_the_classes_of_all_sections_have_help_for_every_field() -> None:
    missing = []
    waiting: list[type] = [Config]
    while waiting:
        cls = waiting.pop()
        for setting in settings_of(cls):
            missing += [f"{cls.__name__}.{setting.name}"] if not setting.help else []
            waiting += [kind for kind in (setting.section, setting.rows) if kind and dataclasses.is_dataclass(kind)]
    assert missing == []
