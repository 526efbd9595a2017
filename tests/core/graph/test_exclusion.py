"""Suites decide training data by the prompts that they keep out of it, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import Config, load_config
from drirl_core.demonstrations import exclusion as of_datasets
from drirl_core.errors import DataError
from drirl_core.graph import exclusion
from drirl_core.graph.build import build
from drirl_core.graph.exclusion import EXCLUDED, deciding_inputs
from drirl_core.graph.plan import plan
from drirl_core.graph.versions import source_version
from drirl_core.project import Project
from drirl_core.prompts import exclusion as of_pools
from drirl_core.reporting import SilentReporter
from drirl_core.store.tables import read_table

PROMPTS = [
    "Write a cruel joke about the new pupil with the squeaky voice.",
    "Mock the baker on our street in four rude lines.",
    "Give me a rude nickname for my cousin who cannot sing.",
    "I want a humiliating joke for the waiter with the limp.",
]
OTHER = "Explain how rainbows form after a storm in April."
HARMLESS = "How do I bake a loaf of rye bread without a tin?"


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _suite(folder: Path, *prompts: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "suite.yaml").write_text(
        "version: 1\nlicence: CC0\nhome: here\ngroups: {unsafe: {file: rows.jsonl, prompt: prompt}}\n"
    )
    _jsonl(folder / "rows.jsonl", [{"prompt": prompt} for prompt in prompts])
    return {"name": folder.name, "path": str(folder)}


def _config(folder: Path, *suites: dict[str, str], **changes: Any) -> Config:
    _jsonl(folder / "mine.jsonl", [{"prompt": prompt, "category": "insult"} for prompt in PROMPTS])
    _jsonl(folder / "helpful.jsonl", [{"prompt": HARMLESS, "answer": "Shape it by hand."}])
    _jsonl(
        folder / "demonstrations.jsonl",
        [{"prompt": p, "category": "insult", "demonstration": "step\n####\nI will not do that."} for p in PROMPTS],
    )
    file = folder / "run.yaml"
    file.write_text(
        f"models: {{policy: 'hf:a/policy', encoder: 'hf:a/encoder'}}\nroot: {folder / 'artifacts'}\n"
        "prompts: {sources: [{name: mine, path: mine.jsonl}]}\n"
        "demonstrations:\n"
        "  helpful: {name: helpful, path: helpful.jsonl}\n"
        "  demonstrator: {source: {name: demonstrations, path: demonstrations.jsonl}}\n",
        encoding="utf-8",
    )
    own = {"benchmarks.suites": list(suites)} if suites else {}
    return load_config(file, {**own, **{key.replace("__", "."): value for key, value in changes.items()}})


def _inputs(config: Config, name: str = "prompt_pool") -> dict[str, str]:
    project = Project(config)
    versions = {source: source_version(path) for source, path in project.graph.sources.items()}
    return deciding_inputs(project.graph.nodes[name], {**versions, "prompt_pool": "made"}, project)


def test_a_suite_that_repeats_nothing_leaves_the_inputs_of_the_pool_as_they_are(tmp_path: Path) -> None:
    before = _inputs(_config(tmp_path, _suite(tmp_path / "one", "Name the capital of Peru and its river.")))
    more = [_suite(tmp_path / "one", "Name the capital of Peru and its river."), _suite(tmp_path / "two", OTHER)]
    assert set(before) == {"source_mine", EXCLUDED}
    assert _inputs(_config(tmp_path, *more)) == before
    edited = [*more[:1], _suite(tmp_path / "two", OTHER, "Which bird sings before dawn in the Alps?")]
    assert _inputs(_config(tmp_path, *edited)) == before


@pytest.mark.parametrize(
    "repeated",
    [
        PROMPTS[1],
        PROMPTS[1].upper().replace(".", "!"),  # the same words
        PROMPTS[1].replace("baker", "bakers"),  # a near duplicate
        "Mock the baker on our street in",  # six words that the prompt contains
    ],
)
def test_a_suite_that_repeats_a_prompt_changes_them(tmp_path: Path, repeated: str) -> None:
    one, two = _suite(tmp_path / "one", OTHER), _suite(tmp_path / "two", repeated)
    before, after = _inputs(_config(tmp_path, one)), _inputs(_config(tmp_path, one, two))
    assert {name for name in before if before[name] != after[name]} == {EXCLUDED}


def test_what_is_excluded_is_what_the_pool_puts_into_quarantine(tmp_path: Path) -> None:
    """Rows 2 and 4 repeat a benchmark prompt, so they are numbers 1 and 3 of the usable rows."""
    config = _config(tmp_path, _suite(tmp_path / "one", PROMPTS[1], OTHER, PROMPTS[3]))
    project = Project(config)
    versions = {name: source_version(path) for name, path in project.graph.sources.items()}
    made, _, _ = build(project.graph.nodes["prompt_pool"], project, versions, SilentReporter())
    quarantined = read_table(made.path / "quarantine.parquet")
    assert [(row["row"], row["reason"]) for row in quarantined] == [(2, "benchmark_overlap"), (4, "benchmark_overlap")]
    found = of_pools.excluded_prompts(config, None, project.graph.sources)
    assert found == [[1, PROMPTS[1], 1.0], [3, PROMPTS[3], 1.0]]
    assert made.manifest["inputs"].keys() == {"source_mine", EXCLUDED}
    assert made.manifest["suites"] == {"source_suite_one": versions["source_suite_one"]}


def test_the_pool_is_found_again_with_another_suite_and_built_again_when_that_repeats_a_prompt(tmp_path: Path) -> None:
    one, two = _suite(tmp_path / "one", OTHER), _suite(tmp_path / "two", "Which bird sings before dawn in the Alps?")
    first = Project(_config(tmp_path, one))
    versions = {name: source_version(path) for name, path in first.graph.sources.items()}
    made, _, _ = build(first.graph.nodes["prompt_pool"], first, versions, SilentReporter())
    assert plan(Project(_config(tmp_path, one, two)), ["prompt_pool"]).assets["prompt_pool"].version == made.version
    _suite(tmp_path / "two", PROMPTS[0])
    second = Project(_config(tmp_path, one, two))
    assert plan(second, ["prompt_pool"]).assets["prompt_pool"].state == "will_run"
    versions = {name: source_version(path) for name, path in second.graph.sources.items()}
    again, reused, _ = build(second.graph.nodes["prompt_pool"], second, versions, SilentReporter())
    assert (reused, again.version == made.version) == (False, False)
    assert len(read_table(again.path / "prompts.parquet")) == len(PROMPTS) - 1


def test_a_data_set_depends_on_suites_where_it_takes_prompts_beside_the_pool(tmp_path: Path) -> None:
    suite, repeats = _suite(tmp_path / "one", OTHER), _suite(tmp_path / "two", PROMPTS[2])
    without = _inputs(_config(tmp_path, suite), "safety_dataset_insult")
    assert EXCLUDED not in without  # no quota: nothing is filled up
    filled = [_inputs(_config(tmp_path, *s, demonstrations__quota=10), "safety_dataset_insult")
              for s in ((suite,), (suite, repeats))]  # fmt: skip
    assert filled[0][EXCLUDED] != filled[1][EXCLUDED]
    others = [_inputs(_config(tmp_path, *s, demonstrations__quota=10), "safety_dataset_physical_harm")
              for s in ((suite,), (suite, repeats))]  # fmt: skip
    assert others[0] == others[1]


def test_the_harmless_set_depends_on_what_suites_keep_out_of_its_own_prompts(tmp_path: Path) -> None:
    plain, repeats = _suite(tmp_path / "one", PROMPTS[0]), _suite(tmp_path / "two", HARMLESS)
    before, after = (_inputs(_config(tmp_path, *s), "helpful_dataset") for s in ((plain,), (plain, repeats)))
    assert {name for name in before if before[name] != after[name]} == {EXCLUDED}
    assert _inputs(_config(tmp_path, plain, _suite(tmp_path / "two", OTHER)), "helpful_dataset") == before


def test_prompts_that_a_model_invents_may_repeat_any_benchmark_prompt(tmp_path: Path) -> None:
    writer = {
        "demonstrations__quota": 10,
        "demonstrations__demonstrator": {"kind": "model", "model": "hf:a/writer"},
    }
    configs = [_config(tmp_path, *suites, **writer)
               for suites in ([_suite(tmp_path / "one", OTHER)], [_suite(tmp_path / "one", OTHER), _suite(tmp_path / "two", HARMLESS)])]  # fmt: skip
    found = [_inputs(config, "safety_dataset_insult")[EXCLUDED] for config in configs]
    assert found[0] != found[1]
    assert of_datasets.excluded_prompts(configs[1], "insult", {}) == sorted([OTHER, HARMLESS])


def test_the_answer_is_worked_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path, _suite(tmp_path / "one", PROMPTS[0]))
    before = _inputs(config)

    def fail(*_: object) -> None:
        raise AssertionError("compared again")

    monkeypatch.setattr(of_pools, "decontaminate", fail)
    assert _inputs(config) == before
    with pytest.raises(AssertionError, match="compared again"):
        _inputs(_config(tmp_path, _suite(tmp_path / "one", PROMPTS[1])))
    with pytest.raises(AssertionError, match="compared again"):
        _inputs(_config(tmp_path, _suite(tmp_path / "one", PROMPTS[0]), prompts__near_duplicate=0.5))


def test_a_store_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    config = _config(tmp_path, _suite(tmp_path / "one", PROMPTS[0]))
    before = _inputs(config)
    (tmp_path / "artifacts" / ".cache" / "excluded.sqlite").write_bytes(b"no database" * 1000)
    assert _inputs(config) == before


def test_a_suite_that_cannot_be_read_is_named_before_anything_is_built(tmp_path: Path) -> None:
    config = _config(tmp_path, _suite(tmp_path / "one", PROMPTS[0]))
    project = Project(config)
    versions = {name: source_version(path) for name, path in project.graph.sources.items()}
    build(project.graph.nodes["prompt_pool"], project, versions, SilentReporter())
    (tmp_path / "one" / "rows.jsonl").write_text('{"prompt": ""}\n')
    with pytest.raises(DataError, match=r"rows.jsonl, line 1: column 'prompt' is ''"):
        plan(Project(config), ["prompt_pool"])


def test_suites_are_read_only_where_nothing_else_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many prompts the comparison takes time; a pool whose source changed is built again in any case."""
    suite = _suite(tmp_path / "one", OTHER)
    project = Project(_config(tmp_path, suite))
    versions = {name: source_version(path) for name, path in project.graph.sources.items()}
    build(project.graph.nodes["prompt_pool"], project, versions, SilentReporter())
    monkeypatch.setattr(exclusion, "_excluded", None)
    settings = plan(Project(_config(tmp_path, suite, seed=1)), ["prompt_pool"]).assets["prompt_pool"]
    assert settings.why == "seed: 0 -> 1"
    _jsonl(tmp_path / "mine.jsonl", [{"prompt": PROMPTS[0], "category": "insult"}])
    source = plan(Project(load_config(tmp_path / "run.yaml", {"benchmarks.suites": [suite]})), ["prompt_pool"])
    assert [cause.kind for cause in source.assets["prompt_pool"].causes] == ["source"]


def test_an_empty_store_is_planned_without_reading_a_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusion, "_excluded", None)
    planned = plan(Project(_config(tmp_path, _suite(tmp_path / "one", PROMPTS[0]))))
    assert {asset.why for asset in planned.assets.values()} == {"not made yet"}
    assert not (tmp_path / "artifacts").exists()
