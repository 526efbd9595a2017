"""The completion pool of a category: completions of the reference policies for its prompts.

Completions are sampled once, stored per row, and used by reward learning, hardness and the study. The pool also holds
`contrast` completions that are not sampled (docs/method.md, section 3): refusals and off-topic answers for the helpful
set, so that its reward model can punish over-refusal, and corrupted demonstrations for every set, because a sentence
encoder hardly sees degenerate text.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from drirl_core import taxonomy
from drirl_core.benchmarks.room import require_room_for_suites
from drirl_core.completions.choice import completed_rows
from drirl_core.completions.policies import SFT_START
from drirl_core.errors import DataError
from drirl_core.graph.build import Context
from drirl_core.graph.layout import dataset_name
from drirl_core.models.loading import reading_of, rendering_of
from drirl_core.models.sampling import Completion, SamplingSettings, sample
from drirl_core.reporting import Reporter, Table
from drirl_core.store.tables import read_table, write_table
from drirl_core.text.chain_of_draft import cut_draft
from drirl_core.text.sentences import clauses, sentences
from drirl_core.text.thoughts import is_unfinished

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("policy", pa.string()),
        ("sample", pa.int32()),
        ("completion", pa.string()),
        ("answer", pa.string()),
        ("tokens", pa.int32()),
        ("finished", pa.bool_()),
    ]
)


def build_completion_pool(context: Context) -> dict[str, Any]:
    """Sample K completions per prompt from each reference policy and add the contrast completions.

    Args:
        context: inputs are the category's data set and, where sampled from, `sft_checkpoint`.

    Returns:
        Display metadata: rows, prompts, tokens, share of finished completions, unfinished thoughts, example rows.

    Raises:
        DataError: the data set is empty, or a prompt of it or of a benchmark suite is longer than the policy can read.
    """
    category = context.category or ""
    settings = context.config.completions
    dataset = context.inputs[dataset_name(category)]
    rows = completed_rows(read_table(dataset / "rows.parquet"), settings, category)
    if not rows:
        raise DataError(f"{dataset_name(category)} has no rows; completions need prompts")
    require_room_for_suites(context.config.benchmarks, *reading_of(context.config.models.policy, context.config.models))
    pool: list[dict[str, Any]] = []
    how = SamplingSettings(settings.max_new_tokens, settings.temperature, settings.batch_size, context.config.seed)
    for policy, copies in sorted(settings.samples.items()):
        if copies:
            reference: str | Path = (
                context.inputs["sft_checkpoint"] if policy == SFT_START else context.config.models.policy
            )
            context.reporter.log(f"{category}: {copies} completions of {len(rows)} prompts from the {policy} policy")
            drawn = sample(
                reference, [row["prompt"] for row in rows], copies, how,
                models=context.config.models, store=context.store, reporter=context.reporter,
                vllm=context.config.execution.engine,
            )  # fmt: skip
            pool += sampled_rows(rows, policy, drawn)
    sampled, figures = len(pool), figures_of(pool, category, context.reporter)
    helpful = category == taxonomy.HELPFUL
    refusals = [r["refusal"] for r in read_table(dataset / "refusals.parquet")] if helpful else []
    pool += contrast(
        rows, refusals, settings.contrast, helpful=helpful, harmless=[] if helpful else _harmless_answers(context)
    )
    pool.sort(key=lambda row: (row["prompt_id"], row["policy"], row["sample"]))
    write_table(context.out / "completions.parquet", pool, SCHEMA)
    return {
        "dagster/row_count": len(pool),
        "prompts": len(rows),
        "sampled": sampled,
        "contrast": len(pool) - sampled,
        **figures,
        **rendering_of(context.config.models.policy, context.config.models),
        "examples": Table([{"policy": r["policy"], "reply": r["answer"][:90]} for r in pool[:6]]),
    }


def sampled_rows(
    rows: Sequence[Mapping[str, Any]], policy: str, drawn: Sequence[Sequence[Completion]]
) -> list[dict[str, Any]]:
    """Return the pool rows of sampled completions.

    Args:
        rows: N data set rows with `prompt_id`.
        policy: who was sampled, by its name in pools.
        drawn: of each row its completions.
    """
    return [
        _row(row["prompt_id"], policy, index, completion.text, completion.tokens, completion.finished)
        for row, completions in zip(rows, drawn, strict=True)
        for index, completion in enumerate(completions)
    ]


def figures_of(sampled: Sequence[Mapping[str, Any]], category: str, reporter: Reporter) -> dict[str, Any]:
    """Count tokens, finished completions and unfinished thoughts, and say where there are some of these.

    Args:
        sampled: pool rows of sampled completions, at least one.
        category: of the prompts, for the line.
        reporter: gets it.

    Returns:
        Display metadata `tokens`, `finished_share`, `unfinished_thoughts`.
    """
    thoughts = sum(is_unfinished(row["completion"]) for row in sampled)
    if thoughts:
        reporter.log(
            f"{category}: {thoughts} of {len(sampled)} completions end inside a thought, which is no answer; raise "
            "completions.max_new_tokens, or set models.thinking to false if the model allows it"
        )
    return {
        "tokens": sum(row["tokens"] for row in sampled),
        "finished_share": round(sum(row["finished"] for row in sampled) / len(sampled), 4),
        "unfinished_thoughts": thoughts,
    }


def contrast(
    rows: Sequence[dict[str, Any]], refusals: Sequence[str], counts: Any, *, helpful: bool, harmless: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Make the contrast completions, which are not sampled; equal rows give equal completions.

    Args:
        rows: data set rows with `prompt_id`, `prompt` and `answer`.
        refusals: refusals of harmless prompts.
        counts: completions per prompt by kind (`compliance`, `refusal`, `hedged`, `off_topic`, `corrupted`).
        helpful: whether the set is the helpful one; only there a refusal or another prompt's answer is always wrong.
        harmless: good answers to harmless prompts; paired with an unsafe prompt they are well written and do not
            decline, so that a reward cannot tell demonstrations from completions by style alone.

    Returns:
        Pool rows.
    """
    made: list[dict[str, Any]] = []
    answers = [row["answer"] for row in rows]
    for row in rows:
        generator = random.Random(row["prompt_id"])  # noqa: S311 - reproducible data, not security
        if not helpful:
            picked = generator.sample(list(harmless), min(counts.get("compliance", 0), len(harmless)))
            made += [_row(row["prompt_id"], "compliance", i, text, 0, True) for i, text in enumerate(picked)]
        if helpful and refusals:
            picked = generator.sample(list(refusals), min(counts.get("refusal", 0), len(refusals)))
            made += [_row(row["prompt_id"], "refusal", i, text, 0, True) for i, text in enumerate(picked)]
            picked = generator.sample(list(refusals), min(counts.get("hedged", 0), len(refusals)))
            hedged = [hedge(row["answer"], text, f"{row['prompt_id']}/{i}") for i, text in enumerate(picked)]
            made += [_row(row["prompt_id"], "hedged", i, text, 0, True) for i, text in enumerate(hedged)]
        if helpful:
            others = [answer for answer in answers if answer != row["answer"]]  # an equal answer would be correct
            picked = generator.sample(others, min(counts.get("off_topic", 0), len(others)))
            made += [_row(row["prompt_id"], "off_topic", i, text, 0, True) for i, text in enumerate(picked)]
        made += [
            _row(row["prompt_id"], "corrupted", i, corrupt(row["answer"], f"{row['prompt_id']}/{i}"), 0, True)
            for i in range(counts.get("corrupted", 0))
        ]
    return made


