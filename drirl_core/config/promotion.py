"""Settings of the promotion of a policy. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PromotionConfig:
    """When an aligned policy becomes the promoted one; the bounds of its gates are in `checks`."""

    automatic: bool = True
    """Under Dagster, promote a candidate by itself once all gates pass; false leaves it to `drirl promote`."""
