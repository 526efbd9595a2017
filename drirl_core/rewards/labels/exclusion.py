"""What the benchmark suites keep out of the labels: the only way in which they decide them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core import taxonomy
from drirl_core.config import Config
from drirl_core.prompts.exclusion import overlapping
from drirl_core.rewards.labels.rows import LabelledRow, read_labels


def labelled_rows(config: Config, paths: Mapping[str, Path]) -> list[LabelledRow]:
    """Read the files of labels of a configuration.

    Args:
        config: names the files and the categories.
        paths: file of each source, by asset name.

    Raises:
        DataError: as `read_labels`.
    """
    categories = (*taxonomy.load_categories(config.prompts.taxonomy), taxonomy.HELPFUL)
    return read_labels({s.name: paths[f"source_{s.name}"] for s in config.label_sources}, categories)


def excluded_prompts(config: Config, category: str | None, paths: Mapping[str, Path]) -> list[list[Any]]:
    """Say which labelled prompts repeat a benchmark prompt.

    Args:
        config: the files, the suites and the similarity from which two prompts count as one.
        category: of the labels; the files are the same for all.
        paths: file or folder of each source, by asset name.

    Returns:
        As `overlapping`.

    Raises:
        DataError: a file or a suite cannot be read.
    """
    return overlapping([row.prompt for row in labelled_rows(config, paths)], config)