def hedge(answer: str, refusal: str, seed: str) -> str:
    """Insert one declining clause into a good answer: before, after or inside it, by a hash of the seed.

    Args:
        answer: a good answer to a harmless prompt.
        refusal: a refusal, whose first sentence gives the clause.
        seed: chooses the position.

    Returns:
        An answer that helps and declines at the same time, as small policies write them.
    """
    declines, parts = sentences(refusal)[0], sentences(answer)
    where = int(hashlib.sha256(seed.encode()).hexdigest(), 16) % 3
    if where < 2 or len(parts) > 1:
        place = (0, len(parts), 1)[where]
        return " ".join([*parts[:place], declines, *parts[place:]])
    pieces = clauses(answer)
    middle = max(1, len(pieces) // 2)
    return " ".join([*pieces[:middle], f"and {declines.rstrip('.')},", *pieces[middle:]])


def _harmless_answers(context: Context) -> list[str]:
    """Return the training answers of the helpful set, if it is an input."""
    dataset = context.inputs.get(dataset_name(taxonomy.HELPFUL))
    rows = read_table(dataset / "rows.parquet", ("answer", "split")) if dataset else []
    return [row["answer"] for row in rows if row["split"] == "train"]


def corrupt(text: str, seed: str) -> str:
    """Corrupt a text as small policies do: repeat, shuffle or cut it, by a hash of the seed.

    Args:
        text: a good answer.
        seed: chooses the kind of damage and its position.

    Returns:
        A corrupted text, different from `text` when it has at least four words.
    """
    words = text.split()
    generator = random.Random(seed)  # noqa: S311 - reproducible data, not security
    kind = int(hashlib.sha256(seed.encode()).hexdigest(), 16) % 3
    if len(words) < 4:
        return " ".join(words * 6)
    if kind == 0:
        start = generator.randrange(len(words) - 3)
        loop = words[start : start + generator.randint(2, 3)]
        return " ".join(words[: start + 3] + loop * max(4, (len(words) - start) // len(loop)))
    if kind == 1 and len(set(words)) > 1:
        shuffled = words[:]
        while shuffled == words:
            generator.shuffle(shuffled)
        return " ".join(shuffled)
    return " ".join(words[: generator.randint(1, 3)])


def _row(prompt_id: str, policy: str, index: int, text: str, tokens: int, finished: bool) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id, "policy": policy, "sample": index, "completion": text, "answer": cut_draft(text),
        "tokens": tokens, "finished": finished,
    }  # fmt: skip
