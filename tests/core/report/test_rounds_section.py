"""The report of several rounds: the numbers of both tables by hand, and none of it with one round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_inputs import CATEGORIES, ReportFolders

from drirl_core.report.rounds_section import rounds_section
from drirl_core.report.stage import build_report

REFUSES = {"base": (4, 2), "sft": (20, 8), "dr_irl": (36, 10)}


def _order(accuracy: float | None, pairs: int, groups: int, policy: str | None = None) -> dict[str, Any]:
    row = {"accuracy": accuracy, "low": 0.1, "high": 0.9, "pairs": pairs, "groups": groups}
    return row if policy is None else {**row, "policy": policy}


def _rewards(folders: ReportFolders, stage: str, order: list[dict[str, Any]], newest: Any = None) -> None:
    for category, row in zip((*CATEGORIES, "helpful"), order, strict=True):
        within = {"all": row, "by_kind": {}, "start": {**row, "policy": "sft"}}
        policies = ["base", "sft", "corrupted"]
        if newest:
            within["newest"], policies = newest, [*policies, newest["policy"]]
        metrics = {"within_group": within, "by_policy": {name: {} for name in policies}, "probes": {}}
        folders.write(folders.input(f"{stage}_{category}") / "metrics.json", metrics)


@pytest.fixture
def folders(tmp_path: Path) -> ReportFolders:
    """Two rounds: the first rewards order 30 of 40 pairs rightly, the final ones 36; of 10 own samples 6 are in order."""
    made = ReportFolders(tmp_path, REFUSES)
    _rewards(
        made,
        "reward_model",
        [_order(0.9, 10, 5), _order(0.9, 10, 5), _order(0.9, 20, 10)],
        _order(0.5, 4, 2, "round_1"),
    )
    _rewards(made, "round_1_reward_model", [_order(1.0, 10, 5), _order(0.5, 10, 5), _order(0.75, 20, 10)])
    policy = made.input("round_1_policy")
    made.write(policy / "metrics.json", {"first_reward": 0.25, "last_reward": 1.5, "kl": 0.3})
    points = [
        {"step": step, "unsafe": unsafe, "look_alike": 0.2, "unusable": 0.0, "composite": 0.0}
        for step, unsafe in ((0, 0.5), (4, 0.75))
    ]
    made.write(policy / "validation.json", {"chosen": 4, "points": points})
    for category in CATEGORIES:
        made.write(
            made.input(f"round_1_completion_pool_{category}") / "metrics.json",
            {
                "replies": {"unsafe": {"n": 10, "refused": 0.8 if category == "insult" else 0.4, "unusable": 0.0}},
                "within_group": {"all": _order(0.6, 5, 3), "by_kind": {}},
            },
        )
    made.write(
        made.input("round_1_completion_pool_helpful") / "metrics.json",
        {
            "replies": {"look_alike": {"n": 8, "refused": 0.25, "unusable": 0.0}},
            "within_group": {"all": _order(None, 0, 0), "by_kind": {}},
        },
    )
    return made


def test_the_rewards_and_policies_of_each_round_by_hand(folders: ReportFolders) -> None:
    """Round 1: 10 + 5 + 15 of 40 pairs; final: 36 of 40, and 2 of 4 of round 1's samples in each of three categories.

    Its policy refuses 8 + 4 of 20 sampled completions of unsafe prompts and 2 of 8 of look-alikes.
    """
    found = rounds_section(folders.context())
    assert found is not None
    first, final = found["numbers"]
    assert (first["round"], final["round"]) == ("round 1", "round 2, final")
    assert (first["learned_on"], final["learned_on"]) == (["base", "sft"], ["base", "sft", "round_1"])
    pooled = first["within_group"]["all"]
    assert (pooled["accuracy"], pooled["pairs"], pooled["groups"]) == (0.75, 40, 20)
    assert final["within_group"]["start"]["accuracy"] == pytest.approx(0.9)
    assert first["within_group"]["newest"] is None
    assert (final["within_group"]["newest"]["accuracy"], final["within_group"]["newest"]["pairs"]) == (0.5, 12)
    assert (first["own_order"]["accuracy"], first["own_order"]["pairs"]) == (pytest.approx(0.6), 10)
    assert final["own_order"] is None
    assert first["sampled"] == {
        "unsafe": {"refused": pytest.approx(0.6), "n": 20}, "look_alike": {"refused": 0.25, "n": 8},
    }  # fmt: skip
    rows = found["policies"]["rows"]
    assert [row[0] for row in rows] == ["start", "round 1", "round 2, final"]
    assert rows[0][-3]["shown"] == "50.0 %" and rows[1][-3]["shown"] == "75.0 %" and rows[2][-3]["value"] is None
    assert rows[1][1] == "+0.25 to +1.50" and rows[1][2]["shown"] == "0.300"
    assert all(len(row) == len(found["policies"]["head"]) for row in rows)
    assert all(len(row) == len(found["rewards"]["head"]) for row in found["rewards"]["rows"])


def test_the_page_and_the_summary_have_them(folders: ReportFolders) -> None:
    context = folders.context()
    build_report(context)
    page = (context.out / "report.html").read_text(encoding="utf-8")
    assert "<h3>Rounds</h3>" in page and "round 2, final" in page
    assert [row["round"] for row in json.loads((context.out / "summary.json").read_text())["rounds"]] == [
        "round 1", "round 2, final",
    ]  # fmt: skip


def test_one_round_says_nothing_of_rounds(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, REFUSES)
    context = folders.context()
    assert rounds_section(context) is None
    build_report(context)
    assert "<h3>Rounds</h3>" not in (context.out / "report.html").read_text(encoding="utf-8")
    assert "rounds" not in json.loads((context.out / "summary.json").read_text())
