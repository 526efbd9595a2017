"""Statistics: intervals, paired tests and calibration, as pure functions over per-prompt outcomes.

All randomness is seeded.
"""

from drirl_core.stats.calibration_error import calibration, pair_calibration
from drirl_core.stats.intervals import Estimate, bootstrap_mean, composite, resampled_composite, wilson, wilson_rate
from drirl_core.stats.paired import (
    Composite,
    McNemar,
    compare_composite,
    holm,
    mcnemar,
    paired_bootstrap,
    pooled_composite,
)

__all__ = [
    "Composite",
    "Estimate",
    "McNemar",
    "bootstrap_mean",
    "calibration",
    "compare_composite",
    "composite",
    "holm",
    "mcnemar",
    "pair_calibration",
    "paired_bootstrap",
    "pooled_composite",
    "resampled_composite",
    "wilson",
    "wilson_rate",
]
