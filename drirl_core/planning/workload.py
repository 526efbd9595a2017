"""How much there is to do: rows and tokens of the user's files, counted with the policy's own tokenizer.

The files are read unchanged. Duplicates, overlaps with suites and rows in quarantine are not taken off, so that the
counts are upper bounds; `drirl data` says what becomes of every row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core import taxonomy
from drirl_core.benchmarks.suites import load_suite
from drirl_core.config import Config, DemonstrationsConfig
from drirl_core.demonstrations.rows import read_columns
from drirl_core.errors import ModelError
from drirl_core.graph.layout import source_path
from drirl_core.models.loading import tokenizer_at
from drirl_core.models.references import described
from drirl_core.models.templates import PROBE, chat_text
from drirl_core.prompts.adapters import read_source
from drirl_core.text.chain_of_draft import cut_draft


@dataclass(frozen=True)
class Lengths:
    """Tokens of some texts.

    Args:
        mean: of all of them.
        longest: of one.
    """

    mean: float
    longest: int


@dataclass(frozen=True)
class SuiteLoad:
    """A benchmark suite.

    Args:
        name: its name.
        rows: its prompts.
        prompts: their tokens, the prefill included.
    """

    name: str
    rows: int
    prompts: Lengths


@dataclass(frozen=True)
class Workload:
    """Rows and tokens.

    Args:
        categories: harm categories.
        unsafe: unsafe prompts, at most.
        harmless: harmless prompts, at most.
        train: share of them that is trained on.
        prompts: tokens of a rendered prompt.
        answers: tokens of what `sft.target` learns.
        suites: the suites.
    """

    categories: int
    unsafe: int
    harmless: int
    train: float
    prompts: Lengths
    answers: Lengths
    suites: tuple[SuiteLoad, ...]


def policy_folder(config: Config) -> Path:
    """Return a directory with the policy's config.json and tokenizer; its weights need not be there.

    Raises:
        ModelError: there is no such directory.
    """
    reference = config.models.policy
    scheme, _, rest = reference.partition(":")
    folder = Path(rest).expanduser() if scheme == "path" else described(reference, config.models)
    if folder is None or not (folder / "config.json").is_file():
        raise ModelError(
            f"{reference}: its config.json is not on this machine and cannot be fetched; run `drirl doctor --fetch`, "
            "or set models.policy to path:DIRECTORY, where config.json and the tokenizer are enough for a plan"
        )
    return folder


def workload_of(config: Config, folder: Path) -> Workload:
    """Read the files of a configuration and count.

    Args:
        config: the configuration.
        folder: of the policy's tokenizer.

    Raises:
        DataError: a file cannot be read.
        ConfigError: an adapter, a column map or the taxonomy cannot be used.
        ModelError: the tokenizer cannot be loaded.
    """
    tokenizer = tokenizer_at(folder, config.models.policy, config.models)
    categories, settings = taxonomy.load_categories(config.prompts.taxonomy), config.demonstrations
    read = [
        row
        for source in config.prompt_sources
        for row in read_source(
            source, source_path(source), categories, all_files=source not in config.prompts.sources
        ).rows
        if not row.reason and len(row.prompt) <= config.prompts.max_chars
    ]
    unsafe = [row.prompt for row in read]
    helpful = [
        row.values for row in read_columns(settings.helpful, source_path(settings.helpful), ("prompt", "answer"))
    ]
    added = max(0, len(chat_tokens(tokenizer)) - len(_ids(tokenizer, [PROBE])[0]))
    answers = _answers(config) + [row["answer"] for row in helpful]
    suites = []
    for suite in config.benchmarks.suites:
        rows = load_suite(suite)
        texts = [f"{row.prompt} {suite.prefill}".strip() for row in rows]
        suites.append(SuiteLoad(suite.name, len(rows), _lengths(tokenizer, texts, added)))
    return Workload(
        categories=len(categories),
        unsafe=_most_rows(Counter(row.category for row in read), categories, settings),
        harmless=min(len(helpful), settings.helpful_quota or len(helpful)),
        train=1 - settings.validation_fraction - settings.test_fraction,
        prompts=_lengths(tokenizer, [*unsafe, *(row["prompt"] for row in helpful)], added),
        answers=_lengths(tokenizer, answers, 1),
        suites=tuple(suites),
    )


def _most_rows(prompts: Counter[str | None], categories: Sequence[str], settings: DemonstrationsConfig) -> int:
    """Return how many rows all harm categories have at most.

    Args:
        prompts: by category; under None those without a label, which the router may send to any.
        categories: the harm categories.
        settings: their quotas.
    """
    most = sum(settings.quota_of(name) or prompts[name] + prompts[None] for name in categories)
    return min(prompts.total(), most)


def chat_tokens(tokenizer: Any) -> Sequence[int]:
    """Return the tokens of a short rendered prompt, which show what the template adds to every prompt."""
    return _ids(tokenizer, [chat_text(tokenizer, PROBE)])[0]


def _answers(config: Config) -> list[str]:
    """Return what the start learns for unsafe prompts; nothing where a model writes it during the run."""
    demonstrator = config.demonstrations.demonstrator
    if demonstrator.kind != "file":
        return []
    read = read_columns(demonstrator.source, source_path(demonstrator.source), ("prompt", "demonstration"))
    cut: Callable[[str], str] = cut_draft if config.sft.target == "answer" else str
    return [cut(row.values["demonstration"]) for row in read if row.failure is None]


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[Sequence[int]]:
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def _lengths(tokenizer: Any, texts: Sequence[str], added: int) -> Lengths:
    """Return the tokens of texts, each with a fixed number more."""
    if not texts:
        return Lengths(float(added), added)
    counts = [len(ids) + added for ids in _ids(tokenizer, texts)]
    return Lengths(sum(counts) / len(counts), max(counts))
