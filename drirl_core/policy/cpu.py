"""Efficient training on a CPU: settings of TRL and PEFT meant for GPUs changed for one `train()`, no token run twice.

Nothing here changes an equation. benchmarks/training_speed.py measures each against the stock settings in one run, and
tests/contract/test_lean.py compares the numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import peft
import torch
import trl.kernels.chunked_logprob
import trl.trainer.utils

from drirl_core.models.shared_prompts import start_once

_TOKENS, _ENTRIES = 512, 1024
"""A tile of logits in float32 takes 2 MiB, so that it stays in a core's cache; TRL's takes 512 MiB."""


@contextlib.contextmanager
def lean_training(model: Any) -> Iterator[None]:
    """Train `model` in the block without costs that only matter on a CPU; on a GPU this does nothing.

    Args:
        model: the trainer's model, with or without adapters.
    """
    if next(model.parameters()).device.type != "cpu":
        yield
        return
    with small_tiles(), adapters_in_model_type(model), start_once(model):
        yield


@contextlib.contextmanager
def small_tiles() -> Iterator[None]:
    """Score only positions that have a label, as TRL does on a GPU, in tiles that fit a CPU's cache.

    Stock TRL projects prompt and padding to the complete vocabulary too when there is no GPU.
    """
    with (
        mock.patch.object(trl.trainer.utils, "_use_triton", lambda device: True),  # used there for this choice only
        mock.patch.object(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", _ENTRIES),
        mock.patch.object(trl.kernels.chunked_logprob, "TOKEN_CHUNK_SIZE", _TOKENS),
    ):
        yield


@contextlib.contextmanager
def adapters_in_model_type(model: Any) -> Iterator[None]:
    """Multiply float32 adapters in the bfloat16 of the frozen weights, without casting activations back and forth."""
    if not isinstance(model, peft.PeftModel) or model.get_base_model().dtype != torch.bfloat16:
        yield
        return
    base = model.get_base_model()
    forward = base.forward
    base.forward = torch.autocast("cpu", dtype=torch.bfloat16)(forward)
    try:
        with peft.helpers.disable_input_dtype_casting(model):
            yield
    finally:
        base.forward = forward
