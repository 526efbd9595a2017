"""The data set of one category: pool prompts with demonstrations, filled up, resampled, validated and split."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from drirl_core import taxonomy
from drirl_core.benchmarks.suites import benchmark_prompts
from drirl_core.config import INBOX
from drirl_core.demonstrations.coverage import WAY_OUT, report_lines
from drirl_core.demonstrations.demonstrators import ABSENT, Demonstrator, make_demonstrator
from drirl_core.demonstrations.helpful import build_helpful
from drirl_core.demonstrations.publish import publish, quarantine_row
from drirl_core.demonstrations.splits import assign_splits, hash_order, resample
from drirl_core.demonstrations.validate import AnswerIndex, Failure, check_demonstration, check_text
from drirl_core.errors import DataError
from drirl_core.store.tables import normalise, prompt_id, read_table
from drirl_core.text import chain_of_draft as cod

if TYPE_CHECKING:
    from drirl_core.graph.build import Context

_FILL_UP_BATCH = 20


def build_dataset(context: Context) -> dict[str, Any]:
    """Build the data set of `context.category`; write `rows.parquet`, `quarantine.parquet` and `counts.json`.

    Args:
        context: inputs `prompt_pool` and, for a demonstrator of kind `file`, its source and the drop folder; for the
            category `helpful` the sources of harmless prompts and of refusals.

    Returns:
        Rows by origin and split, quarantined rows, and tables of sample rows and of quarantine reasons.

    Raises:
        DataError: an input cannot be read, or too few rows are usable to fill train, validation and test.
    """
    if context.category == taxonomy.HELPFUL:
        return build_helpful(context)
    builder = SafetyBuilder(context)
    builder.use_pool()
    builder.fill_up()
    rows = builder.finish()
    counts = builder.extra_counts()
    for line in report_lines(str(context.category), counts):
        context.reporter.log(line)
    return publish(context, rows, builder.quarantine, counts, builder.losses)


class SafetyBuilder:
    """Collect the rows of one harm category.

    Args:
        context: see `build_dataset`.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, context.config.demonstrations
        self._category = str(context.category)
        self._quota = self._settings.quota_of(self._category)
        categories = taxonomy.load_categories(context.config.prompts.taxonomy)
        path = context.inputs.get(f"source_{self._settings.demonstrator.source.name}")
        dropped = context.inputs.get(f"source_{INBOX}")
        self._demonstrator: Demonstrator = make_demonstrator(
            context.config, path, categories, context.store, context.reporter, dropped
        )
        folder = context.inputs["prompt_pool"]
        self._pool = read_table(
            folder / "prompts.parquet", ("prompt_id", "prompt", "category", "source", "licence", "group_id", "style")
        )
        self._quarantined = read_table(folder / "quarantine.parquet", ("prompt", "category"))
        self._rows: list[dict[str, Any]] = []
        self._answers = AnswerIndex()
        self._wordings: set[str] = set()
        self._absent = self._considered = self._repeated = 0
        self.quarantine: list[dict[str, str]] = []
        # The file is the same for all categories: one of them tells what it lost.
        self.losses = self._demonstrator.losses if self._category == categories[0] else ()
        for row in self._demonstrator.rejected:
            # Rows of unknown category would appear in every data set; only that of the first category gets them.
            if row.category == self._category or (row.category not in categories and self._category == categories[0]):
                self._reject(row.prompt, row.demonstration, row.failure, row.category)

    @property
    def _need(self) -> int:
        """Rows that are missing; without a quota, as many as there may be."""
        return (self._quota or sys.maxsize) - len(self._rows)

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The rows that are usable so far, before the split."""
        return self._rows

    def use_pool(self) -> None:
        """Take prompts of the pool in hash order until the quota is reached or the pool is used up."""
        seed = self._context.config.seed
        own = sorted(
            (row for row in self._pool if row["category"] == self._category),
            key=lambda row: hash_order(seed, row["prompt_id"]),
        )
        while self._need > 0 and self._considered < len(own):
            part = own[self._considered : self._considered + self._need]
            self._considered += len(part)
            self._demonstrate([{**row, "origin": "pool"} for row in part])
            total = self._quota or len(own)
            self._context.reporter.progress(f"{self._category}: demonstrations", len(self._rows), total)

    def fill_up(self) -> None:
        """Take new prompts from the demonstrator while rows are missing for the quota and it has any that pass."""
        if not self._quota:
            return
        existing = {row["prompt"]: row["category"] for row in self._pool} | {
            row["prompt"] or "": row["category"] or "" for row in self._quarantined
        }
        stalled = 0
        while self._need > 0 and (self._demonstrator.finite or stalled < self._demonstrator.attempts):
            prompts = self._demonstrator.new_prompts(self._category, max(self._need, _FILL_UP_BATCH), existing)
            if not prompts:
                break
            existing |= dict.fromkeys(prompts, self._category)
            before = len(self._rows)
            clean = self._screen(prompts)
            while clean and self._need > 0:
                part, clean = clean[: self._need], clean[self._need :]
                self._demonstrate([self._new_row(prompt) for prompt in part])
            stalled = 0 if len(self._rows) > before else stalled + 1

    def finish(self) -> list[dict[str, Any]]:
        """Split the rows by group and resample training rows up to the quota, if there is one.

        Raises:
            DataError: there are too few groups to fill the three splits.
        """
        settings, seed = self._settings, self._context.config.seed
        of_group: dict[str, set[str]] = {}
        for row in self._pool:
            of_group.setdefault(row["group_id"], set()).add(row["category"])
        # A group with prompts of several categories is trained on in all of them, so that no data set tests what
        # another one teaches.
        shared = frozenset(group for group, found in of_group.items() if len(found) > 1)
        try:
            split = assign_splits(
                (row["group_id"] for row in self._rows),
                settings.validation_fraction,
                settings.test_fraction,
                seed,
                train_only=shared,
            )
        except DataError as error:
            raise DataError(self._too_few(str(error))) from error
        rows = [{**row, "split": split[row["group_id"]]} for row in self._rows]
        missing = self._need if self._quota else 0
        again = resample([row for row in rows if row["split"] == "train"], missing, seed)
        return rows + [{**row, "origin": "resampled"} for row in again]

    def extra_counts(self) -> dict[str, int]:
        """Return the counts that the rows do not show."""
        own = sum(row["category"] == self._category for row in self._pool)
        bare = {"repeated_answers": self._repeated} if self._settings.format == "answer" else {}
        return {
            **bare,
            "quota": self._quota,
            "pool_prompts": own,
            "without_demonstration": self._absent,
            "not_needed": own - self._considered,
        }

    def _demonstrate(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Have demonstrations written for rows and keep those that pass; failed rows are retried a few times."""
        pending = list(rows)
        for attempt in range(self._demonstrator.attempts):
            texts = self._demonstrator.write([(row["prompt"], self._category) for row in pending], attempt)
            last, failed = attempt + 1 == self._demonstrator.attempts, []
            for row, text in zip(pending, texts, strict=True):
                failure = self._consider(row, text)
                if failure is None:
                    continue
                failed.append(row)
                if failure.reason == ABSENT:
                    self._absent += 1
                elif last:
                    self._reject(row["prompt"], text if isinstance(text, str) else "", failure)
            pending = failed
            if not pending:
                break

    def _consider(self, row: Mapping[str, Any], text: str | Failure) -> Failure | None:
        """Keep the row if its text passes, else say why not."""
        if isinstance(text, Failure):
            return text
        checked = check_demonstration(text, self._settings.max_step_words, self._answers, form=self._settings.format)
        if isinstance(checked, Failure):
            return checked
        try:
            demonstration = cod.render(checked.steps, checked.answer) if checked.steps else checked.answer
        except DataError as error:
            return Failure("bad_format", str(error))
        if checked.steps:
            self._answers.add(row["prompt"], checked.answer)
        else:  # bare answers may repeat each other, which is counted
            wording = normalise(checked.answer).casefold()
            self._repeated += wording in self._wordings
            self._wordings.add(wording)
        kept = {name: row[name] for name in ("prompt_id", "prompt", "source", "licence", "group_id", "origin")}
        self._rows.append(
            {
                **kept,
                "category": self._category,
                "demonstration": demonstration,
                "answer": checked.answer,
                "kind": "unsafe",
                "style": row.get("style") or self._demonstrator.styles.get(row["prompt_id"], ""),
                "twin_of": "",
            }
        )
        return None

    def _new_row(self, prompt: str) -> dict[str, Any]:
        key = prompt_id(prompt)
        return {
            "prompt_id": key,
            "prompt": prompt,
            "source": self._demonstrator.source,
            "licence": self._demonstrator.licence,
            "group_id": key,
            "origin": "fill_up",
        }

    def _screen(self, prompts: Sequence[str]) -> list[str]:
        """Return the new prompts that repeat nothing in pool, benchmarks or each other; quarantine the others."""
        readable = []
        for prompt in prompts:
            broken = self._unreadable(prompt)
            if broken:
                self._reject(prompt, "", broken)
            else:
                readable.append(prompt)
        taken = [row["prompt"] for row in self._rows if row["origin"] == "fill_up"]
        verdicts = screen_prompts(readable, self._context, [row["prompt"] for row in self._pool], taken)
        for prompt, failure in zip(readable, verdicts, strict=True):
            if failure:
                self._reject(prompt, "", failure)
        return [prompt for prompt, failure in zip(readable, verdicts, strict=True) if failure is None]

    def _unreadable(self, prompt: str) -> Failure | None:
        longest = self._context.config.prompts.max_chars
        if len(prompt) > longest:
            return Failure(
                "too_long", f"the prompt has {len(prompt)} characters; at most {longest} (prompts.max_chars)"
            )
        return check_text(prompt, "prompt")

    def _reject(self, prompt: str, demonstration: str, failure: Failure, category: str | None = None) -> None:
        shown = self._category if category is None else category
        self.quarantine.append(quarantine_row(prompt, shown, demonstration, failure))

    def _too_few(self, why: str) -> str:
        counts = self.extra_counts()
        reasons = dict(Counter(row["reason"] for row in self.quarantine))
        first = f", the first because {self.quarantine[0]['detail']}" if self.quarantine else ""
        return (
            f"{self._cause(counts)}Category {self._category} has {len(self._rows)} usable rows: {why}. The pool holds "
            f"{counts['pool_prompts']} prompts of it, {self._absent} of them without a demonstration; "
            f"quarantined: {reasons or 'none'}{first}. Add prompts of this category to prompts.sources and "
            "demonstrations of them to demonstrations.demonstrator, or take the category out of the taxonomy"
        )

    def _cause(self, counts: Mapping[str, int]) -> str:
        """Say why most rows are missing."""
        reasons = Counter(row["reason"] for row in self.quarantine)
        if self._absent > reasons.total():
            return f"{self._absent} of {counts['pool_prompts']} prompts have no demonstration ({WAY_OUT}). "
        return f"{reasons.total()} rows are in quarantine, mostly {reasons.most_common(1)[0][0]}. " if reasons else ""


