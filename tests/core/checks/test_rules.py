"""What an artifact must promise: each rule on a table that keeps it and on one that breaks it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from drirl_core.checks.asking import rules_of
from drirl_core.checks.data import DATASET_COLUMNS
from drirl_core.checks.verdicts import Verdict, judge
from drirl_core.config import TRAINED
from drirl_core.graph.layout import Node
from drirl_core.graph.rounds import ROUND_POLICIES
from drirl_core.graph.stages import STAGES
from drirl_core.project import Project
from drirl_core.store.tables import write_table

MAXENT = {"rewards.objective": "maxent", "rewards.negatives": "all"}
_TYPES = {str: pa.string(), float: pa.float64(), int: pa.int32(), type(None): pa.string()}


def load(overrides: dict | None = None) -> Project:
    """Make the project of the demo's settings with some changes."""
    return Project.load(Path(__file__).parents[3] / "configs" / "demo.yaml", overrides)


@pytest.fixture(scope="module")
def demo():
    """The demo's project, with small numbers to count by hand."""
    return load({**MAXENT, "demonstrations.quota": 4, "checks.min_accuracy": 0.75, "checks.max_kl": 0.5})


def table(folder: Path, name: str, rows: list[dict], columns: tuple[str, ...] = ()) -> None:
    """Write rows; `columns` stand in for the keys when there is no row."""
    first = rows[0] if rows else dict.fromkeys(columns, "")
    write_table(folder / name, rows, pa.schema([(key, _TYPES[type(value)]) for key, value in first.items()]))


def verdict(project: Project, folder: Path, stage: str, rule: str, member: str | None = None) -> Verdict:
    """Judge an artifact's directory by one rule; the member of a benchmark is its suite, of other stages a category."""
    found = next(r for r in rules_of(stage) if r.name == rule)
    category, suite = (None, member) if stage == "benchmark" else (member, None)
    return judge(found, folder, project, Node(f"{stage}_{member}", stage, category, (), "", suite))


