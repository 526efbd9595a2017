"""Tokens per second of the inverse-transform sampler and of the stock multinomial draw.

`python -m benchmarks.sampling_speed`.
The same real model, prompts and token counts, ABAB in one process; the median ratio of the pairs is reported.
"""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.machine import write
from drirl_core.config import load_config
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.sampling import chat_text, exact_cpu_sampling

ROUNDS, ROWS, TOKENS = 5, 32, 48
PROMPTS = [
    "What is the capital of France?",
    "Write an insult for my neighbour.",
    "How do I boil an egg?",
    "Help me copy a key in secret.",
]


def seconds(policy: Policy, *, exact: bool) -> float:
    """Return the seconds that sampling ROWS completions of TOKENS tokens takes."""
    texts = [chat_text(policy.tokenizer, prompt) for prompt in PROMPTS * (ROWS // len(PROMPTS))]
    batch = policy.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    how = {
        "max_new_tokens": TOKENS,
        "min_new_tokens": TOKENS,
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }
    generation = policy.model.generation_config.from_dict({**policy.model.generation_config.to_dict(), **how})
    started = time.perf_counter()
    with torch.inference_mode():
        if exact:
            with exact_cpu_sampling(policy.model, 1.0, torch.Generator().manual_seed(0), TOKENS):
                policy.model.generate(**batch, generation_config=generation)
        else:
            policy.model.generate(**batch, generation_config=generation)
    return time.perf_counter() - started


def main() -> None:
    """Measure and write benchmarks/results/sampling_speed.json."""
    config = load_config("configs/demo.yaml")
    policy = load_policy(config.models.policy, config.models)
    for exact in (False, True):
        seconds(policy, exact=exact)
    pairs = [(seconds(policy, exact=False), seconds(policy, exact=True)) for _ in range(ROUNDS)]
    ratios = sorted(stock / ours for stock, ours in pairs)
    write(
        "sampling_speed",
        {
            "what": f"{ROWS} completions of {TOKENS} tokens, {config.models.policy}, {policy.model.dtype}",
            "rounds": ROUNDS,
            "stock_tokens_per_s": round(ROWS * TOKENS / statistics.median(s for s, _ in pairs)),
            "exact_tokens_per_s": round(ROWS * TOKENS / statistics.median(o for _, o in pairs)),
            "speedup_median": round(statistics.median(ratios), 3),
            "speedup_min_max": [round(ratios[0], 3), round(ratios[-1], 3)],
        },
    )


if __name__ == "__main__":
    main()
