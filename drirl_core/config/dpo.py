"""Settings of the baselines that learn from preference pairs. The string under a field is its help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drirl_core.config.lora import LoraConfig
from drirl_core.config.reading import added, require


@dataclass(frozen=True)
class DpoConfig:
    """Direct preference optimisation (DPO) on pairs that lie in the completion pools: a baseline."""

    epochs: float = 2.0
    """Passes over the pairs."""
    beta: float = 0.1
    """B of the loss: how strongly the policy is held to the start."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    batch_size: int = 16
    """Pairs per step."""
    max_length: int = 256
    """Longest prompt and answer together, in tokens."""
    helpful_share: float = added(0.0)
    """Share of the pairs that are of harmless prompts: as many pairs as there are, drawn so that it holds. 0 takes
    every pair once; pools of completions usually hold many more wrong answers to unsafe prompts than refusals of
    harmless ones."""
    seed: int = added(-1)
    """Seed of this training alone; -1 for the seed of the run."""
    validation_prompts: int = added(0)
    """As `policy.validation_prompts`, for `dpo` and `dpo_s`: prompts of each kind that are answered at every
    checkpoint, two per pass; the checkpoint with the best difference of refused shares is published, the start among
    them. 0 publishes the last step."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters."""
    trl: Mapping[str, Any] = added({})
    """Fields of TRL's `DPOConfig` that no setting of ours decides, for `dpo`, `dpo_s` and `irft`."""

    def __post_init__(self) -> None:
        require(self.seed >= -1, f"dpo.seed is {self.seed}; -1 for the seed of the run, or at least 0")
        require(self.epochs > 0, f"dpo.epochs is {self.epochs}; above 0")
        require(self.beta > 0, f"dpo.beta is {self.beta}; above 0")
        require(self.learning_rate > 0, f"dpo.learning_rate is {self.learning_rate}; above 0")
        require(self.batch_size >= 1, f"dpo.batch_size is {self.batch_size}; at least 1")
        require(self.max_length >= 8, f"dpo.max_length is {self.max_length}; at least 8 tokens")
        require(0 <= self.helpful_share < 1, f"dpo.helpful_share is {self.helpful_share}; choose in [0, 1)")
        require(self.validation_prompts >= 0, f"dpo.validation_prompts is {self.validation_prompts}; at least 0")
