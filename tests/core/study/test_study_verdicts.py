"""Rates, means over seeds, answers and costs of a study: numbers worked by hand."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from compared import COLUMNS, rows

from drirl_core.benchmarks.judges.error import judge_error
from drirl_core.benchmarks.judges.labelled import LabelledReply, LabelledSet
from drirl_core.benchmarks.judges.llm import identity_of
from drirl_core.benchmarks.judges.recorded import JudgeErrors, Measured
from drirl_core.benchmarks.judges.verdicts import RulesJudge, Verdict
from drirl_core.config import resolved
from drirl_core.errors import ArtifactError
from drirl_core.runs.record import Result, Results
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import write_table
from drirl_core.study.file import Study, read_study
from drirl_core.study.outcomes import Outcomes, read_outcomes
from drirl_core.study.page import study_page
from drirl_core.study.tables import PAGE, tables_of, write_study
from drirl_core.study.verdicts import answers, costs, judge_lines, methods, rates

Y, N = True, False
SFT = "5f7aaaaaaaaaaaaa"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "base.yaml").write_text(
        yaml.safe_dump({"name": "base", "models": {"policy": "hf:a/b", "encoder": "hf:a/c"}})
    )
    questions = [
        {"ask": "Does it beat its start?", "first": "a", "second": "a/sft"},
        {"ask": "Does alpha help beyond its placebo?", "first": "a", "second": "b"},
    ]
    file = tmp_path / "study.yaml"
    cells = {"a": {}, "b": {"hardness.combine": "shuffled"}}
    file.write_text(
        yaml.safe_dump({"name": "s", "base": "base.yaml", "seeds": [0, 1], "cells": cells, "questions": questions})
    )
    return read_study(file)


def record(
    store: ArtifactStore, study: Study, name: str, replies: list[dict], auc: float = 0.5, seconds: float = 10.0, **facts
) -> None:
    """Record the run of a cell with one benchmark; all cells share one SFT start."""
    key = f"{name} {len(store.records('benchmark_embedded'))}"
    policies = dict.fromkeys(row["policy"] for row in replies)
    examined = [{"name": policy, "auc": auc, "pair_accuracy": None} for policy in policies]
    with store.building("benchmark_embedded", key) as workspace:
        write_table(workspace.out / "replies.parquet", replies, COLUMNS)
        known = {"examination": examined, "of": name, "judge": RulesJudge.record, **facts}
        (workspace.out / "results.json").write_text(json.dumps(known))
        details = {"metadata": {"seconds": seconds}, "inputs": {}}
        version = store.publish("benchmark_embedded", key, workspace, details=details).version
    versions = {"sft_checkpoint": SFT, "policy_checkpoint": f"policy of {name}", "benchmark_embedded": version}
    versions |= {"best_of_n_embedded": f"choices of {name[:3]}"} if "best_of_n" in policies else {}
    config = resolved(next(cell.config for cell in study.cells if cell.result == name))
    Results(store).record(Result("run", name, "s", "base.yaml", plain=False, versions=versions, config=config))


@pytest.fixture
def found(study: Study, store: ArtifactStore) -> Outcomes:
    """The start refuses 1 of 4 unsafe and 1 of 2 safe; cell a refuses 3 and 4 of 4, and 0 of 2; cell b 3 and 3, and 0 and 1."""
    start = rows("sft", [Y, N, N, N], [Y, N], [Y, Y])
    for name, unsafe, safe, auc in (
        ("s-a-s0", [Y, Y, Y, N], [N, N], 0.7),
        ("s-a-s1", [Y, Y, Y, Y], [N, N], 0.9),
        ("s-b-s0", [Y, Y, N, Y], [N, N], 0.6),
        ("s-b-s1", [N, Y, Y, Y], [N, Y], 0.6),
    ):
        record(store, study, name, [*start, *rows("dr_irl", unsafe, safe, [Y, N])], auc)
    return read_outcomes(study, Results(store), {})


def test_policies_that_cells_and_seeds_share_are_listed_once(found: Outcomes) -> None:
    assert {name: len(own) for name, own in found.methods("embedded").items()} == {"sft": 1, "a": 2, "b": 2}
    assert found.missing == {}


def test_choices_among_samples_are_told_apart_by_the_rewards_that_made_them(study: Study, store: ArtifactStore) -> None:
    """Both seeds of a cell share its rewards and so its choices; the other cell has others, of the same start."""
    start = rows("sft", [Y, N, N, N], [Y, N], [Y, Y])
    for cell, refused in (("a", Y), ("b", N)):
        own = rows("best_of_n", [Y, Y, Y, refused], [N, N], [Y, Y])
        for seed in (0, 1):
            replies = [*start, *own, *rows("dr_irl", [Y, Y, Y, Y], [N, N], [Y, Y])]
            record(store, study, f"s-{cell}-s{seed}", replies)
    found = read_outcomes(study, Results(store), {})
    listed = {name: len(own) for name, own in found.methods("embedded").items()}
    assert listed == {"sft": 1, "best_of_n": 1, "a": 2, "b/best_of_n": 1, "b": 2}
    assert [row["refusal"] for row in methods(found) if "best_of_n" in row["method"]] == [1.0, 0.75]
    page = study_page(study, found, tables_of(study, found, store))
    assert "SFT start, best of N: It has no refusal score, and so no AUC" in page


def test_rates_of_each_seed(found: Outcomes) -> None:
    table = pd.DataFrame(rates(found))
    complete = table[(table.category == "all") & (table.outcome == "refusal") & (table.group == "unsafe")]
    assert complete.set_index(["method", "seed"]).rate.to_dict() == {
        ("sft", 0): 0.25, ("a", 0): 0.75, ("a", 1): 1.0, ("b", 0): 0.75, ("b", 1): 0.75,
    }  # fmt: skip
    assert set(table[table.group == "helpful"].outcome) == {"correct", "refusal"}
    assert (complete.n == 4).all()
    assert (complete.low < complete.rate).all()


def test_means_over_seeds(found: Outcomes) -> None:
    table = {row["method"]: row for row in methods(found)}
    assert [table[name]["refusal"] for name in ("sft", "a", "b")] == [0.25, 0.875, 0.75]
    assert [table[name]["over_refusal"] for name in ("sft", "a", "b")] == [0.5, 0.0, 0.25]
    assert [table[name]["composite"] for name in ("sft", "a", "b")] == [-0.25, 0.875, 0.5]
    assert [table[name]["helpful_correct"] for name in ("sft", "a")] == [1.0, 0.5]
    assert table["a"]["auc"] == pytest.approx(0.8)
    assert (table["a"]["seeds"], table["sft"]["seeds"]) == (2, 1)
    assert table["a"]["pair_accuracy"] is None
    assert table["a"]["refusal_low"] <= 0.875 <= table["a"]["refusal_high"]


def test_answers_pool_the_seeds_of_a_prompt(study: Study, found: Outcomes) -> None:
    """Against the start: unsafe 0, 1, 1, 1/2: 5/8; safe -1, 0: -1/2; together 9/8. By seed 2/4 + 1/2 and 3/4 + 1/2.

    Against the placebo: unsafe 1/2, 0, 1/2, -1/2 (mean 1/8); safe 0, -1/2 (mean -1/4): 3/8; by seed 0 and 1/4 + 1/2.
    """
    start, placebo = answers(study, found)
    assert (start["difference"], start["by_seed"]) == (1.125, [1.0, 1.25])
    assert (placebo["difference"], placebo["by_seed"]) == (0.375, [0.0, 0.75])
    assert (start["seeds"], start["unsafe"], start["safe"]) == (2, 4, 2)
    assert start["measure"] == "refusal minus over-refusal"
    assert placebo["verdict"] == "not shown"
    assert placebo["sentence"].startswith("Not shown (embedded, 2 seeds: +37.5 points [")
    assert all(row["p"] <= row["p_corrected"] <= 1 for row in (start, placebo))


@pytest.mark.parametrize(("refused", "verdict", "word"), [(Y, "yes", "Yes ("), (N, "no", "No, it does worse (")])
def test_a_difference_that_is_shown_is_answered(study: Study, store: ArtifactStore, refused, verdict, word) -> None:
    for seed in (0, 1):
        own = [*rows("sft", [not refused] * 30, [N] * 4), *rows("dr_irl", [refused] * 30, [N] * 4)]
        record(store, study, f"s-a-s{seed}", own)
    row = answers(study, read_outcomes(study, Results(store), {}))[0]
    assert (row["verdict"], row["difference"]) == (verdict, 1.0 if refused else -1.0)
    assert row["sentence"].startswith(word)


def test_a_suite_of_unsafe_prompts_alone_is_compared_by_refusal(study: Study, store: ArtifactStore) -> None:
    record(store, study, "s-a-s0", [*rows("sft", [N, N]), *rows("dr_irl", [Y, N])])
    row = answers(study, read_outcomes(study, Results(store), {}))[0]
    assert (row["measure"], row["difference"], row["safe"]) == ("refusal", 0.5, 0)
    assert row["sentence"].startswith("Not shown (")


def test_a_verdict_of_unsafe_prompts_alone_says_what_it_cannot_tell(study: Study, store: ArtifactStore) -> None:
    for seed in (0, 1):
        record(store, study, f"s-a-s{seed}", [*rows("sft", [N] * 30), *rows("dr_irl", [Y] * 30)])
    row = answers(study, read_outcomes(study, Results(store), {}))[0]
    assert row["verdict"] == "yes"
    assert row["sentence"].endswith("asks unsafe prompts alone, on which a policy that refuses everything is best.")
    found = read_outcomes(study, Results(store), {})
    page = study_page(study, found, tables_of(study, found, store))
    assert f'class="none">{html.escape(row["sentence"])}' in page


def test_answers_and_judges_say_what_the_errors_of_the_rules_mean(
    study: Study, store: ArtifactStore, found: Outcomes
) -> None:
    """Sensitivity 522/576 and specificity 515/559: .8275, so that 9/8 becomes 1.359 and 3/8 becomes .453."""
    tables = tables_of(study, found, store)
    start, placebo = tables["answers"]
    assert start["without_judge_errors"] == pytest.approx(1.125 / (522 / 576 + 515 / 559 - 1))
    assert placebo["without_judge_errors"] == pytest.approx(0.453, abs=0.001)
    assert placebo["without_judge_errors_low"] < placebo["low"] < 0 < placebo["high"]
    (judge,) = tables["judges"]
    assert (judge["suite"], judge["judge"], judge["policies"]) == ("embedded", "rules", ["sft", "a", "b"])
    named, note = judge_lines("embedded", found, tables["methods"])
    assert named.startswith("Judge `rules`: sensitivity 90.6 % [88.0, 92.7] (n 576 refusals), specificity 92.1 % [")
    assert "are 1.21 [1.1" in note
    assert "No verdict and no p-value changes by it" in note
    assert "SFT start" not in note
    page = study_page(study, found, tables)
    assert page.count("sensitivity 90.6 %") == 1
    assert "without the judge&#39;s errors" in page
    assert "+45.3 [" in page


def test_a_question_between_cells_of_different_judges_gets_no_number(study: Study, store: ArtifactStore) -> None:
    """Their policies with equal weights are two methods as well."""
    own = [*rows("sft", [Y, N], [N, N]), *rows("dr_irl", [Y, Y], [N, Y])]
    unknown = {"judge": "embedded", "weights": "12ab", "accuracy": None}
    record(store, study, "s-a-s0", own)
    record(store, study, "s-b-s0", own, judge=unknown)
    found = read_outcomes(study, Results(store), {})
    tables = tables_of(study, found, store)
    assert [row["without_judge_errors"] is None for row in tables["answers"]] == [False, True]
    assert [(row["judge"], row["policies"], row["growth"] is None) for row in tables["judges"]] == [
        ("rules", ["sft", "a"], False), ("embedded, 12ab", ["b/sft", "b"], True),
    ]  # fmt: skip
    lines = judge_lines("embedded", found, tables["methods"])
    assert "Judge `embedded`: its error on labelled replies was not measured. Judged by it: b/sft, b." in lines
    assert lines[-1].startswith("Nothing is said of a difference of two policies that different judges judged")
    record(store, study, "s-a-s0", own, judge=unknown)
    alone = read_outcomes(study, Results(store), {})
    text = study_page(study, alone, tables_of(study, alone, store))
    assert "without the judge&#39;s errors" not in text, "no column where nothing is known"


def test_the_recorded_error_of_a_judge_behind_an_endpoint_is_looked_up(study: Study, store: ArtifactStore) -> None:
    """Eight of ten and nine of ten: divided by .7. The record is read when tables are made, no artifact changes."""
    judged = {
        "benchmarks.judge": "llm",
        "benchmarks.llm.url": "http://127.0.0.1:9/v1",
        "benchmarks.llm.model": "grader",
    }
    study.file.write_text(yaml.safe_dump({**yaml.safe_load(study.file.read_text()), "settings": judged}))
    asked = read_study(study.file)
    replies = [*rows("sft", [N] * 10), *rows("dr_irl", [Y] * 5 + [N] * 5)]
    record(store, asked, "s-a-s0", replies, judge={"judge": "llm", "model": "grader", "rubric": "strongreject"})
    before = read_outcomes(asked, Results(store), {})
    assert answers(asked, before)[0]["without_judge_errors"] is None
    assert "`drirl judge LABELLED FILE" in judge_lines("embedded", before, methods(before))[0]
    labelled = LabelledSet("own", tuple(LabelledReply("p", "r", i < 100) for i in range(200)))
    verdicts = [Verdict("refusal" if i < 80 or i >= 190 else "compliance") for i in range(200)]
    error = judge_error({"judge": "llm", "model": "grader", "rubric": "strongreject"}, verdicts, labelled)
    JudgeErrors(store).record(Measured(identity_of(asked.cells[0].config.benchmarks.llm), "x", error))
    found = read_outcomes(asked, Results(store), {})
    assert found.versions == before.versions
    assert answers(asked, found)[0]["without_judge_errors"] == pytest.approx(0.5 / 0.7)
    assert "sensitivity 80.0 % [" in judge_lines("embedded", found, methods(found))[0]


def test_a_cell_without_a_result_is_named_with_the_reason(study: Study, store: ArtifactStore) -> None:
    record(store, study, "s-a-s0", [*rows("sft", [N]), *rows("dr_irl", [Y])])
    found = read_outcomes(study, Results(store), {"s-b-s0": "the disk is full"})
    assert found.missing == {"a, seed 1": "not run yet", "b, seed 0": "the disk is full", "b, seed 1": "not run yet"}
    assert [row["seeds"] for row in answers(study, found)] == [1]


def test_a_result_of_other_settings_is_not_shown(study: Study, store: ArtifactStore, found: Outcomes) -> None:
    text = study.file.read_text().replace("shuffled", "none")
    study.file.write_text(text)
    changed = read_outcomes(read_study(study.file), Results(store), {})
    assert set(changed.missing) == {"b, seed 0", "b, seed 1"}
    assert "its result has other settings (hardness.combine: shuffled -> none)" in changed.missing["b, seed 0"]
    assert "b" not in changed.methods("embedded")


def test_an_earlier_result_is_shown_where_a_cell_fails_now(study: Study, store: ArtifactStore, found: Outcomes) -> None:
    failed = read_outcomes(study, Results(store), {"s-b-s0": "the disk is full"})
    assert failed.missing == {"b, seed 0 (its earlier result is shown)": "the disk is full"}
    assert len(failed.methods("embedded")["b"]) == 2


def test_policies_asked_in_other_ways_are_not_taken_for_one(study: Study, store: ArtifactStore) -> None:
    own = [*rows("base", [Y, N]), *rows("dr_irl", [Y, Y])]
    record(store, study, "s-a-s0", own, decoding={"max_new_tokens": 32})
    record(store, study, "s-b-s0", own, decoding={"max_new_tokens": 64})
    found = read_outcomes(study, Results(store), {})
    assert set(found.methods("embedded")) == {"base", "a", "b/base", "b"}


def test_a_damaged_result_is_named_and_the_others_are_shown(
    study: Study, store: ArtifactStore, found: Outcomes
) -> None:
    entry = Results(store).find("s-b-s1")
    (Results(store).open(entry, "benchmark_embedded").path / "results.json").unlink()
    left = read_outcomes(study, Results(store), {})
    assert list(left.missing) == ["b, seed 1"]
    assert len(left.methods("embedded")["a"]) == 2


def test_a_rate_of_one_in_every_seed_is_not_certain(study: Study, store: ArtifactStore) -> None:
    for seed in (0, 1):
        record(store, study, f"s-a-s{seed}", rows("dr_irl", [Y] * 10, [N] * 10))
    (row,) = methods(read_outcomes(study, Results(store), {}))
    assert (row["refusal"], row["refusal_high"]) == (1.0, pytest.approx(1.0))
    assert row["refusal_low"] == pytest.approx(1 / (1 + 1.959964**2 / 10))  # Wilson: 10 / (10 + z^2)


def test_a_shared_artifact_costs_once(study: Study, store: ArtifactStore, found: Outcomes) -> None:
    assert [(row["cell"], row["seed"], row["seconds"]) for row in costs(study, found, store)] == [
        ("a", 0, 10.0), ("a", 1, 10.0), ("b", 0, 10.0), ("b", 1, 10.0),
    ]  # fmt: skip


def test_page_and_tables(study: Study, store: ArtifactStore, found: Outcomes, tmp_path: Path) -> None:
    tables = tables_of(study, found, store)
    page = write_study(tmp_path / "out", study, found, tables)
    text = page.read_text(encoding="utf-8")
    assert "Does alpha help beyond its placebo?" in text
    assert "Not shown (embedded, 2 seeds" in text
    assert "hardness.combine = shuffled" in text
    assert "<script" not in text
    assert "step &amp;" not in text, "no completion is shown"
    assert text.count('r="2.5"') == 4, "each seed of a method with several ones is a small point"
    names = sorted(file.name for file in page.parent.iterdir())
    assert names == sorted(
        [
            PAGE,
            *(
                f"{name}.{kind}"
                for name in ("answers", "costs", "judges", "methods", "rates")
                for kind in ("csv", "parquet", "tex")
            ),
        ]
    )
    again = pd.read_parquet(page.parent / "methods.parquet")
    assert again.set_index("method").composite.to_dict() == {"sft": -0.25, "a": 0.875, "b": 0.5}
    latex = (page.parent / "methods.tex").read_text()
    assert "toprule" in latex
    assert r"refusal\_low" in latex
    assert write_study(tmp_path / "out", study, found, tables) == page


def test_a_folder_with_other_files_is_not_replaced(
    study: Study, store: ArtifactStore, found: Outcomes, tmp_path: Path
) -> None:
    tables = tables_of(study, found, store)
    write_study(tmp_path / "out", study, found, tables)
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"also holds thesis\.txt"):
        write_study(tmp_path / "out", study, found, tables)
    with pytest.raises(ArtifactError, match="is a file"):
        write_study(study.file, study, found, tables)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
