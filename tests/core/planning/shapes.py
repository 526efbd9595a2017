"""A model small enough to count by hand."""

from typing import Any

from drirl_core.planning.shape import ModelShape

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LINEAR = (
    ("q_proj", 4, 4), ("k_proj", 4, 2), ("v_proj", 4, 2), ("o_proj", 4, 4),
    ("gate_proj", 4, 6), ("up_proj", 4, 6), ("down_proj", 6, 4),
)  # fmt: skip
"""H = 4, Q = 4, K = 2, F = 6: 16 + 8 + 8 + 16 + 24 + 24 + 24 = 120 weights."""


def hand_shape(**changes: Any) -> ModelShape:
    """Return 2 layers of 120 linear and 8 norm weights, a final norm of 4, and a tied head of V = 10 rows of 4."""
    values = {
        "layers": 2, "hidden": 4, "queries": 4, "keys": 2, "heads": 2, "intermediate": 6, "vocabulary": 10,
        "parameters": 2 * 128 + 4 + 40, "head": 40, "embedding": 0, "linear": LINEAR,
    }  # fmt: skip
    return ModelShape(**{**values, **changes})
