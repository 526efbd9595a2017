"""Settings of the hardness coefficients. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drirl_core.config.reading import require


@dataclass(frozen=True)
class HardnessConfig:
    """Data hardness, model responsiveness and the coefficient alpha (docs/method.md, section 4)."""

    combine: Literal["product", "sum", "data", "model", "none", "shuffled"] = "product"
    """How alphaD and alphaM make alpha; `shuffled` is the placebo, `none` is alpha = 1."""
    similarity: Literal["sub_sentence", "full_text"] = "sub_sentence"
    """Compare sub-sentences pairwise, or the complete texts."""
    direction: Literal["demonstration", "completion", "symmetric"] = "demonstration"
    """Whose sub-sentences look for their best match; symmetric is the harmonic mean."""
    responsiveness: Literal["filtered", "ema"] = "filtered"
    """alphaM from the masked gaps (the paper), or from a running mean."""
    keep_quantile: float = 0.8
    """tau is the quantile that keeps this share of the gaps."""
    tau: float | None = None
    """A fixed tau instead of the quantile."""
    ema_decay: float = 0.9
    """Decay of the running mean, for responsiveness `ema`."""
    refresh: Literal["step", "epoch", "once"] = "step"
    """How often alpha is recomputed from the policy's own completions; `once` keeps the stored table."""
    granularity: Literal["prompt", "completion"] = "prompt"
    """One alpha per group (mean over its completions), or one per completion."""
    sharpness: float = 1.0
    """alpha is raised to this power; 1 is the paper."""

    def __post_init__(self) -> None:
        require(self.sharpness >= 1, f"hardness.sharpness is {self.sharpness}; at least 1 (1 is the paper)")
        require(0 < self.keep_quantile <= 1, f"hardness.keep_quantile is {self.keep_quantile}; choose in (0, 1]")
        require(self.tau is None or self.tau >= 0, f"hardness.tau is {self.tau}; at least 0, or leave it out")
        require(0 <= self.ema_decay < 1, f"hardness.ema_decay is {self.ema_decay}; choose in [0, 1)")
