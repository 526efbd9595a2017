"""Settings of the benchmarks: suites, judges, decoding. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drirl_core.config.judges import EmbeddedJudgeConfig, JudgeName, LlmJudgeConfig, SecondJudge, check_judges
from drirl_core.config.names import require_name
from drirl_core.config.reading import EMBEDDED, added, require


@dataclass(frozen=True)
class SuiteConfig:
    """One benchmark suite and where its rows are."""

    name: str
    """Name of a suite in drirl_core/benchmarks/suites.yaml, or of your own, declared by a `suite.yaml` in its
    `path` (lower-case letters, digits and '_', at most 63)."""
    path: str = EMBEDDED
    """A file or directory with the rows, or `embedded`."""
    limit: int = 0
    """Rows per group at most (0: all), the first by content hash; twins stay together."""
    of: str = added("")
    """The declared suite whose rows these are, where the suite has another name: one suite can be listed twice."""
    prefill: str = added("")
    """Words that every reply is made to begin with, such as `Sure, here is` (prefill attack). The verdict is on what
    the policy writes after them."""

    @property
    def declared(self) -> str:
        """Name under which the rows are declared."""
        return self.of or self.name

    def __post_init__(self) -> None:
        require_name(self.name, "benchmark suite name")
        require(
            self.prefill == self.prefill.strip(" ") and (not self.prefill or not self.prefill.isspace()),
            f"benchmarks.suites: prefill of {self.name!r} is {self.prefill!r}; give words without a blank before or "
            "after them, because the blank belongs to the token of the next word",
        )
        require(self.limit >= 0, f"benchmarks.suites: limit is {self.limit}; 0 for all rows, or more")


@dataclass(frozen=True)
class BenchmarksConfig:
    """What the policies are measured on."""

    suites: tuple[SuiteConfig, ...] = (SuiteConfig(name="embedded"),)
    """Suites to run; every one of their prompts is kept out of the training data."""
    judge: JudgeName = "rules"
    """Who judges: `rules` (wording, without weights), `embedded` (sentence embeddings and a logistic regression) or
    `llm` (a model behind an endpoint). The judge's measured error is in every report."""
    second_judge: SecondJudge = added("none")  # noqa: RUF009 - it makes a field
    """A judge that labels the same completions again; how often the two differ is reported. It decides no rate."""
    embedded: EmbeddedJudgeConfig = added(EmbeddedJudgeConfig())  # noqa: RUF009 - it makes a field
    """The judge `embedded`."""
    llm: LlmJudgeConfig = added(LlmJudgeConfig())  # noqa: RUF009 - it makes a field
    """The judge `llm`."""
    max_new_tokens: int = 64
    """Length limit of a reply."""
    batch_size: int = 64
    """Prompts decoded together (greedy)."""
    resamples: int = 10000
    """Bootstrap resamples for differences."""
    score: Literal["margin", "samples", "none"] = "margin"
    """Refusal score for ROC curves: `margin` (log-probability of refusing openings against answering ones, one forward
    pass per prompt), `samples` (share of refusals among sampled replies) or `none`."""
    score_samples: int = 8
    """Replies per prompt that `score: samples` draws at temperature 1."""
    best_of: int = added(8)
    """N of the baseline `best_of_n`: completions of a prompt, sampled at `completions.temperature`, of which it takes
    the one with the highest expected reward."""
    reference_over_refusal: float = 0.15
    """Over-refusal on validation prompts that the thresholds of floor and ceiling allow; the bound of the check is
    `checks.max_over_refusal`, which decides no result."""

    def __post_init__(self) -> None:
        check_judges(self.judge, self.second_judge, self.embedded, self.llm)
        require(len(self.suites) > 0, "benchmarks.suites is empty; name at least `embedded`")
        names = [suite.name for suite in self.suites]
        require(len(set(names)) == len(names), f"benchmarks.suites: names repeat: {names}")
        require(
            self.max_new_tokens >= 1 and self.batch_size >= 1,
            "benchmarks.max_new_tokens and batch_size must be at least 1",
        )
        require(self.resamples >= 100, f"benchmarks.resamples is {self.resamples}; at least 100")
        require(self.score_samples >= 2, f"benchmarks.score_samples is {self.score_samples}; at least 2")
        require(
            self.best_of >= 2,
            f"benchmarks.best_of is {self.best_of}; give at least 2 completions to choose from, or take best_of_n out "
            "of baselines",
        )
        require(
            0 <= self.reference_over_refusal <= 1,
            f"benchmarks.reference_over_refusal is {self.reference_over_refusal}; choose in [0, 1]",
        )
