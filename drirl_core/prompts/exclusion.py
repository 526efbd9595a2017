"""What the benchmark suites keep out of the prompt pool: the only way in which they decide it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core.benchmarks.suites import benchmark_prompts
from drirl_core.config import Config
from drirl_core.prompts.duplicates import decontaminate
from drirl_core.prompts.stage import check_row, read_sources


def excluded_prompts(config: Config, category: str | None, paths: Mapping[str, Path]) -> list[list[Any]]:
    """Say which prompts of the sources repeat a benchmark prompt.

    Args:
        config: the sources, the suites and the similarity from which two prompts count as one.
        category: None; the pool is of all categories.
        paths: file or folder of each source, by asset name.

    Returns:
        As `overlapping`, of the rows that the pool compares.

    Raises:
        DataError: a source or a suite cannot be read.
        ConfigError: a source names an unknown adapter, column or category.
    """
    rows = [row for found in read_sources(config, paths) for row in found.rows]
    return overlapping([row.prompt for row in rows if not check_row(row, config.prompts.max_chars)], config)


def overlapping(prompts: Sequence[str], config: Config) -> list[list[Any]]:
    """Compare prompts with those of all suites.

    Args:
        prompts: N prompts meant for training.
        config: the suites and the similarity from which two prompts count as one.

    Returns:
        One list per prompt that repeats a benchmark prompt: its number, the most similar benchmark prompt, and their
        similarity. Two sets of suites with equal lists give equal training data, with equal entries in the quarantine.

    Raises:
        DataError: a suite cannot be read.
    """
    found = decontaminate(prompts, benchmark_prompts(config.benchmarks.suites), config.prompts.near_duplicate)
    return [[number, one.prompt, one.similarity] for number, one in enumerate(found) if one]
