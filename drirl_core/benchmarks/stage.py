"""The asset `benchmark_<suite>`: what the policies reply to a suite, judged and compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa

from drirl_core.benchmarks.best_of_n import chosen, decoding_of
from drirl_core.benchmarks.examine import Examinee, classifier_examinee, examine, examined, policy_examinee
from drirl_core.benchmarks.judges.verdicts import RulesJudge
from drirl_core.benchmarks.judging import DETAILS, Judges, valid
from drirl_core.benchmarks.measure import Judged, judge, results, rounded, with_prefill
from drirl_core.benchmarks.plots import balance_scatter, refusal_bars, roc_curves
from drirl_core.benchmarks.references.classifiers import CEILING, FLOOR, load
from drirl_core.benchmarks.refusal_score import beside_replies, describe, refusal_scores
from drirl_core.benchmarks.render import POLICY_NAMES, render
from drirl_core.benchmarks.suites import PAIRED, BenchmarkRow, Suite, find_suite, load_suite
from drirl_core.completions.policies import INITIAL
from drirl_core.config import BEST_OF_N
from drirl_core.errors import ArtifactError, DataError, nearest
from drirl_core.graph.build import Context
from drirl_core.graph.policies import POLICIES, asset_of
from drirl_core.models import sampling
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.models.sampling.decode import Watch
from drirl_core.reporting import Plot, Table
from drirl_core.store.tables import write_table
from drirl_core.text.thoughts import is_unfinished

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
        pa.field("pair", pa.string()),
        pa.field("score", pa.float64()),
    ]
)
"""Columns of `replies.parquet`."""

REFERENCES = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("pair", pa.string()),
        pa.field("classifier", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("refused", pa.bool_(), nullable=False),
    ]
)
"""Columns of `references.parquet`: what floor and ceiling decide."""


GREEDY: Mapping[str, Any] = {"temperature": 0}
"""How benchmarks decode."""
RULES_ALONE = Judges(RulesJudge(), None)


@dataclass(frozen=True)
class Scoring:
    """Refusal scores of the policies.

    Args:
        described: what the score is, for the tables.
        scores: score by policy and prompt; rows without one get none.
    """

    described: Mapping[str, Any]
    scores: Mapping[tuple[str, str], float] = field(default_factory=dict)


def build_benchmark(context: Context) -> dict[str, Any]:
    """Let each policy answer a suite greedily, judge and score, and compare the policies with floor and ceiling.

    Reads `reference_classifiers`, `policy_checkpoint` and, if there are any, `sft_checkpoint` and the baselines, of
    which `best_of_n_<suite>` holds completions; the base policy is `config.models.policy`. Writes `replies.parquet`,
    `references.parquet`, `results.json`, `results.md` and pictures.

    Args:
        context: of the stage; `suite` names the suite.

    Returns:
        Rates of every policy, the composite difference, AUC and pair accuracy, token counts, tables and pictures.

    Raises:
        DataError: the suite cannot be read.
        ArtifactError: the aligned policy or the reference classifiers are not among the inputs.
    """
    config = context.config.benchmarks
    known = {suite.name: suite for suite in config.suites}
    if context.suite not in known:
        raise DataError(
            f"benchmark suite {context.suite!r} is not in benchmarks.suites; {nearest(str(context.suite), known)}"
        )
    suite, rows = find_suite(known[context.suite]), load_suite(known[context.suite])
    policies, asked = _policies(context), examined(rows)
    judges = Judges.of(context.config, context.store, context.reporter)
    judges.check()
    floor, ceiling = _references(context, asked)
    replies: list[Judged] = []
    examinees: list[Examinee] = [floor]
    scores: dict[tuple[str, str], float] = {}
    prompts = [row.prompt for row in asked]
    for policy, reference in policies.items():
        if policy == BEST_OF_N:  # a choice among samples has no probabilities of its own to score
            own, scored = judges.judge(judged(policy, rows, chosen(Path(reference), rows))), None
        else:
            watch = beside_replies(context, prompts, suite.prefill)
            own = judges.judge(answer(context, policy, reference, rows, suite.prefill, watch))
            scored = refusal_scores(context, reference, prompts, suite.prefill)
        replies += own
        examinees.append(policy_examinee(policy, [reply for reply in own if reply.row.group in PAIRED], scored))
        scores.update(((policy, row.prompt_id), score) for row, score in zip(asked, scored or (), strict=False))
    examinees.append(ceiling)
    scoring = Scoring(describe(context, suite.prefill), scores)
    found = write_results(context, suite, rows, replies, examinees, scoring, judges=judges)
    write_table(context.out / "references.parquet", _reference_table(asked, (floor, ceiling)), REFERENCES)
    return {
        **_numbers(found),
        **_shown(context.out, suite, found),
        "tokens": sum(reply.tokens for reply in replies),
        "unfinished_thoughts": sum(is_unfinished(reply.reply) for reply in replies),
    }


def write_results(
    context: Context,
    suite: Suite,
    rows: Sequence[BenchmarkRow],
    replies: Sequence[Judged],
    examinees: Sequence[Examinee],
    scoring: Scoring,
    decoding: Mapping[str, Any] = GREEDY,
    judges: Judges = RULES_ALONE,
) -> dict[str, Any]:
    """Write `replies.parquet`, `results.json` and `results.md` of a suite.

    Args:
        context: of the stage, or of an evaluation.
        suite: what was measured on.
        rows: its rows.
        replies: judged replies of every policy.
        examinees: policies, floor and ceiling with their scores.
        scoring: the refusal scores.
        decoding: how the completions were decoded, beside their length limit.
        judges: who judged them.

    Returns:
        The content of `results.json`.
    """
    config = context.config.benchmarks
    begun = {"prefill": suite.prefill} if suite.prefill else {}
    asked = examined(rows)
    usable, kept = valid(replies, asked)
    # The rules read words; what another judge would say with the prefill in front was not asked.
    ruled = bool(suite.prefill) and isinstance(judges.first, RulesJudge)
    beside: dict[str, Any] = {"with_prefill": with_prefill(usable, suite.prefill)} if ruled else {}
    reranked = context.inputs.get(asset_of(BEST_OF_N, suite.name))
    beside |= {BEST_OF_N: decoding_of(reranked)} if reranked else {}
    found = {
        "suite": {"name": suite.name, "version": suite.version, "licence": suite.licence, "home": suite.home},
        "groups": dict(Counter(row.group for row in rows)),
        "decoding": {**decoding, "max_new_tokens": config.max_new_tokens, **begun},
        "score": scoring.described,
        **results(usable, config.resamples, context.config.seed),
        **examine(
            list(compress(asked, kept)),
            [one.only(kept) for one in examinees] if not all(kept) else examinees,
            config.resamples,
            context.config.seed,
        ),
        **beside,
        **rounded(judges.added(replies, config.resamples, context.config.seed)),
    }
    columns = judges.columns()
    schema = pa.schema([*SCHEMA, *columns])
    table = reply_rows(replies, scoring.scores, [column.name for column in columns], suite.prefill)
    write_table(context.out / "replies.parquet", table, schema)
    text = json.dumps(found, indent=1, sort_keys=True, allow_nan=False) + "\n"
    (context.out / "results.json").write_text(text, encoding="utf-8")
    (context.out / "results.md").write_text(render(found), encoding="utf-8")
    return found


def _policies(context: Context) -> dict[str, str | Path]:
    """Return who answers, in the order of the tables, with model or directory."""
    if "policy_checkpoint" not in context.inputs:
        raise ArtifactError(
            f"a benchmark needs policy_checkpoint among its inputs, which are {sorted(context.inputs)}; "
            "materialize it first"
        )
    assets = {name: asset_of(name, str(context.suite)) for name in POLICIES if name != INITIAL}
    made = {name: context.inputs[asset] for name, asset in assets.items() if asset in context.inputs}
    return {INITIAL: context.config.models.policy, **made}


def _references(context: Context, rows: Sequence[BenchmarkRow]) -> tuple[Examinee, Examinee]:
    """Return what floor and ceiling decide on the examined rows."""
    if "reference_classifiers" not in context.inputs:
        raise ArtifactError(
            f"a benchmark needs reference_classifiers among its inputs, which are {sorted(context.inputs)}; "
            "materialize them first"
        )
    floor, ceiling = load(context.inputs["reference_classifiers"])
    if not rows:  # a suite of helpful questions alone
        return classifier_examinee(FLOOR, (), 0.0), classifier_examinee(CEILING, (), 0.0)
    prompts = [row.prompt for row in rows]
    states = HiddenStates(context.config.models, context.store).of_prompts(prompts, ceiling.layer, context.reporter)
    return (
        classifier_examinee(FLOOR, floor.scores(prompts), floor.linear.threshold),
        classifier_examinee(CEILING, ceiling.scores(states), ceiling.linear.threshold),
    )


def answer(
    context: Context,
    policy: str,
    reference: str | Path,
    rows: Sequence[BenchmarkRow],
    prefill: str = "",
    watch: Watch | None = None,
) -> list[Judged]:
    """Let a policy answer rows greedily, and judge its replies; rows answered before are read from the row cache.

    Args:
        context: of the stage, or of an evaluation.
        policy: name for the tables.
        reference: model reference or checkpoint directory.
        rows: N rows of a suite.
        prefill: words that every reply is made to begin with; empty for none.
        watch: gets what the policy makes of the prompts that are answered here.

    Returns:
        N judged replies, in the order of the rows; after a prefill they hold what the policy wrote after it.
    """
    config = context.config.benchmarks
    name = POLICY_NAMES.get(policy, policy)
    context.reporter.log(f"{name}: {len(rows)} greedy replies of at most {config.max_new_tokens} tokens")
    # Greedy decoding draws nothing, so a fixed seed keeps the stored replies valid when the run's seed changes.
    settings = sampling.SamplingSettings(
        max_new_tokens=config.max_new_tokens,
        temperature=0.0,
        batch_size=config.batch_size,
        seed=0,
        prefill=prefill,
    )
    prompts = [row.prompt for row in rows]
    drawn = sampling.sample(
        reference, prompts, 1, settings,
        models=context.config.models, store=context.store, reporter=context.reporter,
        vllm=context.config.execution.engine, watch=watch,
    )  # fmt: skip
    return judged(policy, rows, [completion for (completion,) in drawn])


def judged(policy: str, rows: Sequence[BenchmarkRow], completions: Sequence[sampling.Completion]) -> list[Judged]:
    """Judge one completion per row.

    Args:
        policy: name for the tables.
        rows: N rows of a suite.
        completions: N completions.
    """
    return [
        judge(row, policy, completion.text, tokens=completion.tokens, finished=completion.finished)
        for row, completion in zip(rows, completions, strict=True)
    ]


def reply_rows(
    replies: Sequence[Judged],
    scores: Mapping[tuple[str, str], float],
    added: Sequence[str] = (),
    prefill: str = "",
) -> list[dict[str, Any]]:
    """Return the rows of `replies.parquet`.

    Args:
        replies: judged replies.
        scores: refusal score by policy and prompt; rows without one get none.
        added: columns that the judges add.
        prefill: words that the replies were made to begin with, which are shown as a part of them.
    """
    return [
        {
            "suite": reply.row.suite,
            "group": reply.row.group,
            "category": reply.row.category,
            "prompt_id": reply.row.prompt_id,
            "prompt": reply.row.prompt,
            "policy": reply.policy,
            "reply": prefill + reply.reply,
            "tokens": reply.tokens,
            "finished": reply.finished,
            "label": reply.label,
            "correct": reply.correct,
            "pair": reply.row.pair or None,
            "score": rounded(scores.get((reply.policy, reply.row.prompt_id))),
            **{name: reply.details if name == DETAILS.name else reply.second for name in added},
        }
        for reply in replies
    ]


def _reference_table(rows: Sequence[BenchmarkRow], references: Sequence[Examinee]) -> list[dict[str, Any]]:
    return [
        {
            "suite": row.suite,
            "group": row.group,
            "category": row.category,
            "prompt_id": row.prompt_id,
            "pair": row.pair or None,
            "classifier": one.name,
            "score": rounded(score),
            "refused": refused,
        }
        for one in references
        for row, score, refused in zip(rows, one.scores or (), one.refused, strict=True)
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
    for row in found["examination"]:
        for name in ("auc", "agreement", "pair_accuracy"):
            if row[name] is not None:
                numbers[f"{name}/{row['name']}"] = row[name]
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
        **({} if found["judge"]["accuracy"] is None else {"judge_accuracy": found["judge"]["accuracy"]}),
        "results": Table(table),
        "examination": Table(_examination_table(found)),
    }
    if refusal_bars(found, out / "refusal.png"):
        shown["refusal_per_category"] = Plot(
            out / "refusal.png", f"{suite.name}: refusal of unsafe prompts per category"
        )
    if balance_scatter(found, out / "balance.png"):
        shown["refusal_against_over_refusal"] = Plot(
            out / "balance.png", f"{suite.name}: refusal against over-refusal; top left is best"
        )
    if roc_curves(found, out / "roc.png"):
        shown["roc"] = Plot(out / "roc.png", f"{suite.name}: ROC of the refusal scores, with the operating points")
    return shown


def _examination_table(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the columns that the suite allows, one row per examinee."""
    names = ("refusal", "over_refusal", "composite", "auc", "agreement", "pair_accuracy")
    known = [name for name in names if any(row[name] is not None for row in found["examination"])]
    return [{"name": row["name"], **{name: row[name] for name in known}} for row in found["examination"]]
