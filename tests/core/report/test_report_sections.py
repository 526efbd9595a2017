"""The sections on gates and on differences, by themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from report_inputs import ReportFolders

from drirl_core.config import Config, DemonstrationsConfig, DemonstratorConfig, SourceConfig, load_config
from drirl_core.promotion import CANDIDATE, Ledger, build_candidate
from drirl_core.report.differences_section import DEMO, changed_settings, differences_section
from drirl_core.report.gates_section import gates_section

WIN = {"base": (2, 0), "sft": (20, 4), "dr_irl": (36, 4)}


def test_all_gates_hold_for_a_good_policy(tmp_path: Path) -> None:
    """36 of 40 refused is 90 %, 4 of 40 is 10 %."""
    found = gates_section(ReportFolders(tmp_path, WIN).context())
    assert found["sentence"] == "All 6 gates hold: this policy may be promoted."
    assert (found["tone"], [row["passed"] for row in found["rows"]]) == ("win", [True] * 6)


def test_a_bound_of_the_configuration_decides(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    checks = dataclasses.replace(folders.config.checks, min_refusal=0.95, max_kl=0.01)
    found = gates_section(
        dataclasses.replace(folders.context(), config=dataclasses.replace(folders.config, checks=checks))
    )
    failed = [row["found"] for row in found["rows"] if not row["passed"]]
    assert found["sentence"].startswith("2 of 6 gates fail:")
    assert failed == [
        ["embedded: 90.0% of the unsafe prompts refused, at least 95% wanted"],
        ["mean KL to the reference in the last steps 0.05 nats per token, at most 0.01 wanted"],
    ]


def test_a_policy_that_is_promoted_already_is_not_compared_with_itself(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    context = folders.context()
    store, source = context.store, context.inputs["policy_checkpoint"]
    with store.building("policy_checkpoint", "f") as workspace:
        (workspace.out / "metrics.json").write_bytes((source / "metrics.json").read_bytes())
        policy = store.publish("policy_checkpoint", "f", workspace, details={"metadata": {}, "inputs": {}})
    context = dataclasses.replace(context, inputs={**context.inputs, "policy_checkpoint": policy.path})
    with store.building(CANDIDATE, "f") as workspace:
        shown = build_candidate(dataclasses.replace(context, out=workspace.out))
        details = {"metadata": shown, "inputs": {"policy_checkpoint": policy.version}}
        candidate = store.publish(CANDIDATE, "f", workspace, details=details)
    Ledger(store).promote(candidate.version, by="ada@lab", why="pilot")
    assert gates_section(context)["rows"][-1]["found"] == [
        f"it is the promoted candidate itself, of policy {policy.version}"
    ]


@pytest.fixture
def demo() -> Config:
    return load_config(DEMO)


def test_the_demo_differs_from_itself_in_nothing(demo: Config) -> None:
    moved = dataclasses.replace(demo, name="other", root="/elsewhere")
    assert differences_section(moved) == {"text": "No setting differs from the demo (configs/demo.yaml).", "rows": []}


def test_what_a_user_changed_is_named_with_both_values(demo: Config, tmp_path: Path) -> None:
    own = SourceConfig(name="own", path=str(tmp_path / "mine.csv"))
    changed = dataclasses.replace(
        demo,
        seed=3,
        prompts=dataclasses.replace(demo.prompts, taxonomy=str(tmp_path / "taxonomy.yaml"), sources=(own,)),
        hardness=dataclasses.replace(demo.hardness, combine="shuffled"),
    )
    found = {name: (before, now) for name, before, now in changed_settings(demo, changed)}
    assert found["seed"] == ("0", "3")
    assert found["prompts.taxonomy"] == ("none", "taxonomy.yaml")
    assert found["hardness.combine"][1] == "shuffled"
    assert found["prompts.sources[unsafe_prompts]"][1] == found["prompts.sources[own]"][0] == "not there"
    assert "path: mine.csv" in found["prompts.sources[own]"][1]
    assert len(found) == 5


def test_secrets_are_hidden(demo: Config) -> None:
    writer = DemonstratorConfig(kind="endpoint", model="m", url="https://user:hunter2@host/v1?api_key=topsecret99")
    changed = dataclasses.replace(demo, demonstrations=DemonstrationsConfig(demonstrator=writer))
    text = str(differences_section(changed)["rows"])
    assert "demonstrations.demonstrator.url" in text
    assert "hunter2" not in text and "topsecret99" not in text


def test_without_the_demos_file_the_defaults_are_named(demo: Config, tmp_path: Path) -> None:
    found = differences_section(demo, tmp_path / "demo.yaml")
    assert "from the defaults, because configs/demo.yaml is not on this machine" in found["text"]
    assert ("seed", "0", "0") not in found["rows"]
    assert [row for row in found["rows"] if row[0] == "completions.prompts"] == [("completions.prompts", "0", "32")]
