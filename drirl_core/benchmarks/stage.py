"""The asset `benchmark_<suite>`: what the policies reply to a suite, judged and compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from drirl_core.benchmarks.measure import ALIGNED, Judged, judge, results
from drirl_core.benchmarks.plots import balance_scatter, refusal_bars
from drirl_core.benchmarks.render import POLICY_NAMES, render
from drirl_core.benchmarks.suites import BenchmarkRow, Suite, find_suite, load_suite
from drirl_core.errors import ArtifactError, DataError, nearest
from drirl_core.graph.build import Context
from drirl_core.models import sampling
from drirl_core.reporting import Plot, Table
from drirl_core.store.tables import write_table

SCHEMA = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("reply", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("finished", pa.bool_(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("correct", pa.bool_()),
    ]
)
"""Columns of `replies.parquet`."""


def build_benchmark(context: Context) -> dict[str, Any]:
    """Let each policy answer a suite greedily, judge the replies and compare the policies.

    Reads `policy_checkpoint` and, if there is one, `sft_checkpoint`; the base policy is `config.models.policy`. Writes
    `replies.parquet`, `results.json`, `results.md` and pictures.

    Args:
        context: of the stage; `suite` names the suite.

    Returns:
        Rates of every policy, the composite difference, token counts, the table and the pictures.

    Raises:
        DataError: the suite cannot be read.
        ArtifactError: the aligned policy is not among the inputs.
    """
    config = context.config.benchmarks
    known = {suite.name: suite for suite in config.suites}
    if context.suite not in known:
        raise DataError(
            f"benchmark suite {context.suite!r} is not in benchmarks.suites; {nearest(str(context.suite), known)}"
        )
    suite, rows = find_suite(known[context.suite]), load_suite(known[context.suite])
    replies = [
        reply for policy, reference in _policies(context).items() for reply in _answer(context, policy, reference, rows)
    ]
    found = {
        "suite": {"name": suite.name, "version": suite.version, "licence": suite.licence, "home": suite.home},
        "groups": dict(Counter(row.group for row in rows)),
        "decoding": {"temperature": 0, "max_new_tokens": config.max_new_tokens},
        **results(replies, config.resamples, context.config.seed),
    }
    write_table(context.out / "replies.parquet", _table(replies), SCHEMA)
    (context.out / "results.json").write_text(
        json.dumps(found, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
    )
    (context.out / "results.md").write_text(render(found), encoding="utf-8")
    return {**_numbers(found), **_shown(context.out, suite, found), "tokens": sum(reply.tokens for reply in replies)}


def _policies(context: Context) -> dict[str, str | Path]:
    """Return who answers, in the order of the tables."""
    if "policy_checkpoint" not in context.inputs:
        raise ArtifactError(
            f"a benchmark needs policy_checkpoint among its inputs, which are {sorted(context.inputs)}; materialize it first"
        )
    policies: dict[str, str | Path] = {"base": context.config.models.policy}
    if "sft_checkpoint" in context.inputs:
        policies["sft"] = context.inputs["sft_checkpoint"]
    return {**policies, ALIGNED: context.inputs["policy_checkpoint"]}


def _answer(context: Context, policy: str, reference: str | Path, rows: Sequence[BenchmarkRow]) -> list[Judged]:
    config = context.config.benchmarks
    context.reporter.log(
        f"{POLICY_NAMES[policy]}: {len(rows)} greedy replies of at most {config.max_new_tokens} tokens"
    )
    # Greedy decoding draws nothing, so a fixed seed keeps the stored replies valid when the run's seed changes.
    settings = sampling.SamplingSettings(
        max_new_tokens=config.max_new_tokens, temperature=0.0, batch_size=config.batch_size, seed=0
    )
    prompts = [row.prompt for row in rows]
    drawn = sampling.sample(
        reference, prompts, 1, settings, models=context.config.models, store=context.store, reporter=context.reporter
    )
    return [
        judge(row, policy, completion.text, tokens=completion.tokens, finished=completion.finished)
        for row, (completion,) in zip(rows, drawn, strict=True)
    ]


def _table(replies: Sequence[Judged]) -> list[dict[str, Any]]:
    return [
        {
            "suite": reply.row.suite,
            "group": reply.row.group,
            "category": reply.row.category,
            "prompt_id": reply.row.prompt_id,
            "prompt": reply.row.prompt,
            "policy": reply.policy,
            "reply": reply.reply,
            "tokens": reply.tokens,
            "finished": reply.finished,
            "label": reply.label,
            "correct": reply.correct,
        }
        for reply in replies
    ]


def _numbers(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headline numbers as flat metadata; what a suite does not measure is left out."""
    numbers: dict[str, Any] = {"prompts": sum(found["groups"].values())}
    for row in found["summary"]:
        for name in (
            "refusal",
            "over_refusal",
            "helpful_correct",
            "balance",
            "distinct_2",
            "template_rate",
            "degenerate",
            "empty",
            "echo",
        ):
            if row[name] is not None:
                numbers[f"{name}/{row['policy']}"] = row[name]
    for row in found["composite"]:
        numbers[f"balance_gain/{row['against']}"] = row["difference"]
        numbers[f"balance_gain_p/{row['against']}"] = row["p"]
    return numbers


def _shown(out: Path, suite: Suite, found: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the pictures that the suite's groups allow and pick the table's columns."""
    table = [
        {k: v for k, v in row.items() if not k.endswith(("_low", "_high", "_n")) and v is not None}
        for row in found["summary"]
    ]
    shown: dict[str, Any] = {
        "judge": found["judge"]["judge"],
        "judge_accuracy": found["judge"]["accuracy"],
        "results": Table(table),
    }
    if refusal_bars(found, out / "refusal.png"):
        shown["refusal_per_category"] = Plot(
            out / "refusal.png", f"{suite.name}: refusal of unsafe prompts per category"
        )
    if balance_scatter(found, out / "balance.png"):
        shown["refusal_against_over_refusal"] = Plot(
            out / "balance.png", f"{suite.name}: refusal against over-refusal; top left is best"
        )
    return shown
