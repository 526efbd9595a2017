"""The group of the processes that build an asset together: how one joins it."""

from __future__ import annotations

import datetime

from drirl_core.config import ModelsConfig

_TIMEOUT = datetime.timedelta(hours=6)
"""How long processes wait for each other: one may sample for hours while the others wait. A lost one is noticed by
whatever started them."""


def join_group(models: ModelsConfig, where: str, index: int, count: int, gpu: int) -> None:
    """Join the group of the processes, which wait for each other here.

    Args:
        models: says whether the processes compute on GPUs.
        where: the place where they meet: a file, so that none has to listen on the network, or `env://` for the address
            in the environment.
        index: of this process, from 0.
        count: number of processes.
        gpu: number of this process's own GPU on its machine; not used on a CPU.
    """
    import torch
    from accelerate import PartialState

    from drirl_core.models.loading import device_of

    on_gpu = device_of(models).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(gpu)
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=where, rank=index, world_size=count, timeout=_TIMEOUT
    )
    PartialState(cpu=not on_gpu)  # finds the group; TRL's arguments ask for it again in the same way


def leave_group() -> None:
    """Leave the group when all processes are done."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()  # none leaves before the first one has published
    PartialState().destroy_process_group()
