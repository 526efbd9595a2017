"""Settings of implicit-reward fine-tuning. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drirl_core.config.reading import require


@dataclass(frozen=True)
class IrftConfig:
    """Implicit-reward fine-tuning (IRFT): rounds of preferring the demonstrations to own completions, a baseline.

    What it has in common with `dpo` is set there and read from there: `dpo.learning_rate`, `dpo.batch_size`,
    `dpo.max_length`, `dpo.lora`, `dpo.seed` and `dpo.trl`. Completions are sampled as those of the pools are
    (`completions.max_new_tokens`, `completions.temperature`).
    """

    rounds: int = 2
    """Rounds. Each samples completions from the policy that the previous round trained, the first from the SFT start,
    and is held to that policy: it is the reference of its round."""
    prompts: int = 256
    """Training prompts per round, the next ones of one random order of all of them; 0 takes all in every round."""
    samples: int = 1
    """Own completions per prompt."""
    negatives: Literal["all", "wrong"] = "all"
    """Which own completions the demonstration is preferred to. `all`: the published method, every one of them, except
    right answers to harmless prompts where the start learned its own (`sft.harmless_target: own`). `wrong`: only
    answers to unsafe prompts and refusals of harmless ones, as in the baseline `dpo`."""
    epochs: float = 1.0
    """Passes over the pairs of a round."""
    beta: float = 0.1
    """B of the implicit reward B log(policy / policy of the round's beginning)."""

    def __post_init__(self) -> None:
        for name in ("rounds", "samples"):
            require(getattr(self, name) >= 1, f"irft.{name} is {getattr(self, name)}; at least 1")
        require(self.prompts >= 0, f"irft.prompts is {self.prompts}; 0 (all training prompts) or more")
        for name in ("epochs", "beta"):
            require(getattr(self, name) > 0, f"irft.{name} is {getattr(self, name)}; above 0")
