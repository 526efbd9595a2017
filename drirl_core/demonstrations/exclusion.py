"""What the benchmark suites keep out of a data set: the only way in which they decide it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core import taxonomy
from drirl_core.benchmarks.suites import benchmark_prompts
from drirl_core.config import Config
from drirl_core.demonstrations.demonstrators import FileDemonstrator
from drirl_core.demonstrations.helpful import read_harmless
from drirl_core.prompts.exclusion import overlapping


def excluded_prompts(config: Config, category: str | None, paths: Mapping[str, Path]) -> list[Any] | None:
    """Say which prompts that a data set may take beside the pool's repeat a benchmark prompt.

    Args:
        config: the sources, the suites and the similarity from which two prompts count as one.
        category: of the data set.
        paths: file or folder of each source, by asset name.

    Returns:
        As `overlapping`: of the harmless prompts, or of the prompts that a file of demonstrations has for filling up a
        category. Every benchmark prompt where a model invents prompts, because nobody knows yet which. None without a
        quota: nothing is filled up then, and the suites decide nothing that the pool does not say.

    Raises:
        DataError: a source or a suite cannot be read.
    """
    settings = config.demonstrations
    if category == taxonomy.HELPFUL:
        rows = read_harmless(config, paths[f"source_{settings.helpful.name}"])
        return overlapping([row.values["prompt"] for row in rows], config)
    if not settings.quota_of(str(category)):
        return None
    if settings.demonstrator.kind != "file":
        return sorted(set(benchmark_prompts(config.benchmarks.suites)))
    categories = taxonomy.load_categories(config.prompts.taxonomy)
    file = paths[f"source_{settings.demonstrator.source.name}"]
    fill_ups = FileDemonstrator(settings.demonstrator, file, categories).new_prompts(str(category), sys.maxsize, {})
    return overlapping(fill_ups, config)
