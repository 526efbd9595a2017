"""What a run would make of the data: the prompt pool and the data sets, built for a look and then thrown away.

It calls the same code as the run, so that what it shows is what the run will do. Nothing is trained; only a file of
demonstrations is tried out, because a model or an endpoint would have to write them first.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drirl_core import taxonomy
from drirl_core.benchmarks.suites import suite_prompts
from drirl_core.checks.asking import broken_promises
from drirl_core.demonstrations.coverage import Coverage, demonstrations_of, warnings
from drirl_core.demonstrations.demonstrators import FileDemonstrator
from drirl_core.demonstrations.helpful import build_helpful
from drirl_core.demonstrations.publish import publish
from drirl_core.demonstrations.rows import read_columns
from drirl_core.demonstrations.stage import SafetyBuilder
from drirl_core.errors import ConfigError, DataError, ModelError
from drirl_core.graph.build import Context
from drirl_core.graph.layout import dataset_name, source_path
from drirl_core.project import Project
from drirl_core.prompts.duplicates import decontaminate
from drirl_core.prompts.pool import Pool, Rejected, write_pool
from drirl_core.prompts.stage import assemble
from drirl_core.reporting import Reporter, SilentReporter
from drirl_core.store.tables import prompt_id, read_table

EXAMPLES = 3
"""Rows that are shown of each reason."""


@dataclass(frozen=True)
class Example:
    """One row in quarantine.

    Args:
        place: the row, and the file where there are several; empty where it is not known.
        text: its prompt or, of a file of refusals, its text.
        detail: why it cannot be used.
    """

    place: str
    text: str
    detail: str


@dataclass(frozen=True)
class Reason:
    """The rows that are in quarantine for one reason, with the first of them."""

    reason: str
    rows: int
    first: tuple[Example, ...]


@dataclass(frozen=True)
class PromptFile:
    """What becomes of the rows of one source of prompts.

    Args:
        name: of the source.
        path: its file or folder.
        read: rows in it.
        skipped: rows that the file itself marks as no unsafe prompt.
        kept: prompts of the pool.
        labelled: those whose label is in the file.
        routed: those whose category the router chose.
        quarantined: the other rows, by reason, the most frequent first.
        duplicates: rows that repeat another one, word for word or nearly.
        overlap: rows that repeat a prompt of a suite, by suite.
        covered: prompts of the pool with a demonstration; None when a model or an endpoint writes them.
        uncovered: those without one.
        first_uncovered: the first of them.
    """

    name: str
    path: str
    read: int
    skipped: int
    kept: int
    labelled: int
    routed: int
    quarantined: tuple[Reason, ...]
    duplicates: int
    overlap: Mapping[str, int]
    covered: int | None
    uncovered: int
    first_uncovered: str


@dataclass(frozen=True)
class OtherFile:
    """What becomes of the rows of a file of demonstrations, harmless prompts or refusals.

    Args:
        role: what the file is for.
        name: of the source.
        path: its file.
        read: rows in it.
        used: rows that a data set takes.
        quarantined: rows that cannot be used, by reason.
    """

    role: str
    name: str
    path: str
    read: int
    used: int
    quarantined: tuple[Reason, ...]


@dataclass(frozen=True)
class Category:
    """How far one harm category is filled.

    Args:
        name: the category.
        prompts: prompts of the pool.
        demonstrated: those of them that become rows.
        filled_up: rows whose prompts came with the demonstrations.
        quota: rows that are asked for; 0 for as many as there are.
        missing: rows below the quota, which would be copies of others.
        advice: what would fill it, or make it usable; empty when nothing is missing.
    """

    name: str
    prompts: int
    demonstrated: int
    filled_up: int
    quota: int
    missing: int
    advice: str


@dataclass(frozen=True)
class Preview:
    """All of it.

    Args:
        prompts: the sources of prompts.
        others: the other files.
        categories: the harm categories.
        warnings: what a run would do without stopping, and a user hardly wants.
        problems: what would stop a run.
        notes: what the preview could not look at.
    """

    prompts: tuple[PromptFile, ...]
    others: tuple[OtherFile, ...]
    categories: tuple[Category, ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def preview(project: Project, reporter: Reporter, folder: Path, *, routed: bool = True) -> Preview:
    """Try out all data of a configuration.

    Args:
        project: the configuration and its graph.
        reporter: gets the progress of the router.
        folder: an empty directory for files that nobody needs afterwards.
        routed: whether the router, which loads the sentence encoder, chooses categories.

    Raises:
        DataError: a source of prompts or a suite cannot be read.
        ConfigError: an adapter, a column map or the taxonomy cannot be used.
    """
    return _Preview(project, reporter, folder).run(routed)


class _Preview:
    """Build pool and data sets in a folder and count.

    Args:
        project: the configuration and its graph.
        reporter: gets the progress of the router.
        folder: where to write.
    """

    def __init__(self, project: Project, reporter: Reporter, folder: Path) -> None:
        self._project, self._config, self._folder = project, project.config, folder
        self._context = Context(
            project.config, None, dict(project.graph.sources), folder, folder, project.store, reporter
        )
        self._problems: list[str] = []
        self._rows: list[Mapping[str, Any]] = []
        self._rejected: list[Mapping[str, str]] = []

    def run(self, routed: bool) -> Preview:
        """Do all of it."""
        pool, notes = self._assemble(routed)
        write_pool(self._at("prompt_pool"), pool)
        self._check("prompt_pool")
        of_file = self._config.demonstrations.demonstrator.kind == "file"
        demonstrator = self._demonstrator(pool.categories) if of_file else None
        built = [self._category(name) if demonstrator else self._waiting(name, pool) for name in pool.categories]
        others = [self._demonstrations()] if demonstrator else []
        if not of_file:
            who = self._config.demonstrations.demonstrator.model
            notes.append(f"{who} writes the demonstrations during the run, so they are not looked at here")
        files = tuple(self._prompt_files(pool, demonstrator))
        covered = [
            Coverage(file.name, file.path, file.covered + file.uncovered, file.uncovered, file.first_uncovered)
            for file in files
            if file.covered is not None
        ]
        return Preview(
            files,
            (*others, *self._harmless()),
            tuple(built),
            tuple(warnings(self._config, covered)),
            tuple(self._problems),
            tuple(notes),
        )

    def _assemble(self, routed: bool) -> tuple[Pool, list[str]]:
        """Return the pool, without the router when it is not wanted or its encoder is not there; say so in a note."""
        note = "the category router was not asked: rows without a label are listed as not_routed"
        if routed:
            try:
                return assemble(self._context), []
            except ModelError as error:
                note = f"{note} ({error})"
        return assemble(self._context, routed=False), [note]

    def _demonstrator(self, categories: tuple[str, ...]) -> FileDemonstrator | None:
        try:
            return demonstrations_of(self._config, categories)
        except (DataError, ConfigError) as error:
            self._problems.append(str(error))
            return None

    def _at(self, name: str, category: str | None = None) -> Context:
        """Return the context of one asset; the assets made before are among its inputs."""
        out = self._folder / name
        out.mkdir(exist_ok=True)
        made = {path.name: path for path in self._folder.iterdir() if path != out}
        quiet = self._context.reporter if category is None else SilentReporter()
        return replace(
            self._context, category=category, inputs={**self._context.inputs, **made}, out=out, reporter=quiet
        )

    def _check(self, name: str) -> None:
        """Note what an asset breaks of the rules that stop a run."""
        node = self._project.graph.nodes[name]
        self._problems += [
            f"{name} breaks {said}" for said in broken_promises(node, self._folder / name, self._project)
        ]

    def _category(self, name: str) -> Category:
        """Build the data set of a category from the file of demonstrations."""
        builder = SafetyBuilder(self._at(dataset_name(name), name))
        builder.use_pool()
        builder.fill_up()
        counts = builder.extra_counts()
        quota = counts["quota"]
        origins = Counter(row["origin"] for row in builder.rows)
        self._rows += builder.rows
        self._rejected += builder.quarantine
        missing, problem = max(0, quota - len(builder.rows)), ""
        try:
            rows = builder.finish()
        except DataError as error:
            problem = str(error)
            self._problems.append(f"{dataset_name(name)}: {problem}")
            (self._folder / dataset_name(name)).rmdir()  # the harmless rows must not look for it
        else:
            publish(self._at(dataset_name(name), name), rows, builder.quarantine, counts, builder.losses)
            self._check(dataset_name(name))
        unusable = sum(bool(row["demonstration"]) for row in builder.quarantine)
        advice = _advice(name, missing, counts["without_demonstration"], unusable) if missing or problem else ""
        return Category(name, counts["pool_prompts"], origins["pool"], origins["fill_up"], quota, missing, advice)

    def _waiting(self, name: str, pool: Pool) -> Category:
        """Say how many rows a model or an endpoint has to write for a category."""
        prompts, quota = sum(item.category == name for item in pool.kept), self._config.demonstrations.quota_of(name)
        missing = max(0, quota - prompts)
        asked = f"{min(prompts, quota or prompts)} demonstrations are to be written"
        advice = f"{asked}, and {missing} new prompts with theirs" if missing else asked
        return Category(name, prompts, 0, 0, quota, missing, advice)

    def _harmless(self) -> list[OtherFile]:
        """Build the data set of harmless prompts and refusals."""
        settings, context = self._config.demonstrations, self._at(dataset_name(taxonomy.HELPFUL), taxonomy.HELPFUL)
        counts: Mapping[str, Any] = {}
        try:
            counts = build_helpful(context)
            self._check(dataset_name(taxonomy.HELPFUL))
        except (DataError, ConfigError) as error:
            self._problems.append(str(error))
        table = context.out / "quarantine.parquet"
        rejected = read_table(table) if table.is_file() else []
        files = []
        for role, source, columns, used in (
            ("harmless prompts", settings.helpful, ("prompt", "answer"), counts.get("rows", 0)),
            ("refusals", settings.refusals, ("refusal",), counts.get("refusals", 0)),
        ):
            path = source_path(source)
            own = [row for row in rejected if bool(row["prompt"]) == (role == "harmless prompts")]
            read = 0
            with contextlib.suppress(DataError, ConfigError):  # told already, as a problem
                read = len(read_columns(source, path, columns))
            files.append(OtherFile(role, source.name, str(path), read, used, _reasons(map(_rejected_row, own))))
        return files

    def _demonstrations(self) -> OtherFile:
        source = self._config.demonstrations.demonstrator.source
        path = source_path(source)
        read = len(read_columns(source, path, ("prompt", "demonstration")))
        return OtherFile(
            "demonstrations",
            source.name,
            str(path),
            read,
            len(self._rows),
            _reasons(map(_rejected_row, self._rejected)),
        )

    def _prompt_files(self, pool: Pool, demonstrator: FileDemonstrator | None) -> Iterable[PromptFile]:
        suites = {suite.name: suite_prompts(suite) for suite in self._config.benchmarks.suites}
        for source, found in zip(self._config.prompt_sources, pool.read, strict=True):
            kept = [item for item in pool.kept if item.row.source == source.name]
            rejected = [item for item in pool.rejected if item.row.source == source.name]
            reasons = Counter(item.reason for item in rejected)
            texts = list({prompt_id(item.row.prompt): item.row.prompt.strip() for item in kept}.values())
            missing = [text for text in texts if not demonstrator.covers(text)] if demonstrator else []
            yield PromptFile(
                name=source.name,
                path=str(source_path(source)),
                read=len(found.rows) + found.skipped,
                skipped=found.skipped,
                kept=len(kept),
                labelled=sum(item.confidence is None for item in kept),
                routed=sum(item.confidence is not None for item in kept),
                quarantined=_reasons(map(_pool_row, rejected)),
                duplicates=reasons["exact_duplicate"] + reasons["near_duplicate"],
                overlap=self._overlap(rejected, suites),
                covered=len(texts) - len(missing) if demonstrator else None,
                uncovered=len(missing),
                first_uncovered=missing[0] if missing else "",
            )

    def _overlap(self, rejected: Sequence[Rejected], suites: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Count the rows that repeat a prompt of each suite."""
        prompts = [item.row.prompt for item in rejected if item.reason == "benchmark_overlap"]
        threshold = self._config.prompts.near_duplicate
        found = {name: sum(map(bool, decontaminate(prompts, texts, threshold))) for name, texts in suites.items()}
        return {name: count for name, count in found.items() if count}


