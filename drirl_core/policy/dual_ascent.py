"""Harm and helpful rows weighted so that over-refusal stays at a bound, by dual ascent.

Maximise the reward on unsafe prompts under the condition that the policy refuses at most a share b of the look-alikes:
the multiplier of the condition weights the harmless rows, and rises while the condition is broken. As in Safe RLHF (Dai
et al. 2024, section 3.3), it is updated as a logarithm, so that the weight stays positive:
log lambda <- clip(log lambda + step * (refused share - b)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_LIMIT = 2.0
"""Largest |log lambda|: one side weighs at most 7.4 times the other."""


class OverRefusalBound:
    """Weights of rows, driven to a bound on the refused share of look-alikes.

    Args:
        bound: b, the largest share of refused look-alikes, in (0, 1).
        step: step size of the ascent, above 0.
    """

    def __init__(self, bound: float, step: float) -> None:
        self._bound, self._step, self.log_multiplier = bound, step, 0.0

    def weights(self, kinds: Sequence[str], refused: Sequence[bool]) -> np.ndarray:
        """Update the multiplier by the rollouts of a step, and return the weights of its rows.

        Args:
            kinds: kind of each row's prompt: `unsafe`, `general` or `look_alike`.
            refused: whether the completion refuses.

        Returns:
            Mean 1, float64, (B,); the multiplier stays where no row is a look-alike.
        """
        named, refusing = np.array(kinds), np.array(refused, dtype=float)
        look_alikes = named == "look_alike"
        if look_alikes.any():
            moved = self.log_multiplier + self._step * (refusing[look_alikes].mean() - self._bound)
            self.log_multiplier = float(np.clip(moved, -_LIMIT, _LIMIT))
        weights = np.where(named == "unsafe", 1.0, np.exp(self.log_multiplier))
        return weights / weights.mean()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that an interrupted run needs, as JSON data."""
        return {"log_multiplier": self.log_multiplier}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of an interrupted run."""
        self.log_multiplier = float(state["log_multiplier"])