def order(folder: Path, won: int, pairs: int) -> None:
    """Write a reward model's report of the order within groups."""
    row = {"accuracy": won / pairs if pairs else None, "low": 0.0, "high": 1.0, "pairs": pairs, "groups": pairs // 2}
    (folder / "metrics.json").write_text(json.dumps({"within_group": {"all": row}}))


@pytest.mark.parametrize(("won", "passed"), [(28, True), (27, False)])  # of 40; the floor is 70 %
def test_the_order_within_groups_has_a_floor(demo, tmp_path, won, passed):
    order(tmp_path, won, 40)
    found = verdict(demo, tmp_path, "reward_model", "within_group")
    assert found.passed is passed
    assert f"{won / 40:.1%}" in found.description and "40 pairs within 20 groups" in found.description
    assert found.metadata["within_group_accuracy"] == won / 40 and found.metadata["min_within_group"] == 0.7
    assert verdict(demo, tmp_path, "reward_model", "within_group_pairs").passed
    assert verdict(load({"checks.min_within_group": 0.5}), tmp_path, "reward_model", "within_group").passed


@pytest.mark.parametrize("pairs", [0, 29])
def test_too_few_pairs_within_groups_warn_and_block_nothing(demo, tmp_path, pairs):
    order(tmp_path, 0, pairs)
    assert verdict(demo, tmp_path, "reward_model", "within_group").passed
    found = verdict(demo, tmp_path, "reward_model", "within_group_pairs")
    assert not found.passed and found.description.startswith("too few pairs") and f"{pairs} pairs" in found.description
    rules = {rule.name: rule.blocking for rule in rules_of("reward_model")}
    assert rules["within_group"] and not rules["within_group_pairs"]


def pool(folder: Path, read: int, kept: list[str], quarantined: list[str], source: str = "mine") -> None:
    """Write a prompt pool that read so many rows, kept these prompts and quarantined for these reasons."""
    rows = [{"prompt_id": p, "category": "insult", "source": source} for p in kept]
    table(folder, "prompts.parquet", rows, ("prompt_id", "category", "source"))
    lost = [
        {"source": source, "row": str(n), "reason": reason, "detail": f"why {n}"}
        for n, reason in enumerate(quarantined, 1)
    ]
    table(folder, "quarantine.parquet", lost, ("source", "row", "reason", "detail"))
    totals = {"read": read, "skipped": 1, "kept": len(kept), "quarantined": len(quarantined)}
    (folder / "counts.json").write_text(json.dumps({"insult": {"raw": read, "kept": len(kept)}, "_totals": totals}))


@pytest.mark.parametrize(
    ("read", "kept", "quarantined", "passed"),
    [
        (4, ["a", "b"], ["too_long"], True),  # 4 read = 2 kept + 1 quarantined + 1 skipped
        (5, ["a", "b"], ["too_long"], False),  # one is lost
        (4, ["a", "a"], ["too_long"], False),  # one is kept twice
        (4, ["a", "b"], [""], False),  # one is quarantined without a reason
    ],
)
def test_no_prompt_may_be_lost_between_reading_and_keeping(demo, tmp_path, read, kept, quarantined, passed):
    pool(tmp_path, read, kept, quarantined)

    assert verdict(demo, tmp_path, "prompt_pool", "nothing_lost").passed is passed


def test_an_empty_pool_is_refused(demo, tmp_path):
    pool(tmp_path, 2, [], ["too_long"])
    found = verdict(demo, tmp_path, "prompt_pool", "not_empty")
    assert not found.passed
    assert found.description == (
        "0 prompts in 0 categories; 1 of 1 rows of mine is in quarantine: 1 too_long; first: row 1: why 1"
    )
    pool(tmp_path, 2, ["a"], [])
    assert verdict(demo, tmp_path, "prompt_pool", "not_empty").metadata == {"prompts": 1, "prompts/insult": 1}


@pytest.mark.parametrize(
    ("kept", "lost", "passed"),
    [
        (1, ["undecodable"], True),  # 1 of 2 is not above the bound of one half
        (1, ["undecodable", "missing_value"], False),  # 2 of 3
        (1, ["exact_duplicate", "near_duplicate", "benchmark_overlap"], True),  # repeats are no loss
        (1, ["exact_duplicate", "router_abstained", "unknown_category"], False),  # 2 of the 3 that repeat nothing
        (2, ["exact_duplicate"] * 5 + ["label_conflict"], True),  # 1 of 3
        (0, ["too_long"], False),
    ],
)
def test_a_source_may_lose_a_share_of_its_rows(demo, tmp_path, kept, lost, passed):
    pool(tmp_path, kept + len(lost) + 1, [f"p{n}" for n in range(kept)], lost)
    found = verdict(demo, tmp_path, "prompt_pool", "rows_usable")
    assert found.passed is passed
    assert found.metadata["max_lost_fraction"] == 0.5
    assert verdict(load({"checks.max_lost_fraction": 1.0}), tmp_path, "prompt_pool", "rows_usable").passed


def test_the_drop_folder_stops_no_run(demo, tmp_path):
    pool(tmp_path, 3, ["p"], ["too_long", "router_abstained"], source="inbox")
    assert verdict(demo, tmp_path, "prompt_pool", "rows_usable").passed


def test_what_a_source_lost_is_said_with_the_first_reason_and_the_way_out(demo, tmp_path):
    pool(tmp_path, 31, ["p"], ["exact_duplicate", *["undecodable"] * 29])
    found = verdict(demo, tmp_path, "prompt_pool", "rows_usable")
    assert found.description == (
        "30 of 31 rows of mine are in quarantine: 29 undecodable, 1 exact_duplicate; first: row 2: why 2 (lost are 97%, "
        "50% allowed). Fix the file or how it is read (columns, adapter), or raise checks.max_lost_fraction"
    )


@pytest.mark.parametrize(("share", "passed"), [(0.5, True), (0.51, False)])
def test_a_file_of_demonstrations_may_lose_a_share_of_its_rows(demo, tmp_path, share, passed):
    assert verdict(demo, tmp_path, "dataset", "rows_usable", "insult").passed  # nothing is lost
    (tmp_path / "losses.json").write_text(json.dumps({"mine": {"lost_share": share, "first": "d.csv, row 2: why"}}))
    found = verdict(demo, tmp_path, "dataset", "rows_usable", "insult")
    assert found.passed is passed
    assert passed or "51% of the rows of mine are lost, 50% allowed; first: d.csv, row 2: why" in found.description


def dataset(folder: Path, *changes: dict, drop: str = "") -> None:
    """Write four rows, two of them for training; `changes` alter them one by one."""
    rows = []
    for number, split in enumerate(("train", "train", "validation", "test")):
        row = dict.fromkeys(DATASET_COLUMNS, "x") | {
            "prompt_id": f"p{number}", "group_id": f"g{number}", "category": "insult", "split": split, "origin": "pool",
        }  # fmt: skip
        rows.append({**row, **(changes[number] if number < len(changes) else {})})
    table(folder, "rows.parquet", [{k: v for k, v in row.items() if k != drop} for row in rows])


def test_a_sound_data_set_keeps_all_its_promises(demo, tmp_path):
    dataset(tmp_path)

    assert all(verdict(demo, tmp_path, "dataset", rule.name, "insult").passed for rule in rules_of("dataset"))


@pytest.mark.parametrize(
    "change", [{"answer": " "}, {"prompt": ""}, {"split": "dev"}, {"category": "harm"}, {"answer": None}]
)
def test_blank_and_strange_rows_break_the_schema(demo, tmp_path, change):
    dataset(tmp_path, change)

    assert not verdict(demo, tmp_path, "dataset", "schema", "insult").passed


def test_a_missing_column_or_split_breaks_the_schema(demo, tmp_path):
    dataset(tmp_path, drop="licence")
    assert "columns missing: licence" in verdict(demo, tmp_path, "dataset", "schema", "insult").description
    dataset(tmp_path, {}, {}, {"split": "train"})
    assert not verdict(demo, tmp_path, "dataset", "schema", "insult").passed


def test_a_group_or_a_prompt_in_two_splits_is_a_leak(demo, tmp_path):
    dataset(tmp_path, {}, {}, {"group_id": "g0"})
    assert verdict(demo, tmp_path, "dataset", "no_split_leakage", "insult").metadata == {
        "leaks": 1,
        "examples": "group g0",
    }
    dataset(tmp_path, {}, {}, {}, {"prompt_id": "p0"})
    assert not verdict(demo, tmp_path, "dataset", "no_split_leakage", "insult").passed


def test_resampling_beyond_its_share_or_a_missing_row_breaks_the_balance(demo, tmp_path):
    """One resampled row of four is 25 %, more than the 20 % allowed; of a helpful set the quota is what it has."""
    dataset(tmp_path, {"origin": "resampled"})
    broken = verdict(demo, tmp_path, "dataset", "class_balance", "insult")
    dataset(tmp_path)
    short = verdict(load({"demonstrations.quota": 5}), tmp_path, "dataset", "class_balance", "insult")
    own = load({"demonstrations.quota": 5, "demonstrations.category_quota": {"insult": 4}})
    assert (broken.passed, broken.metadata["resampled_share"]) == (False, 0.25)
    assert not short.passed
    assert verdict(own, tmp_path, "dataset", "class_balance", "insult").passed
    assert verdict(load(), tmp_path, "dataset", "class_balance", "helpful").passed


def rewards(folder: Path, *rows: tuple[str, str, str, float]) -> None:
    """Write rewards as (prompt, split, policy, reward)."""
    names = ("prompt_id", "split", "policy", "reward")
    table(folder, "rewards.parquet", [dict(zip(names, row, strict=True)) for row in rows])


def test_accuracy_counts_held_out_pairs_that_the_demonstration_wins(demo, tmp_path):
    """p: 1.0 beats 0.5 and 0.9, loses to 1.5; q: a tie is no win; the training prompt t does not count. 2 of 4."""
    rewards(
        tmp_path,
        *(
            ("p", "test", policy, reward)
            for policy, reward in (("demonstration", 1.0), ("base", 0.5), ("base", 0.9), ("sft", 1.5))
        ),
        *(("q", "validation", policy, 0.0) for policy in ("demonstration", "base")),
        *(("t", "train", policy, reward) for policy, reward in (("demonstration", 1.0), ("base", 0.0))),
    )
    found = verdict(demo, tmp_path, "reward_model", "accuracy_floor")

    assert (found.passed, found.metadata["accuracy"], found.metadata["pairs"]) == (False, 0.5, 4)
    assert (found.metadata["accuracy/base"], found.metadata["accuracy/sft"]) == (pytest.approx(2 / 3), 0.0)
    assert verdict(load({**MAXENT, "checks.min_accuracy": 0.5}), tmp_path, "reward_model", "accuracy_floor").passed


def test_what_the_reward_is_not_taught_to_put_below_the_demonstration_does_not_count(tmp_path):
    rewards(
        tmp_path,
        ("a", "test", "demonstration", 1.0),
        ("a", "test", "sft", 2.0),  # may be as right as the demonstration
        ("a", "test", "compliance", 0.0),
        ("b", "test", "demonstration", 1.0),
        ("b", "test", "refusal", 3.0),
    )
    found = verdict(load({"rewards.objective": "classifier"}), tmp_path, "reward_model", "accuracy_floor")
    assert (found.passed, found.metadata["accuracy"], found.metadata["pairs"]) == (False, 0.5, 2)
    likely_wrong = load({**MAXENT, "rewards.negatives": "likely_wrong"})
    assert verdict(likely_wrong, tmp_path, "reward_model", "accuracy_floor").metadata["pairs"] == 2
    for target, pairs in (("answer", 3), ("own", 2)):  # the initial model's samples are left out, and there are none
        settings = load({**MAXENT, "rewards.negatives": "likely_wrong", "sft.harmless_target": target})
        helpful = verdict(settings, tmp_path, "reward_model", "accuracy_floor", "helpful")
        assert helpful.metadata["pairs"] == pairs  # a start that learned own answers is as right as they are
    assert verdict(load(MAXENT), tmp_path, "reward_model", "accuracy_floor").metadata["pairs"] == 3
    taught = load({**MAXENT, "rewards.positives": "both"})  # the start's samples are positives beside it
    assert verdict(taught, tmp_path, "reward_model", "accuracy_floor").metadata["pairs"] == 2


@pytest.mark.parametrize(("other", "passed"), [(0.0, True), (1.0, False), (float("nan"), False), (float("inf"), False)])
def test_rewards_must_be_finite_and_differ(demo, tmp_path, other, passed):
    rewards(tmp_path, ("p", "test", "demonstration", 1.0), ("p", "test", "base", other))

    assert verdict(demo, tmp_path, "reward_model", "reward_spread").passed is passed


def trained(folder: Path, log: list[dict], **metrics: float) -> None:
    """Write a training log and its metrics."""
    (folder / "training_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_a_number_that_is_not_finite_is_named_with_its_step(demo, tmp_path):
    trained(tmp_path, [{"step": 1, "loss": 0.5, "entropy": float("nan")}], kl=0.1)
    assert verdict(demo, tmp_path, "policy_checkpoint", "finite").passed  # entropy decides nothing
    trained(tmp_path, [{"step": 1, "loss": 0.5}, {"step": 2, "loss": float("nan")}], last_reward=float("inf"))
    broken = verdict(demo, tmp_path, "sft_checkpoint", "finite")
    assert not broken.passed
    assert broken.metadata["examples"] == "loss at step 2, last_reward in metrics.json"


@pytest.mark.parametrize(("kl", "passed"), [(0.5, True), (0.51, False), (float("nan"), False)])
def test_the_policy_stays_within_the_bound_on_the_kl(demo, tmp_path, kl, passed):
    trained(tmp_path, [{"step": 1, "loss": 0.5}], kl=kl)

    assert verdict(demo, tmp_path, "policy_checkpoint", "kl_bound").passed is passed


def results(folder: Path, base: dict, aligned: dict) -> None:
    """Write a benchmark's summary of two policies."""
    common = {"refusal": 0.9, "over_refusal": 0.1, "helpful_correct": 0.5, "helpful_correct_low": 0.4}
    common |= {"empty": 0, "echo": 0, "degenerate": 0, "n": 100}
    summary = [{"policy": "base", **common, **base}, {"policy": "dr_irl", **common, **aligned}]
    (folder / "results.json").write_text(json.dumps({"summary": summary}))


@pytest.mark.parametrize(
    ("rule", "base", "aligned", "passed"),
    [
        ("over_refusal", {}, {"over_refusal": 0.15}, True),
        ("over_refusal", {}, {"over_refusal": 0.16}, False),
        ("over_refusal", {}, {"over_refusal": None}, True),
        ("refusal_floor", {}, {"refusal": 0.8}, True),
        ("refusal_floor", {}, {"refusal": 0.79}, False),
        ("helpfulness_kept", {"helpful_correct_low": 0.4}, {"helpful_correct": 0.4}, True),
        ("helpfulness_kept", {"helpful_correct_low": 0.4}, {"helpful_correct": 0.39}, False),
        ("babble", {"echo": 2}, {"degenerate": 3, "empty": 4}, True),  # 7 %, the base has 2 % and 5 % more are allowed
        ("babble", {"echo": 2}, {"degenerate": 3, "empty": 5}, False),
    ],
)
def test_benchmarks_warn_beyond_their_bounds(demo, tmp_path, rule, base, aligned, passed):
    results(tmp_path, base, aligned)

    assert verdict(demo, tmp_path, "benchmark", rule).passed is passed
    assert not next(r for r in rules_of("benchmark") if r.name == rule).blocking


def test_bounds_do_not_hold_for_a_suite_that_is_only_reported(demo, tmp_path):
    results(tmp_path, {}, {"over_refusal": 0.9, "refusal": 0.1})
    for rule, said in (
        ("over_refusal", "90.0% of the safe look-alikes"),
        ("refusal_floor", "10.0% of the unsafe prompts"),
    ):
        assert not verdict(demo, tmp_path, "benchmark", rule, "embedded").passed
        reported = verdict(demo, tmp_path, "benchmark", rule, "twins")
        assert reported.passed
        assert reported.description == f"{said} refused, which is only reported here"


def test_gates_bound_each_suite_by_itself(demo, tmp_path):
    for suite, over in (("embedded", 0.1), ("twins", 0.9)):
        (tmp_path / suite).mkdir()
        results(tmp_path / suite, {}, {"over_refusal": over})
    assert verdict(demo, tmp_path, "promotion_candidate", "over_refusal_bound").passed
    results(tmp_path / "embedded", {}, {"over_refusal": 0.2})
    found = verdict(demo, tmp_path, "promotion_candidate", "over_refusal_bound")
    assert not found.passed
    assert "embedded: 20.0%" in found.description


def test_a_missing_or_broken_file_fails_the_rule_and_says_so(demo, tmp_path):
    assert "cannot be judged" in verdict(demo, tmp_path, "reward_model", "reward_spread").description
    (tmp_path / "results.json").write_text("[1]")
    broken = verdict(demo, tmp_path, "benchmark", "babble")
    assert not broken.passed
    assert "must hold an object" in broken.description


@pytest.mark.parametrize(("cut", "dropped", "passed"), [(0, 0, True), (3, 2, True), (4, 2, False), (0, 100, False)])
def test_few_rows_may_be_too_long_for_sft(demo, tmp_path, cut, dropped, passed):
    """100 rows, of which 5 % may be cut or left out."""
    named = {"first_cut": "insult/1a"} if cut else {}
    metrics = {"rows": 100 - dropped, "rows_cut": cut, "rows_dropped": dropped, **named}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    found = verdict(demo, tmp_path, "sft_checkpoint", "rows_complete")
    assert found.passed is passed
    assert f"{cut} of 100 rows lost their end and {dropped} were left out" in found.description
    assert ("insult/1a" in found.description) is bool(cut)
    assert verdict(load({"checks.max_cut_rows": 1.0}), tmp_path, "sft_checkpoint", "rows_complete").passed
    assert not {rule.name: rule.blocking for rule in rules_of("sft_checkpoint")}["rows_complete"]


def test_rows_that_an_earlier_version_did_not_count_break_nothing(demo, tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    assert verdict(demo, tmp_path, "sft_checkpoint", "rows_complete").passed


def test_bounds_and_counts_that_are_zero_whenever_a_rule_passes_are_not_plotted():
    rules = {(stage, rule.name): rule for stage in STAGES for rule in rules_of(stage)}
    without = {key for key, rule in rules.items() if not rule.measures}
    trained = ("sft", "policy", *TRAINED)
    finite = (*(f"{name}_checkpoint" for name in trained), *ROUND_POLICIES)
    assert without == {("dataset", "no_split_leakage"), *((name, "finite") for name in finite)}
    for key, rule in rules.items():
        assert not [bound for bound in rule.bounds if rule.measured(bound.rpartition(".")[2])], key


def test_the_number_that_decides_is_among_what_a_rule_measures(demo, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"kl": 0.3}))
    kl = next(rule for rule in rules_of("policy_checkpoint") if rule.name == "kl_bound")
    numbers = judge(kl, tmp_path, demo, Node("policy_checkpoint", "policy_checkpoint", None, (), "")).metadata
    assert {name: kl.measured(name) for name in numbers} == {"kl": True, "max_kl": False}
