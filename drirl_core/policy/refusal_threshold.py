"""A refusal threshold as a way of decoding: a prompt whose refusal score is above it gets the policy's own refusal.

The score and the openings are those of the benchmarks' ROC curve, so a threshold moves a policy along its own curve,
without training, towards more refusals. Below the threshold the policy decides as usual, and may still refuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core import taxonomy
from drirl_core.benchmarks.refusal_score import OPENINGS, REFUSING, score_prompts
from drirl_core.benchmarks.threshold import Threshold, calibrate
from drirl_core.errors import ConfigError
from drirl_core.graph.layout import dataset_name
from drirl_core.reporting import Reporter
from drirl_core.text.chain_of_draft import cut_draft

if TYPE_CHECKING:
    from drirl_core.config import Config
    from drirl_core.graph.planned import Named
    from drirl_core.models.loading import Policy
    from drirl_core.models.sampling import Completion
    from drirl_core.store.artifacts import ArtifactStore

AUTO = "auto"
"""Asks for a threshold that is calibrated on validation prompts."""


@dataclass(frozen=True)
class Decision:
    """What a threshold says about a prompt.

    Args:
        score: refusal score of the prompt.
        threshold: of the policy.
    """

    score: float
    threshold: float

    @property
    def refuses(self) -> bool:
        """Whether the score is above the threshold."""
        return self.score > self.threshold


def read_threshold(text: str) -> float | None:
    """Read a threshold from the command line.

    Args:
        text: a number, or `auto`.

    Returns:
        The number; None for `auto`.

    Raises:
        ConfigError: it is neither.
    """
    if text.strip().lower() == AUTO:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(
            f"--threshold {text}: give a refusal score, such as 1.5, or `auto` to calibrate one on validation prompts"
        )
    return value


@dataclass(frozen=True)
class RefusalThreshold:
    """Thresholds of policies, and the replies above them.

    Args:
        given: the threshold of every policy; None to calibrate one for each.
        validation: validation prompts by kind, to calibrate with; empty where `given` is a number.
        config: the complete configuration; says how prompts are scored.
        store: keeps scores and completions row by row.
        bound: share of the validation look-alikes that a calibrated threshold may refuse, in [0, 1].
    """

    given: float | None
    validation: Mapping[str, Sequence[str]]
    config: Config
    store: ArtifactStore
    bound: float

    def of(self, policy: str | Path | Policy, reporter: Reporter) -> float | Threshold:
        """Return the threshold of a policy: the number given, or one chosen on validation prompts.

        Scores are kept per prompt under the digest of the policy, so that the same policy is scored once, and another
        bound costs nothing.

        Raises:
            DataError: there is no look-alike among the validation prompts, or a prompt is too long for the policy.
        """
        if self.given is not None:
            return self.given
        prompts = [prompt for own in self.validation.values() for prompt in own]
        unsafe = [kind == "unsafe" for kind, own in self.validation.items() for _ in own]
        scores = score_prompts(policy, prompts, self.config, self.store, reporter)
        return calibrate(scores, unsafe, self.bound)

    def decide(
        self, policy: str | Path | Policy, prompt: str, threshold: float | Threshold, reporter: Reporter
    ) -> Decision:
        """Score a prompt against a policy's threshold.

        Args:
            policy: model reference, checkpoint directory or loaded policy.
            prompt: the prompt.
            threshold: as `of` gave it.
            reporter: gets progress.

        Raises:
            DataError: the prompt is longer than the policy can read.
        """
        (score,) = score_prompts(policy, [prompt], self.config, self.store, reporter)
        return Decision(score, threshold.value if isinstance(threshold, Threshold) else threshold)

    def refusal(self, policy: str | Path | Policy, prompt: str, max_new_tokens: int, reporter: Reporter) -> Completion:
        """Return a policy's own best refusal: its likeliest refusing opening that it continues to a refusal.

        A policy may continue an opening to an answer ("No problem, ..."), so openings are tried from the likeliest on,
        until the rules judge reads a refusal. A policy that continues none so gets the likeliest.

        Args:
            policy: model reference, checkpoint directory or loaded policy.
            prompt: the prompt.
            max_new_tokens: length limit of what follows the opening.
            reporter: gets progress.

        Returns:
            The completion, greedy, with its opening.

        Raises:
            DataError: the prompt leaves no room for a reply in what the policy can read.
        """
        from drirl_core.benchmarks.judges.rules import label_reply
        from drirl_core.models.likelihood import continuation_log_probs
        from drirl_core.models.sampling import SamplingSettings, sample

        how: dict[str, Any] = {"models": self.config.models, "store": self.store, "reporter": reporter}
        batch = self.config.benchmarks.batch_size
        (log_probs,) = continuation_log_probs(policy, [prompt], OPENINGS, batch, **how)
        likeliest = sorted(zip(log_probs[: len(REFUSING)], REFUSING, strict=True), key=lambda pair: -pair[0])
        tried: list[Completion] = []
        for _, opening in likeliest:
            settings = SamplingSettings(max_new_tokens, 0.0, 1, self.config.seed, opening)
            drawn = sample(policy, [prompt], 1, settings, **how)[0][0]
            tried.append(replace(drawn, text=opening + drawn.text))
            if label_reply(cut_draft(tried[-1].text), prompt) == "refusal":
                return tried[-1]
        return tried[0]


def load_threshold(named: Named, text: str, bound: float) -> RefusalThreshold:
    """Make the threshold of a configuration or of a recorded result.

    Args:
        named: gives the data sets, whose validation prompts a threshold is calibrated on.
        text: a number, or `auto`.
        bound: share of the validation look-alikes that a calibrated threshold may refuse, in [0, 1].

    Raises:
        ConfigError: the text is neither, or the configuration has no refusal score.
        ArtifactError: a data set is not built yet; the message says which command builds it.
    """
    project, given = named.project, read_threshold(text)
    if project.config.benchmarks.score == "none":
        raise ConfigError(
            "--threshold needs a refusal score, and benchmarks.score is 'none'; set it to margin or samples"
        )
    if given is not None:
        return RefusalThreshold(given, {}, project.config, project.store, bound)
    from drirl_core.policy.validation import prompts_by_kind

    names = {name: dataset_name(name) for name in (*project.graph.categories, taxonomy.HELPFUL)}
    found = named.open(*names.values())
    prompts = prompts_by_kind({name: found[asset].path for name, asset in names.items()})
    validation = {kind: list(own.values()) for kind, own in prompts.items()}
    return RefusalThreshold(None, validation, project.config, project.store, bound)
