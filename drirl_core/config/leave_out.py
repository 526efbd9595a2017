"""What no policy is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from drirl_core.config.reading import added, require


@dataclass(frozen=True)
class LeaveOutConfig:
    """What no policy is trained on, to measure what carries over to it."""

    categories: tuple[str, ...] = added(())
    """Harm categories whose prompts teach and choose no policy, nor do the harmless twins of these prompts: neither the
    SFT start nor GRPO, RLOO or a baseline. Their data sets, reward models, hardness and suites are made as usual, and
    so are floor and ceiling."""

    def __post_init__(self) -> None:
        require(
            len(set(self.categories)) == len(self.categories),
            f"leave_out.categories names one twice: {', '.join(self.categories)}",
        )
