"""Rows of supervised fine-tuning that learn the decision whether to refuse: kinds, and prompts without answers.

What is learned of them is in `decision`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from drirl_core import taxonomy
from drirl_core.graph import build as stages
from drirl_core.graph.layout import dataset_name
from drirl_core.policy.decision import refusing_tokens
from drirl_core.policy.schedule import endless
from drirl_core.policy.sft_rows import TokenRow, TokenRows, tokenised
from drirl_core.policy.twins import PROMPTS
from drirl_core.reporting import Reporter

_SHOWN = 8
"""First tokens of refusals that are shown."""


def with_decisions(
    context: stages.Context,
    read: TokenRows,
    chosen: Sequence[Mapping[str, Any]],
    every: Sequence[Mapping[str, Any]],
    tokenizer: Any,
) -> tuple[TokenRows, list[int]]:
    """Add to rows the kind of their prompts, and where it is asked for the prompts without answers beside them.

    Args:
        context: of the stage; `sft.decision_prompts` says how many stand beside a row.
        read: the rows that are learned.
        chosen: what they were made of.
        every: all training rows, which the prompts without answers are drawn from; read where any are asked for.
        tokenizer: of the policy.

    Returns:
        The rows, and the tokens that begin refusals; without any no prompt is added.
    """
    count = context.config.sft.decision_prompts
    rows = _with_kinds(read, chosen)
    refusing = _refusing(rows, tokenizer, context.reporter)
    if refusing and count:
        asked = _with_kinds(tokenised(tokenizer, every, read.limit, answer_tokens=1), every)
        prompts = [{"input_ids": row["input_ids"][: _start(row)], "unsafe": row["unsafe"]} for row in asked]
        beside = beside_rows(prompts, len(rows), count, context.config.seed)
        rows = [{**row, PROMPTS: some} for row, some in zip(rows, beside, strict=True)]
        context.reporter.log(
            f"SFT: the decision is learned of {len(rows)} rows and, {count} beside each, of all "
            f"{len(prompts)} training prompts {len(rows) * count / len(prompts):.1f} times"
        )
    return replace(read, rows=rows), refusing


def beside_rows(prompts: Sequence[dict[str, Any]], rows: int, count: int, seed: int) -> list[list[dict[str, Any]]]:
    """Deal prompts out to rows, in random order and each equally often up to one.

    Args:
        prompts: at least one, with what a batch needs of each.
        rows: number of rows.
        count: prompts beside each row.
        seed: of the order.

    Returns:
        The prompts of each row.
    """
    source = endless(prompts, random.Random(seed))  # noqa: S311 - reproducible order, not security
    return [list(islice(source, count)) for _ in range(rows)]


def _with_kinds(read: TokenRows, rows: Sequence[Mapping[str, Any]]) -> list[TokenRow]:
    """Return the rows that were read with the kind of their prompts, by the data set they come from."""
    harmless = {str(row["prompt_id"]) for row in rows if row["category"] == dataset_name(taxonomy.HELPFUL)}
    return [{**row, "unsafe": int(name not in harmless)} for row, name in zip(read.rows, read.names, strict=True)]


def _start(row: TokenRow) -> int:
    """Return where the answer begins."""
    return row["completion_mask"].index(1)


def _refusing(rows: Sequence[TokenRow], tokenizer: Any, reporter: Reporter) -> list[int]:
    """Return the tokens that begin refusals among the rows, and show some of them."""
    found = refusing_tokens([(row["input_ids"][_start(row)], row["unsafe"] == 1) for row in rows])
    if found:
        shown = ", ".join(repr(tokenizer.decode([token])) for token in found[:_SHOWN])
        reporter.log(f"SFT: the decision to refuse is one of {len(found)} first tokens, such as {shown}")
    else:
        reporter.log(
            "SFT: sft.decision tells first tokens of refusals from those of answers, but the training rows are all of "
            "one kind, or all of their answers begin alike, as behind a thought; nothing is decided"
        )
    return found
