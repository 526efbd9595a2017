"""Sampling and updates with different waiting rules of the OpenMP threads, on an idle and on a busy machine.

`python -m benchmarks.busy_machine`. Each measurement is a fresh process, because the rule is read when torch loads.
Busy means one other process per core that computes without a pause. The rules take turns, round by round, so that a
change of the machine's speed affects all.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.machine import write

ROUNDS, ROWS, TOKENS = 3, 32, 24
RULES: dict[str, dict[str, str]] = {
    "stock": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin_100": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "100"},
    "spin_1000": {"GOMP_SPINCOUNT": "1000"},
    "spin_10000": {"GOMP_SPINCOUNT": "10000"},
    "spin_100000": {"GOMP_SPINCOUNT": "100000"},
}


def work() -> None:
    """Sample and train in this process; print the seconds of both as JSON."""
    from benchmarks.sampling_speed import PROMPTS
    from drirl_core.config import load_config
    from drirl_core.models.loading import load_policy
    from drirl_core.models.sampling import SamplingSettings, chat_text
    from drirl_core.models.sampling.decode import decode

    config = load_config("configs/demo.yaml")
    policy = load_policy(config.models.policy, config.models)
    texts = [chat_text(policy.tokenizer, prompt) for prompt in PROMPTS * (ROWS // len(PROMPTS))]
    keys = [f"{row:016x}" for row in range(ROWS)]
    decode(policy, texts[:4], keys[:4], SamplingSettings(2, 0.7, 4))  # warms up
    started = time.perf_counter()
    tokens = sum(c.tokens for c in decode(policy, texts, keys, SamplingSettings(TOKENS, 0.7, ROWS)))
    sampling = time.perf_counter() - started
    for weight in policy.model.parameters():
        weight.requires_grad_(False)
    for layer in policy.model.model.layers[18:]:
        layer.requires_grad_(True)
    batch = policy.tokenizer(texts[:8], return_tensors="pt", padding=True, add_special_tokens=False)
    started = time.perf_counter()
    policy.model(**batch, labels=batch["input_ids"]).loss.backward()
    print(json.dumps({"tokens_per_s": tokens / sampling, "update_s": time.perf_counter() - started}))


@contextlib.contextmanager
def other_load(busy: bool) -> Iterator[None]:
    """Keep every core busy with another process inside the block."""
    count = os.cpu_count() or 1 if busy else 0
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(rule: dict[str, str]) -> dict[str, float]:
    """Return what `work` prints in a fresh process under a waiting rule."""
    plain = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-c", "from benchmarks.busy_machine import work; work()"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**plain, **rule})
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and write benchmarks/results/busy_machine.json."""
    found: dict[str, dict[str, float]] = {}
    for load in ("idle", "busy"):
        with other_load(load == "busy"):
            rounds = [{name: measure(rule) for name, rule in RULES.items()} for _ in range(ROUNDS)]
        for name in RULES:
            for key in ("tokens_per_s", "update_s"):
                value = statistics.median(one[name][key] for one in rounds)
                ratio = statistics.median(one[name][key] / one["stock"][key] for one in rounds)
                row = found.setdefault(name, {})
                row[f"{load}_{key}"], row[f"{load}_{key}_ratio"] = round(value, 2), round(ratio, 2)
    what = f"{ROWS} completions of {TOKENS} tokens; one update of 8 rows; ratios to the stock rule of the same round"
    write("busy_machine", {"what": what, "rounds": ROUNDS, "rules": found})


if __name__ == "__main__":
    main()