def _advice(name: str, missing: int, uncovered: int, unusable: int) -> str:
    """Say what would fill a category."""
    wanted = f"{missing} more rows" if missing > 1 else "one more row"
    wanted = wanted if missing else "at least 3 groups of prompts that do not resemble each other"
    ways = [f"correct the {unusable} demonstrations of it that are in quarantine"] if unusable else []
    ways += [f"write demonstrations of its prompts that have none ({uncovered})"] if uncovered else []
    return f"{wanted}: {', or '.join(ways or [f'add prompts of {name} with demonstrations'])}"


def _reasons(rows: Iterable[tuple[str, Example]]) -> tuple[Reason, ...]:
    found: dict[str, list[Example]] = {}
    for reason, example in rows:
        found.setdefault(reason, []).append(example)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(Reason(reason, len(examples), tuple(examples[:EXAMPLES])) for reason, examples in ordered)


def _pool_row(item: Rejected) -> tuple[str, Example]:
    return item.reason, Example(item.loss.place, _printable(item.row.prompt), _printable(item.detail))


def _rejected_row(row: Mapping[str, str]) -> tuple[str, Example]:
    return row["reason"], Example("", _printable(row["prompt"] or row["demonstration"]), _printable(row["detail"]))


def _printable(text: str) -> str:
    """Return a text that JSON and a terminal can take."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())
