"""Settings of the promotion of a policy. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass

from drirl_core.config.reading import require


@dataclass(frozen=True)
class PromotionConfig:
    """When an aligned policy becomes the promoted one; the bounds of its gates stand in `benchmarks` and `policy`."""

    automatic: bool = True
    """Under Dagster, promote a candidate by itself once all gates pass; false leaves it to `drirl promote`."""
    level: float = 0.05
    """A candidate is worse than the promoted policy when a paired test on the same prompts says so at this level."""

    def __post_init__(self) -> None:
        require(0 < self.level < 1, f"promotion.level is {self.level}; choose in (0, 1), such as 0.05")
