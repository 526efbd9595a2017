"""Whether every prompt of every suite fits into what the policy can read, before anything trains."""

from __future__ import annotations

from typing import Any

from drirl_core.benchmarks.suites import load_suite
from drirl_core.config import BenchmarksConfig
from drirl_core.errors import DataError
from drirl_core.models.context import no_room, too_long
from drirl_core.models.templates import begun_text

SETTING = "benchmarks.max_new_tokens"


def suites_without_room(config: BenchmarksConfig, tokenizer: Any, limit: int | None) -> list[str]:
    """Name the first prompt of each suite that leaves no room for a reply.

    Args:
        config: the suites, and the length limit of a reply.
        tokenizer: of the policy.
        limit: tokens that the policy can read; None for no limit.

    Returns:
        One message per suite that has such prompts.

    Raises:
        DataError: a suite cannot be read.
    """
    found = []
    for suite in config.suites if limit is not None else ():
        rows = load_suite(suite)
        texts = [begun_text(tokenizer, row.prompt, suite.prefill) for row in rows]
        long = too_long(tokenizer, texts, config.max_new_tokens, limit)
        if long:
            place, tokens = long[0]
            row = rows[place]
            said = no_room(row.prompt, tokens, config.max_new_tokens, limit, SETTING)
            more = f" ({len(long) - 1} more prompts of the suite are too long)" if len(long) > 1 else ""
            found.append(f"benchmark suite {suite.name}, group {row.group}, prompt_id {row.prompt_id}: {said}{more}")
    return found


def require_room_for_suites(config: BenchmarksConfig, tokenizer: Any, limit: int | None) -> None:
    """Refuse suites with prompts that the policy cannot read.

    Args:
        config: the suites, and the length limit of a reply.
        tokenizer: of the policy.
        limit: tokens that the policy can read; None for no limit.

    Raises:
        DataError: a suite has such prompts, or cannot be read.
    """
    found = suites_without_room(config, tokenizer, limit)
    if found:
        raise DataError("; ".join(found))
