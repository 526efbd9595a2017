"""Seconds per policy update compared with stock TRL and PEFT on a CPU: `python -m benchmarks.training_speed`.

Log-probabilities of 32 completions of the demo's length with the demo's adapters, forward and backward; stock and lean
settings take turns in one process; the median ratio of the pairs is reported.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import Any

import peft
import torch
from trl.trainer.utils import add_fused_lm_head

from benchmarks.machine import write
from drirl_core.config import load_config
from drirl_core.models.loading import load_policy
from drirl_core.policy.cpu import lean_training
from drirl_core.policy.training import peft_config

ROUNDS, ROWS, PROMPT, COMPLETION = 5, 32, 40, 40


def seconds(model: Any, batch: dict[str, torch.Tensor], *, lean: bool) -> float:
    """Return the seconds of one forward and backward pass."""
    started = time.perf_counter()
    with lean_training(model) if lean else contextlib.nullcontext():
        model(**batch, fused_lm_head=True).loss.backward()
    return time.perf_counter() - started


def main() -> None:
    """Measure and write benchmarks/results/training_speed.json."""
    config = load_config("configs/demo.yaml")
    policy = load_policy(config.models.policy, config.models)
    add_fused_lm_head(policy.model, outputs=("log_probs", "entropy"))
    model = peft.get_peft_model(policy.model, peft_config(config.policy.lora))
    ids = torch.randint(
        0, policy.model.config.vocab_size, (ROWS, PROMPT + COMPLETION), generator=torch.Generator().manual_seed(0)
    )
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    for lean in (False, True):
        seconds(model, batch, lean=lean)
    pairs = [(seconds(model, batch, lean=False), seconds(model, batch, lean=True)) for _ in range(ROUNDS)]
    ratios = sorted(stock / ours for stock, ours in pairs)
    write(
        "training_speed",
        {
            "what": f"{ROWS} rows of {PROMPT} prompt and {COMPLETION} completion tokens, "
            f"{config.models.policy}, {policy.model.dtype}, LoRA",
            "rounds": ROUNDS,
            "stock_s": round(statistics.median(s for s, _ in pairs), 2),
            "lean_s": round(statistics.median(o for _, o in pairs), 2),
            "speedup_median": round(statistics.median(ratios), 2),
            "speedup_min_max": [round(ratios[0], 2), round(ratios[-1], 2)],
        },
    )


if __name__ == "__main__":
    main()
