"""Settings of the reward backbone `adapter`. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass

from drirl_core.config.lora import LoraConfig
from drirl_core.config.reading import require


@dataclass(frozen=True)
class RewardAdapterConfig:
    """The backbone `adapter`: a LoRA adapter and a linear score head per category on the frozen initial policy."""

    rank: int = 8
    """Rank of the adapters."""
    alpha: int = 16
    """Scale numerator."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the adapted layers."""
    first_layer: float = 0.6
    """Share of the depth below which nothing is adapted. What the lower layers make of the pools is computed once, and
    the update needs no gradient there."""
    learning_rate: float = 5e-4
    """AdamW learning rate of adapter and head."""
    epochs: int = 6
    """Passes over the training prompts; the epoch with the best validation loss is kept, and two epochs without a
    better one are the last."""
    batch_size: int = 4
    """Prompts per step, each with its demonstration and all its completions."""
    micro_tokens: int = 4096
    """Most tokens that are computed with gradients at once; a step of more is computed in parts. The completions of one
    prompt are never divided, because its loss needs all of them."""

    @property
    def lora(self) -> LoraConfig:
        """The adapters in the words of the policy's settings."""
        return LoraConfig(self.rank, self.alpha, self.targets, self.first_layer)

    def __post_init__(self) -> None:
        require(self.rank >= 1, f"rewards.adapter.rank is {self.rank}; at least 1")
        require(self.alpha >= 1, f"rewards.adapter.alpha is {self.alpha}; at least 1")
        require(bool(self.targets), "rewards.adapter.targets is empty; name the layers to adapt")
        require(
            0 <= self.first_layer < 1,
            f"rewards.adapter.first_layer is {self.first_layer}; a share of the depth in [0, 1)",
        )
        require(self.learning_rate > 0, f"rewards.adapter.learning_rate is {self.learning_rate}; above 0")
        for name in ("epochs", "batch_size", "micro_tokens"):
            require(getattr(self, name) >= 1, f"rewards.adapter.{name} is {getattr(self, name)}; at least 1")
