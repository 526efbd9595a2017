"""vLLM against transformers as the sampler of a policy that does not change: speed, and how far greedy replies agree.

`python -m benchmarks.samplers [--python PYTHON] [--policy REFERENCE] [--rounds N] [--eager]`.
The same prompts, ABAB in one process; the engine has a process of its own, which waits while transformers samples.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import drirl_core
from benchmarks.machine import write
from drirl_core.config import VllmConfig, load_config
from drirl_core.models.loading import load_policy, policy_key
from drirl_core.models.sampling import SamplingSettings, chat_text
from drirl_core.models.sampling.decode import decode
from drirl_core.models.sampling.vllm_engine import Engine
from drirl_core.store.rowcache import content_key

ROWS, TOKENS = 64, 48
DRAWN = SamplingSettings(TOKENS, 1.0, ROWS)
GREEDY = dataclasses.replace(DRAWN, temperature=0.0)


def prompts() -> list[str]:
    """Return embedded harmless and unsafe prompts, half of each."""
    folder = Path(drirl_core.__file__).parent / "data"
    found = [
        [json.loads(line)["prompt"] for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("helpful.jsonl", "unsafe_prompts.jsonl")
    ]
    return [own[number * len(own) // (ROWS // 2)] for own in found for number in range(ROWS // 2)]


def main() -> None:
    """Measure and write benchmarks/results/samplers.json."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--python", default="", help="python of an environment with vLLM; empty for this one")
    arguments.add_argument("--policy", default="", help="reference of the policy; that of the demo by default")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--eager", action="store_true", help="do not compile the model")
    given = arguments.parse_args()
    models = load_config("configs/demo.yaml").models
    models = dataclasses.replace(models, policy=given.policy or models.policy)
    policy, started = load_policy(models.policy, models), time.perf_counter()
    vllm = VllmConfig(given.python, compile=not given.eager)
    engine = Engine(models.policy, models, policy_key(models.policy, models), vllm)
    start_s = time.perf_counter() - started
    print(f"engine started in {start_s:.0f} s", flush=True)
    texts = [chat_text(policy.tokenizer, prompt) for prompt in prompts()]
    samplers = {
        "transformers": lambda keys, how: decode(policy, texts, keys, how),
        "vllm": lambda keys, how: engine.decode(texts, keys, how),
    }
    speeds: dict[str, list[float]] = {name: [] for name in samplers}
    for number in range(given.rounds + 1):
        keys = [content_key(text, number) for text in texts]
        for name, sampled in samplers.items():
            before = time.perf_counter()
            tokens = sum(completion.tokens for completion in sampled(keys, DRAWN))
            speeds[name].append(tokens / (time.perf_counter() - before))
            print(f"round {number}, {name}: {speeds[name][-1]:.0f} tokens/s", flush=True)
    ours, theirs = (sampled(keys, GREEDY) for sampled in samplers.values())
    engine.close()
    write(
        "samplers",
        {
            "what": f"{ROWS} completions of at most {TOKENS} tokens, {models.policy}, {policy.model.dtype}",
            "vllm": engine.about["version"],
            "compiled": not given.eager,
            "engine_start_s": round(start_s, 1),
            "rounds": given.rounds,  # the first one, which warms up, is not counted
            "tokens_per_s": {name: round(statistics.median(found[1:])) for name, found in speeds.items()},
            "equal_greedy": round(statistics.mean(a.text == b.text for a, b in zip(ours, theirs, strict=True)), 3),
        },
    )


if __name__ == "__main__":
    main()
