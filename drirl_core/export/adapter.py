"""The adapter of an exported policy, relative to the base model that everyone can download.

A policy that started from the SFT checkpoint was adapted twice. Two low-rank changes one after the other are one change
whose rank is their sum: B2 A2 s2 + B1 A1 s1 = [B1 s1, B2 s2] [A1; A2], exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drirl_core.errors import ArtifactError
from drirl_core.policy.adapter_files import CONFIG, FOLDER, WEIGHTS

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def why_none(checkpoints: Sequence[Path]) -> str | None:
    """Say why checkpoints that were trained one after the other give no adapter of the base model; None if they do.

    Args:
        checkpoints: their directories, the first one trained from the base model.

    Raises:
        ArtifactError: an adapter is damaged.
    """
    lacking = [checkpoint for checkpoint in checkpoints if not (checkpoint / FOLDER / WEIGHTS).is_file()]
    if lacking:
        return (
            f"{lacking[0].parent.name} {lacking[0].name} holds none: all its weights were trained, or it was built "
            "before adapters were kept"
        )
    if len(checkpoints) > 1 and not all(_plain(*_read(checkpoint / FOLDER)) for checkpoint in checkpoints):
        return "the adapters of the SFT start and of the policy are not both plain LoRA of linear layers"
    return None


def write_joined(checkpoints: Sequence[Path], folder: Path, base: str) -> None:
    """Write the adapters of checkpoints that were trained one after the other as one adapter.

    Args:
        checkpoints: their directories, the first one trained from the base model.
        folder: to make; gets what PEFT loads.
        base: name of the base model.

    Raises:
        ArtifactError: an adapter is damaged.
    """
    from safetensors.torch import save_file

    found = [_read(checkpoint / FOLDER) for checkpoint in checkpoints]
    settings = dict(found[-1][0])
    weights = found[0][1] if len(found) == 1 else _joined(found)
    if len(found) > 1:
        rank = sum(one["r"] for one, _ in found)
        names = {name.removeprefix(_PREFIX).removesuffix(_DOWN) for name in weights if name.endswith(_DOWN)}
        settings |= {"r": rank, "lora_alpha": rank, "target_modules": sorted(names), "layers_to_transform": None}
    settings["base_model_name_or_path"] = base
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors.torch import load_file

    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the adapter in {folder} cannot be read ({error}); build its checkpoint again") from error
    return settings, weights


def _plain(settings: Mapping[str, Any], weights: Mapping[str, Any]) -> bool:
    """Return whether an adapter is B A alpha / r on linear layers and nothing else."""
    patterns = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
    linear = all(name.endswith((_DOWN, _UP)) for name in weights)
    return settings.get("peft_type") == "LORA" and linear and not any(settings.get(name) for name in patterns)


def _joined(found: Sequence[tuple[Mapping[str, Any], Mapping[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """Return the sum of several changes; a layer that one of them leaves alone gets zeros from it."""
    import torch

    layers = sorted({name.removesuffix(_DOWN) for _, weights in found for name in weights if name.endswith(_DOWN)})
    joined: dict[str, torch.Tensor] = {}
    for layer in layers:
        like = next(weights for _, weights in found if layer + _DOWN in weights)
        columns, rows = like[layer + _DOWN].shape[1], like[layer + _UP].shape[0]
        downs, ups = [], []
        for settings, weights in found:
            rank = settings["r"]
            downs.append(weights.get(layer + _DOWN, torch.zeros(rank, columns)).float())
            scale = settings["lora_alpha"] / rank
            ups.append(weights.get(layer + _UP, torch.zeros(rows, rank)).float() * scale)
        joined[layer + _DOWN] = torch.cat(downs, 0).contiguous()
        joined[layer + _UP] = torch.cat(ups, 1).contiguous()
    return joined
