"""Training in stages: the order by hand, boundaries, the renewed reference, and a run that is killed."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killing import Killed, KillingReporter
from safetensors.torch import load_file, save_file

from drirl_core.config import PolicyConfig
from drirl_core.errors import ArtifactError, ConfigError, DataError
from drirl_core.graph.layout import build_graph
from drirl_core.graph.versions import code_version
from drirl_core.hardness.stage import SCHEMA
from drirl_core.policy.baselines import build_grpo_checkpoint, build_staged_competence_checkpoint
from drirl_core.policy.grpo import build_policy_checkpoint
from drirl_core.policy.schedule import schedule, training_prompts
from drirl_core.policy.staging import FILE, first_steps, hardness_of_prompts, in_stages
from drirl_core.policy.training import read_log
from drirl_core.store.tables import read_table, write_table

pytestmark = pytest.mark.usefixtures("no_curves")
STAGED = {"policy.order": "hardness", "policy.stages": 2, "policy.renew_reference": True, "hardness.combine": "none"}


def _rows(category: str, names: str, kind: str = "unsafe") -> list[dict[str, Any]]:
    return [{"prompt_id": name, "category": category, "kind": kind} for name in names]


def _ids(part: list[dict[str, Any]]) -> str:
    return "".join(row["prompt_id"] for row in part)


# --------------------------------------------------------------------------------------------------------------- order


def test_prompts_are_cut_by_hardness_by_hand() -> None:
    """Seven prompts in three stages: places 0 to 2, 3 and 4, 5 and 6, because floor(r 3 / 7) is 0 0 0 1 1 2 2."""
    hardness = dict(zip("gfedcba", range(7), strict=True))  # g is the easiest
    parts = in_stages({"insult": _rows("insult", "abcdefg"), "helpful": _rows("helpful", "xy")}, 3, hardness)
    assert [_ids(part["insult"]) for part in parts] == ["gfe", "dc", "ba"]
    assert all(set(part) == {"insult"} for part in parts)


def test_equally_hard_prompts_are_ordered_by_their_ids() -> None:
    hardness = {"b": 0.5, "d": 0.5, "a": 0.5, "c": 0.1}
    for names in ("abcd", "dcba", "bdac"):
        parts = in_stages({"insult": _rows("insult", names)}, 2, hardness)
        assert [_ids(part["insult"]) for part in parts] == ["ca", "bd"]


@pytest.mark.parametrize(
    ("steps", "parts", "first"),
    [(24, 4, (0, 6, 12, 18)), (7, 3, (0, 3, 5)), (3, 3, (0, 1, 2)), (5, 1, (0,)), (10, 4, (0, 3, 5, 8))],
)
def test_the_first_step_of_each_stage(steps: int, parts: int, first: tuple[int, ...]) -> None:
    assert first_steps(steps, parts) == first


@given(steps=st.integers(1, 60), parts=st.integers(1, 60), size=st.integers(1, 90))
def test_stages_are_equal_parts(steps: int, parts: int, size: int) -> None:
    if parts <= steps:
        first = (*first_steps(steps, parts), steps)
        lengths = [after - before for before, after in itertools.pairwise(first)]
        assert max(lengths) - min(lengths) <= 1
    if parts <= size:
        rows = [{"prompt_id": str(i)} for i in range(size)]
        cut = in_stages({"a": rows}, parts, {row["prompt_id"]: 1.0 for row in rows})
        sizes = [len(part["a"]) for part in cut]
        assert sum(sizes) == size and max(sizes) - min(sizes) <= 1


def test_each_stage_draws_from_its_own_part_and_harmless_prompts_from_all() -> None:
    """Six steps of four in two stages: two unsafe prompts per step, six per stage, three of each category."""
    prompts = {
        "insult": _rows("insult", "abcdef"),
        "mental_health": _rows("mental_health", "ghijkl"),
        "helpful": _rows("helpful", "uvwxyz", "general"),
    }
    hardness = {name: float(place) for place, name in enumerate("abcdefghijkl")}
    settings = PolicyConfig(steps=6, prompts_per_step=4, helpful_share=0.5, order="hardness", stages=2)
    rows = schedule(prompts, settings, 3, hardness)
    halves = [[row for row in rows[start : start + 12]] for start in (0, 12)]
    for half, (easy, other) in zip(halves, [("abc", "ghi"), ("def", "jkl")], strict=True):
        shown = Counter(row["prompt_id"] for row in half if row["category"] != "helpful")
        assert shown == dict.fromkeys(easy + other, 1)
        assert all(Counter(row["category"] for row in half[s : s + 4])["helpful"] == 2 for s in (0, 4, 8))
    assert Counter(row["prompt_id"] for row in rows if row["category"] == "helpful") == dict.fromkeys("uvwxyz", 2)


def test_categories_go_on_in_turn_over_the_end_of_a_stage() -> None:
    """One unsafe prompt per step: with three steps in a stage the second stage begins with the other category."""
    prompts = {"a": _rows("a", "pq"), "b": _rows("b", "rs")}
    hardness = {"p": 0.0, "q": 1.0, "r": 0.0, "s": 1.0}
    settings = PolicyConfig(steps=6, prompts_per_step=1, helpful_share=0.0, order="hardness", stages=2)
    assert _ids(schedule(prompts, settings, 0, hardness)) == "prp" + "sqs"


def test_hardness_is_the_order_of_alpha_within_a_category(contexts: Any, tmp_path: Path) -> None:
    """It is read from the column delta, which is there whatever `hardness.combine` makes of it."""
    context = contexts.make("run", STAGED)
    rows = read_table(contexts.inputs["hardness_insult"] / "hardness.parquet")
    for place, row in enumerate(rows):
        row |= {"delta": 0.9 - 0.1 * place, "alpha": 1.0}
    write_table(tmp_path / "hardness.parquet", rows, SCHEMA)
    found = hardness_of_prompts(contexts.make("other", STAGED, inputs={**contexts.inputs, "hardness_insult": tmp_path}))
    assert [found[row["prompt_id"]] for row in rows] == pytest.approx([0.9 - 0.1 * place for place in range(len(rows))])
    assert {row["prompt_id"] for row in training_prompts(context)["helpful"]}.isdisjoint(found)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy.stages": 0}, r"policy\.stages is 0; 1 \(no stages\) or more"),
        ({"policy.stages": 3}, r"policy\.stages is 3, but policy\.order is 'random' .* nothing is done in stages"),
        ({"policy.order": "hardness"}, r"policy\.order is 'hardness', but policy\.stages is 1; set it to 2 or more"),
        ({"policy.renew_reference": True}, r"policy\.renew_reference is true, but policy\.stages is 1"),
        ({**STAGED, "policy.stages": 5}, r"policy\.stages is 5 and policy\.steps 4; a stage needs at least one step"),
        ({**STAGED, "policy.kl": 0.0}, r"policy\.kl is 0 and there is no reference"),
        (
            {**STAGED, "completions.prompts": 3},
            r"policy\.order is 'hardness', which needs .* completions\.prompts to 0",
        ),
        (
            {"baselines": ["staged_competence"], "completions.prompts": 3},
            r"baselines has staged_competence, which need",
        ),
        ({"baselines": ["staged_competence"], "policy.kl": 0.0}, r"renews the reference, but policy\.kl is 0"),
        ({"baselines": ["staged_competence"], "policy.steps": 3}, r"4 stages of at least a step.*raise policy\.steps"),
        ({"policy.order": "easy"}, r"policy\.order"),
    ],
)
def test_settings_that_cannot_be(contexts: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contexts.config(settings)


def test_a_prompt_without_hardness_and_too_few_prompts_are_named() -> None:
    prompts = {"insult": _rows("insult", "abc")}
    with pytest.raises(
        DataError, match=r"2 of 3 training prompts of insult have no hardness, such as b.*hardness_insul"
    ):
        in_stages(prompts, 2, {"a": 1.0})
    with pytest.raises(DataError, match=r"insult has 3 training prompts, which cannot be cut into 4 stages; lower"):
        in_stages(prompts, 4, dict.fromkeys("abc", 1.0))


# ------------------------------------------------------------------------------------------------------------ versions


def _versions(config: Any) -> dict[str, str]:
    return {name: code_version(node, config) for name, node in build_graph(config).nodes.items()}


def test_stages_make_stale_what_is_trained_in_stages(contexts: Any) -> None:
    before = _versions(contexts.config())
    assert before == _versions(contexts.config({"policy.order": "random", "policy.stages": 1}))
    staged = _versions(contexts.config({name: STAGED[name] for name in STAGED if name.startswith("policy")}))
    assert {name for name in before if staged[name] != before[name]} == {"policy_checkpoint"}
    rounds = {"rewards.rounds": 2}
    one, other = _versions(contexts.config(rounds)), _versions(contexts.config({**rounds, **STAGED}))
    assert one["round_1_policy"] == other["round_1_policy"]
    named = {"baselines": ["grpo", "staged_competence"]}
    compared = _versions(contexts.config({**named, "policy.stages": 2, "policy.order": "hardness"}))
    plain = _versions(contexts.config(named))
    assert {name for name in plain if plain[name] != compared[name]} == {
        "policy_checkpoint",
        "grpo_checkpoint",
        "staged_competence_checkpoint",  # two stages instead of four
    }


# ----------------------------------------------------------------------------------------------------------- reference


@pytest.mark.long
@pytest.mark.parametrize("rank", [2, 0])
def test_the_policy_is_the_reference_from_the_first_step_of_a_stage(contexts: Any, rank: int) -> None:
    """Four steps in two stages: the KL is 0 at the steps 1 and 3, where policy and reference are the same."""
    settings = {"policy.lora": {"rank": rank}, "policy.save_steps": 4}
    context, plain = contexts.make("staged", {**STAGED, **settings}), contexts.make("plain", settings)
    build_policy_checkpoint(context)
    kl = [row["kl"] for row in read_log(context.out / "training_log.jsonl")]
    build_grpo_checkpoint(plain)
    fixed = [row["kl"] for row in read_log(plain.out / "training_log.jsonl")]
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[2] == pytest.approx(0, abs=1e-6)
    assert kl[1] > 1e-5 and kl[3] > 1e-5
    assert fixed[2] > 1e-5  # the start stays the reference
    assert any("the policy after step 2 is the reference from here on" in line for line in context.reporter.lines)
    names = set(load_file(context.out / "model.safetensors"))
    assert names == set(load_file(plain.out / "model.safetensors"))  # the reference is no part of the policy


@pytest.mark.long
def test_until_it_is_renewed_the_reference_is_the_start(contexts: Any) -> None:
    """A stage that begins after the last step that is compared changes no number: the copy of the adapter is the start."""
    settings = {"policy.steps": 4, "policy.save_steps": 4, "hardness.combine": "none"}
    staged = contexts.make("staged", {**settings, "policy.renew_reference": True, "policy.stages": 2})
    plain = contexts.make("plain", settings)
    for context in (staged, plain):
        build_policy_checkpoint(context)
    one, other = (read_log(context.out / "training_log.jsonl") for context in (staged, plain))
    for name in ("loss", "kl", "reward", "grad_norm"):
        assert [row[name] for row in one[:2]] == [row[name] for row in other[:2]]
    assert one[2]["kl"] != other[2]["kl"]


@pytest.mark.long
def test_with_several_passes_a_stage_begins_with_a_generation(contexts: Any) -> None:
    """Two passes over each of four generations: the second stage begins at step 4 of 8."""
    context = contexts.make("passes", {**STAGED, "policy.num_iterations": 2, "policy.save_steps": 4})
    build_policy_checkpoint(context)
    kl = [row["kl"] for row in read_log(context.out / "training_log.jsonl")]
    assert kl[4] == pytest.approx(0, abs=1e-6) and min(kl[3], kl[5]) > 1e-6
    assert any("the policy after step 4 is the reference" in line for line in context.reporter.lines)


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.long
@pytest.mark.parametrize("rank", [2, 0])
def test_a_killed_run_goes_on_with_the_reference_of_its_stage(contexts: Any, rank: int) -> None:
    """The reference is renewed after step 3; the run is killed in step 5, behind the checkpoint of step 4."""
    settings = {**STAGED, "policy.lora": {"rank": rank}, "policy.steps": 6, "policy.save_steps": 2, "policy.kl": 0.5}
    undisturbed = contexts.make("undisturbed", settings)
    build_policy_checkpoint(undisturbed)
    with pytest.raises(Killed):
        build_policy_checkpoint(contexts.make("killed", settings, reporter=KillingReporter(5)))
    resumed = contexts.make("killed", settings)
    kept = load_file(resumed.scratch / "checkpoints" / "checkpoint-4" / FILE)
    assert kept and (rank == 0 or all(".default." in name for name in kept))
    build_policy_checkpoint(resumed)
    assert any("GRPO resumes from checkpoint-4" in line for line in resumed.reporter.lines)
    one, other = (load_file(context.out / "model.safetensors") for context in (undisturbed, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [read_log(context.out / "training_log.jsonl") for context in (undisturbed, resumed)]
    assert [row["kl"] for row in logs[0]] == [row["kl"] for row in logs[1]]


@pytest.mark.long
def test_a_checkpoint_with_another_reference_is_no_other_run(contexts: Any) -> None:
    """The stored reference is what a resumed run uses: without it, it cannot go on; with other weights, its KL differs."""
    settings = {**STAGED, "policy.steps": 6, "policy.save_steps": 2, "policy.kl": 0.5}
    with pytest.raises(Killed):
        build_policy_checkpoint(contexts.make("killed", settings, reporter=KillingReporter(5)))
    file = contexts.make("killed", settings).scratch / "checkpoints" / "checkpoint-4" / FILE
    weights = load_file(file)
    file.unlink()
    with pytest.raises(
        ArtifactError, match=r"checkpoint-4 cannot be resumed .*; delete it to start from the one before"
    ):
        build_policy_checkpoint(contexts.make("killed", settings))
    save_file({name: weight + 0.5 for name, weight in weights.items()}, file)
    context = contexts.make("killed", settings)
    build_policy_checkpoint(context)
    assert read_log(context.out / "training_log.jsonl")[4]["kl"] > 1e-2


# ------------------------------------------------------------------------------------------------------------ baseline


@pytest.mark.long
def test_the_baseline_is_grpo_in_four_stages(contexts: Any) -> None:
    baseline = contexts.make("baseline", {"policy.steps": 4, "policy.save_steps": 4})
    same = contexts.make("same", {**STAGED, "policy.stages": 4, "policy.steps": 4, "policy.save_steps": 4})
    shown = build_staged_competence_checkpoint(baseline)
    build_policy_checkpoint(same)
    assert (shown["alpha_min"], shown["alpha_max"]) == (1.0, 1.0)
    one, other = (load_file(context.out / "model.safetensors") for context in (baseline, same))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert max(row["kl"] for row in read_log(baseline.out / "training_log.jsonl")) == pytest.approx(0, abs=1e-6)
    assert "renewed at every stage" in (baseline.out / "README.md").read_text(encoding="utf-8")
