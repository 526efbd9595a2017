"""Weights that processes hold in parts (FSDP2, through transformers): how they are loaded, and what follows from it.

Each process reads its own part of every layer from the files. A layer's weights are gathered when it computes, so that
all processes have to run a model equally often, and are dropped again. Adapters that are added later are complete in
each process.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from drirl_core.errors import ModelError

if TYPE_CHECKING:
    import torch


def sharded_loading(shards: int, device: torch.device) -> dict[str, Any]:
    """Return the arguments with which transformers loads a part of the weights; none where a process has them all.

    Args:
        shards: processes of the group of this one, all of which load the model.
        device: where they compute.

    Raises:
        ModelError: transformers would choose another device.
    """
    if shards == 1:
        return {}
    import torch
    from transformers.distributed import DistributedConfig

    here = torch.accelerator.current_accelerator(check_available=True)
    if (here.type if here else "cpu") != device.type:
        raise ModelError(
            f"models.device is {device.type}, but this machine has a device of the kind {here}, on which transformers "
            "would put the parts of the weights; set models.device to auto, hide the device (CUDA_VISIBLE_DEVICES=), "
            "or set execution.sharding to none"
        )

    return {"distributed_config": DistributedConfig(fsdp_size=shards)}


def is_sharded(model: Any) -> bool:
    """Say whether a model of transformers or PEFT holds a part of its weights in this process."""
    return bool(getattr(model, "is_distributed_loading_by_transformers", False))


def without_gradients(model: Any) -> AbstractContextManager[Any]:
    """Compute without gradients, as fast as the weights allow: gathered ones are trained with afterwards.

    Args:
        model: of transformers or PEFT.
    """
    import torch

    return torch.no_grad() if is_sharded(model) else torch.inference_mode()


def keep_sharded(model: Any) -> None:
    """Keep PEFT from gathering all weights whenever adapters are saved.

    It does so for a model that tensor parallelism divides, and takes any size of it, 1 among them, for that (0.21).

    Args:
        model: loaded with `sharded_loading`.
    """
    model._tp_size = None
