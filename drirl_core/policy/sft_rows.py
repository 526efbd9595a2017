"""The rows of supervised fine-tuning as tokens, and those that do not fit.

TRL would cut rows that are longer than the limit, and drop those whose prompt alone fills it, without a word. The same
is done here, before the trainer sees the rows, so that every row that loses something is counted and named.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drirl_core.errors import DataError
from drirl_core.models.templates import chat_text
from drirl_core.text.thoughts import opened_by

TokenRow = dict[str, Any]
"""`input_ids` and `completion_mask` of a row."""

NAMED = 5
"""Rows that are named in logs and metadata."""


@dataclass(frozen=True)
class TokenRows:
    """Rows ready for training.

    Args:
        rows: each row that is trained on.
        names: prompt_id of each of them.
        cut: ids of the rows that lost their end.
        dropped: ids of the rows that had no room for their completion, and are not trained on.
        limit: tokens per row at most.
    """

    rows: list[TokenRow]
    names: tuple[str, ...]
    cut: tuple[str, ...]
    dropped: tuple[str, ...]
    limit: int

    def said(self) -> str:
        """Say in one line which rows lost something; empty where none did."""
        parts = []
        if self.cut:
            does = "1 row is" if len(self.cut) == 1 else f"{len(self.cut)} rows are"
            parts.append(f"{does} longer than {self.limit} tokens and cut off at the end: {first(self.cut)}")
        if self.dropped:
            does = "1 row is" if len(self.dropped) == 1 else f"{len(self.dropped)} rows are"
            parts.append(f"{does} left out, with no room for an answer in {self.limit} tokens: {first(self.dropped)}")
        return "; ".join(parts)

    def record(self) -> dict[str, int | str]:
        """Return the numbers, and the names of the first rows, for metrics and metadata."""
        named = {"first_cut": first(self.cut), "first_dropped": first(self.dropped)}
        counts: dict[str, int | str] = {"rows_cut": len(self.cut), "rows_dropped": len(self.dropped)}
        return counts | {name: text for name, text in named.items() if text}


def in_batches_of_one_length(units: Sequence[Sequence[TokenRow]], batch_size: int, seed: int) -> list[TokenRow]:
    """Order rows so that each batch holds rows of similar length, and the batches come in random order.

    A batch is as long as its longest row: in random batches of short rows two of five tokens are padding.

    Args:
        units: rows that stay together in a batch: pairs where `batch_size` is even, or single rows.
        batch_size: rows per batch; a batch that is not full comes last.
        seed: of the order of the batches.
    """
    by_length = sorted(units, key=lambda unit: (-len(unit), max(len(row["input_ids"]) for row in unit)))
    order = [row for unit in by_length for row in unit]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rest = [batches.pop()] if len(batches[-1]) < batch_size else []
    random.Random(seed).shuffle(batches)  # noqa: S311 - reproducible order, not security
    return [row for batch in (*batches, *rest) for row in batch]


def first(names: Sequence[str]) -> str:
    """Return the first names of a list, and that there are more."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def tokenised(
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    limit: int,
    answer_tokens: int = 0,
    setting: str = "sft.max_length",
) -> TokenRows:
    """Tokenise rows as TRL does, cut them at the limit, and leave out those without a token to learn.

    Args:
        tokenizer: of the policy.
        rows: `prompt` and `completion` as messages, with `prompt_id` and `category`.
        limit: tokens per row at most, prompt and completion together.
        answer_tokens: first tokens of each completion that are kept; 0 keeps all. What goes here is not `cut`.
        setting: that gives the limit, for the message.

    Returns:
        The rows, in order.

    Raises:
        DataError: a category loses all its rows.
    """
    kept: list[TokenRow] = []
    names, cut, dropped = [], [], []
    for row in rows:
        ids, start = _tokens(tokenizer, row["prompt"], row["completion"])
        name = f"{row['category']}/{row['prompt_id']}"
        ids = ids[: start + answer_tokens] if answer_tokens else ids
        if min(len(ids), limit) <= start:
            dropped.append(name)
            continue
        if len(ids) > limit:
            cut.append(name)
        ids = ids[:limit]
        names.append(str(row["prompt_id"]))
        kept.append({"input_ids": ids, "completion_mask": [0] * start + [1] * (len(ids) - start)})
    total, lost = Counter(row["category"] for row in rows), Counter(name.partition("/")[0] for name in dropped)
    empty = [category for category in total if lost[category] == total[category]]
    if empty:
        named = first([name for name in dropped if name.startswith(f"{empty[0]}/")])
        raise DataError(
            f"all {total[empty[0]]} training rows of {empty[0]} have no room for an answer in {limit} tokens, so that "
            f"{setting.partition('.')[0].upper()} would learn nothing of them ({named}); raise {setting}, up to what "
            "the model can read, or "
            "shorten the prompts"
        )
    return TokenRows(kept, tuple(names), tuple(cut), tuple(dropped), limit)


def _tokens(tokenizer: Any, prompt: list[Any], completion: list[Any]) -> tuple[list[int], int]:
    """Return the tokens of a row, and where those of its completion begin."""
    rendered = chat_text(tokenizer, prompt[-1]["content"])
    tags = opened_by(rendered)
    if tags:  # the policy is asked inside a thought, so it learns to end it and to answer
        answer = f"\n{tags[1]}\n\n{completion[-1]['content']}"
        asked, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (rendered, answer))
        return [*asked, *said, tokenizer.eos_token_id], len(asked)
    how = {"tokenize": True, "return_dict": True}
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **how)["input_ids"]
    both = tokenizer.apply_chat_template([*prompt, *completion], **how)["input_ids"]
    pairs = zip(asked, both, strict=False)
    start = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(asked), len(both)))
    return list(both), start
