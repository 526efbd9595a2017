"""Memory by what takes it, in bytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Parts:
    """Bytes of one process at one moment; parts of two things that lie in memory together are added.

    Args:
        weights: of the model that the stage works with.
        other_models: further frozen models, such as the second copy of the base model that rewards are read from.
        adapters: trainable low-rank weights.
        gradients: of what is trained.
        optimiser: its two moments.
        activations: intermediate results, kept for the backward pass or alive at the peak.
        kv_cache: keys and values of the tokens so far.
        logits: scores of the vocabulary, and what is computed from them.
    """

    weights: int = 0
    other_models: int = 0
    adapters: int = 0
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    kv_cache: int = 0
    logits: int = 0

    def __add__(self, other: Parts) -> Parts:
        """Return the parts of both."""
        mine, theirs = asdict(self), asdict(other)
        return Parts(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    @property
    def largest(self) -> str:
        """Name of the largest part, in words."""
        return max((field.name for field in fields(self)), key=lambda name: getattr(self, name)).replace("_", " ")
