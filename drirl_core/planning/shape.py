"""What a model's configuration alone says about its weights: counts by layer, without loading any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drirl_core.errors import ModelError
from drirl_core.models.references import library_errors
from drirl_core.models.skeleton import skeleton

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
READS = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""Layers that read the normalised input of attention, and of the feed-forward part."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a dense decoder with gated feed-forward parts, such as Llama, Qwen, Mistral or SmolLM.

    Args:
        layers: L, decoder layers.
        hidden: H, width of a hidden state.
        queries: Q, width of all query heads together.
        keys: K, width of all key heads together.
        heads: number of query heads.
        intermediate: F, width of the feed-forward part.
        vocabulary: V.
        parameters: all weights; tied ones count once.
        head: weights of the output layer, whether tied or not.
        embedding: weights of the input embedding that are no output layer's; 0 where they are tied.
        linear: input and output widths of the linear layers of one decoder layer, by name.
    """

    layers: int
    hidden: int
    queries: int
    keys: int
    heads: int
    intermediate: int
    vocabulary: int
    parameters: int
    head: int
    embedding: int
    linear: tuple[tuple[str, int, int], ...]

    @property
    def in_layers(self) -> int:
        """Weights that every token meets in the decoder layers."""
        return self.parameters - self.head - self.embedding

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.queries // self.heads

    def widths(self, name: str) -> tuple[int, int] | None:
        """Return input and output width of a linear layer, or None where a layer has none of this name."""
        return next(((into, out) for known, into, out in self.linear if known == name), None)

    def adapter_weights(self, rank: int, targets: tuple[str, ...], layers: int) -> int:
        """Count the weights of low-rank adapters: rank x (input width + output width) per adapted layer.

        Args:
            rank: of the adapters.
            targets: names of the adapted linear layers.
            layers: decoder layers that are adapted.
        """
        return layers * rank * sum(into + out for name, into, out in self.linear if name in targets)

    def adapted_weights(self, targets: tuple[str, ...], layers: int) -> int:
        """Count the frozen weights of the layers that adapters change."""
        return layers * sum(into * out for name, into, out in self.linear if name in targets)


def shape_of(folder: Path, reference: object) -> ModelShape:
    """Read the sizes of a model from its config.json.

    Args:
        folder: directory with config.json.
        reference: of the model, for messages.

    Raises:
        ModelError: config.json is damaged, or describes another kind of model than this plan can count.
    """
    return shape_of_model(skeleton(folder, reference), reference)


def shape_of_model(model: Any, reference: object) -> ModelShape:
    """Count the weights of a model, which may be on the meta device.

    Args:
        model: a causal language model of transformers.
        reference: of the model, for messages.

    Raises:
        ModelError: it is no dense decoder with gated feed-forward parts.
    """
    import torch

    config = model.config.get_text_config()
    experts = next((name for name in _EXPERTS if (getattr(config, name, 0) or 0) > 1), None)
    layers = getattr(model.get_decoder(), "layers", None)
    if experts or layers is None or not all(hasattr(config, name) for name in ("intermediate_size", "hidden_size")):
        why = f"{experts} is {getattr(config, experts)}" if experts else f"{type(model).__name__} is another kind"
        raise ModelError(
            f"{reference}: --gpu can count dense decoders with gated feed-forward parts, such as Llama, Qwen or "
            f"Mistral; {why}. Measure a short run of this model instead"
        )
    linear = [
        (name.rpartition(".")[2], module.in_features, module.out_features)
        for name, module in layers[0].named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    widths = {name: out for name, _, out in linear}
    heads = int(config.num_attention_heads)
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    return ModelShape(
        layers=len(layers),
        hidden=int(config.hidden_size),
        queries=widths.get("q_proj", heads * dim),
        keys=widths.get("k_proj", (getattr(config, "num_key_value_heads", None) or heads) * dim),
        heads=heads,
        intermediate=int(config.intermediate_size),
        vocabulary=int(head.shape[0]),
        parameters=sum(weight.numel() for weight in model.parameters()),
        head=head.numel(),
        embedding=0 if head is embedding else embedding.numel(),
        linear=tuple(linear),
    )


def encoder_bytes(folder: Path, reference: object) -> int:
    """Count the bytes of a sentence encoder, which is loaded in float32.

    Args:
        folder: directory of the encoder; its configuration lies there or one level below.
        reference: of the encoder, for messages.

    Raises:
        ModelError: its config.json is missing or damaged.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    places = [folder / "config.json", *sorted(folder.glob("*/config.json"))]
    for place in places:
        if place.is_file() and "model_type" in place.read_text(encoding="utf-8"):
            with library_errors(str(reference)), torch.device("meta"):
                config = AutoConfig.from_pretrained(place.parent, trust_remote_code=False)
                model = AutoModel.from_config(config, trust_remote_code=False)
            return 4 * sum(weight.numel() for weight in model.parameters())
    raise ModelError(f"{reference} has no config.json of a transformers model; check models.encoder")
