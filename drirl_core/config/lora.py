"""Settings of adapters. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass

from drirl_core.config.reading import added, require


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters; rank 0 trains all weights."""

    rank: int = 16
    """Rank; 0 for full fine-tuning."""
    alpha: int = 32
    """Scale numerator."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the adapted layers."""
    first_layer: float = added(0.0)
    """Share of the depth below which nothing is adapted. The middle of a model already separates unsafe prompts from
    safe ones; adapters above it keep that, and the update needs no gradient below. 0 adapts every layer."""

    def __post_init__(self) -> None:
        require(self.rank >= 0, f"lora.rank is {self.rank}; 0 for full fine-tuning or a positive rank")
        require(self.rank == 0 or bool(self.targets), "lora.targets is empty; name the layers to adapt")
        require(self.alpha >= 1, f"lora.alpha is {self.alpha}; at least 1")
        require(0 <= self.first_layer < 1, f"lora.first_layer is {self.first_layer}; a share of the depth in [0, 1)")