def screen_prompts(
    prompts: Sequence[str], context: Context, pool: Sequence[str], taken: Sequence[str]
) -> list[Failure | None]:
    """Find the new prompts that repeat a benchmark prompt, a prompt of the pool, or an earlier new one.

    Args:
        prompts: N new prompts.
        context: names the benchmark suites and the similarity from which two prompts count as one.
        pool: prompts of the pool, of all categories.
        taken: new prompts that were already accepted.

    Returns:
        N failures (`benchmark_overlap`, `near_duplicate` or `duplicate_prompt`), or None for a prompt that is new.
    """
    from drirl_core.prompts.duplicates import decontaminate, find_duplicates

    threshold = context.config.prompts.near_duplicate
    in_benchmark = decontaminate(prompts, benchmark_prompts(context.config.benchmarks.suites), threshold)
    in_pool = decontaminate(prompts, pool, threshold)
    together = [*taken, *prompts]
    among = find_duplicates(together, threshold).duplicate[len(taken) :]
    verdicts: list[Failure | None] = []
    for benchmark, known, repeated in zip(in_benchmark, in_pool, among, strict=True):
        if benchmark:
            verdicts.append(
                Failure(
                    "benchmark_overlap",
                    f"it repeats the benchmark prompt {benchmark.prompt!r} (similarity {benchmark.similarity:.2f})",
                )
            )
        elif known:
            verdicts.append(
                Failure("near_duplicate", f"it repeats the pool's {known.prompt!r} (similarity {known.similarity:.2f})")
            )
        elif repeated:
            reason = "duplicate_prompt" if repeated.exact else "near_duplicate"
            verdicts.append(
                Failure(reason, f"it repeats {together[repeated.of]!r} (similarity {repeated.similarity:.2f})")
            )
        else:
            verdicts.append(None)
    return verdicts
