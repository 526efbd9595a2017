"""What eight reward models cost: `python -m benchmarks.reward_backbones [--device cuda] [--random 135M]`.

For the backbones `adapter` and `hidden_state`: memory of one and of eight reward models on their frozen policy, each
in a process of its own; for `adapter` a mixed batch of eight categories against the same rows under one adapter, in
turns; and the share of a GRPO step of the demo's size that eight reward models take. Weights of the reward models are
random, which changes no cost. With `--random` so are those of the policy, in the shape of the demo's, where its files
are not at hand. Only torch, transformers, peft and trl are needed. Results are kept by device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.machine import RESULTS, describe
from drirl_core.config import LoraConfig, ModelsConfig
from drirl_core.config.reward_adapter import RewardAdapterConfig
from drirl_core.config.strict_yaml import read_yaml
from drirl_core.models.adapted import AdaptedPolicy
from drirl_core.models.adapters import adapters_of
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.models.loading import load_policy
from drirl_core.rewards.backbones.adapter import AdapterRewardModel, AdapterShape
from drirl_core.rewards.backbones.hidden_state import HiddenShape, HiddenStateRewardModel
from drirl_core.rewards.model import load_reward_model
from drirl_core.rewards.routing import RewardRouter
from drirl_core.store.artifacts import ArtifactStore

ROOT = Path(__file__).parents[1]
CATEGORIES = tuple(f"category_{k}" for k in range(8))
GENERATIONS, NEW_TOKENS, PROMPT_WORDS = 4, 24, 40
SHAPES: dict[str, dict[str, int]] = {
    "135M": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3,
    },
    "tiny": {
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip
"""Shapes of random policies; the first is that of SmolLM2-135M-Instruct, its output layer tied to the embeddings."""
_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ["<|unknown|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>"]


class Rows(NamedTuple):
    """Prompts with completions, and the category of each in a mixed batch."""

    prompts: list[str]
    completions: list[str]
    categories: list[str]


def make_policy(folder: Path, shape: dict[str, int]) -> Path:
    """Write a random Llama whose tokenizer has one word per token; return its directory."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [*_SPECIAL, *(f"w{i}" for i in range(shape["vocab_size"] - len(_SPECIAL)))]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=_SPECIAL[0]))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(_SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token=_SPECIAL[0], eos_token=_SPECIAL[1], pad_token=_SPECIAL[-1]
    )
    tokenizer.chat_template = _TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape, max_position_embeddings=8192, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows_of(count: int, shape: dict[str, int] | None) -> Rows:
    """Return `count` prompts with `GENERATIONS` completions each: random words, or rows of the embedded data."""
    if shape is None:
        file = ROOT / "drirl_core" / "data" / "demonstrations.jsonl"
        data = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:: max(1, 1400 // count)]]
        users = [row["prompt"] for row in data[:count]]
        answers = [row["demonstration"].rpartition("####")[2].strip() for row in data]
        texts = [answers[i % len(answers)][:110] for i in range(count * GENERATIONS)]
    else:
        chance = torch.Generator().manual_seed(1)
        drawn = torch.randint(0, shape["vocab_size"] - len(_SPECIAL), (count * 8, PROMPT_WORDS), generator=chance)
        lines = [[f"w{number}" for number in row] for row in drawn.tolist()]
        users = [" ".join(line) for line in lines[:count]]
        texts = [" ".join(line[:NEW_TOKENS]) for line in lines[count : count * (1 + GENERATIONS)]]
    categories = [CATEGORIES[i % len(CATEGORIES)] for i in range(count) for _ in range(GENERATIONS)]
    return Rows([user for user in users for _ in range(GENERATIONS)], texts, categories)


def write_models(folder: Path, models: ModelsConfig) -> None:
    """Write reward models with random weights for all categories and both backbones."""
    source = HiddenStates(models, ArtifactStore(folder / "store"), keep=False)
    host, own = source.adapted, RewardAdapterConfig()
    lora = adapters_of(own.lora, host.model, "rewards.adapter", source.reference)
    torch.manual_seed(0)
    layer = source.layer_of(0.6)
    for category in CATEGORIES:
        weights = host.weights(host.add(lora))
        for name, weight in weights.items():
            if "lora_B" in name:  # a new adapter changes nothing
                torch.nn.init.normal_(weight, std=0.02)
        shape = AdapterShape(
            category, source.reference, source.digest, host.dim, own.rank, own.alpha, own.targets, own.first_layer,
            own.micro_tokens,
        )  # fmt: skip
        adapter = AdapterRewardModel(shape, weights, torch.zeros(host.dim), torch.ones(host.dim))
        hidden = HiddenShape(
            category, source.reference, source.digest, layer, source.dim, "prompt_and_completion", 64, 0.1
        )
        head = HiddenStateRewardModel(hidden, torch.zeros(hidden.width), torch.ones(hidden.width))
        for name, model in (("adapter", adapter), ("hidden_state", head)):
            place = folder / name / category
            place.mkdir(parents=True)
            model.save(place)


def router_of(
    folder: Path, backbone: str, count: int, models: ModelsConfig, *, one_by_one: bool = False
) -> RewardRouter:
    """Open the first `count` reward models of a backbone on a frozen policy."""
    source = HiddenStates(models, ArtifactStore(folder / "store"), keep=False)
    if one_by_one:
        source.adapted = AdaptedPolicy(source.policy(), one_by_one=True)
    found = {name: load_reward_model(folder / backbone / name) for name in CATEGORIES[:count]}
    return RewardRouter(found, None, source)


def memory(folder: Path, backbone: str, count: int, models: ModelsConfig, rows: Rows) -> dict[str, float]:
    """Return MiB that `count` reward models hold after they scored a batch, and on a GPU the most while they did."""
    router = router_of(folder, backbone, count, models)
    categories = [name if name in router.categories else CATEGORIES[0] for name in rows.categories]
    on_gpu = models.device == "cuda"
    for _ in range(2):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        router.rewards(rows.prompts, rows.completions, categories)
    if on_gpu:
        return {
            "at_rest": torch.cuda.memory_allocated() / 2**20,
            "in_a_batch": torch.cuda.max_memory_allocated() / 2**20,
        }
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return {"process": resident / 2**10}


def in_process(command: Sequence[str]) -> Any:
    """Run a part of this benchmark in a new process and return what it prints last."""
    program = [sys.executable, "-m", "benchmarks.reward_backbones", *command]
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def seconds(router: RewardRouter, rows: Rows, categories: Sequence[str]) -> float:
    """Return the seconds of rewarding a batch; the rewards come back to the CPU, so that a GPU has finished."""
    started = time.perf_counter()
    router.rewards(rows.prompts, rows.completions, categories)
    return time.perf_counter() - started


def mixed_against_single(routers: Sequence[RewardRouter], rows: Rows, rounds: int) -> dict[str, Any]:
    """Time the same rows under one adapter, in a mixed batch, and in one that goes through adapters one by one.

    Args:
        routers: two on the same reward models, the second of which goes through adapters one by one.
        rows: the batch.
        rounds: times that the three take turns.
    """
    single = [CATEGORIES[0]] * len(rows.prompts)
    ways = ((routers[0], single), (routers[0], rows.categories), (routers[1], rows.categories))
    for router, categories in ways:
        seconds(router, rows, categories)
    taken = [[seconds(router, rows, categories) for router, categories in ways] for _ in range(rounds)]
    result: dict[str, Any] = {"rows": len(rows.prompts), "prompts": len(set(rows.prompts))}
    result["single_s"] = round(statistics.median(row[0] for row in taken), 4)
    for place, name in ((1, "mixed"), (2, "mixed_one_by_one")):
        ratios = sorted(row[place] / row[0] for row in taken)
        result[name] = {
            "seconds": round(statistics.median(row[place] for row in taken), 4),
            "to_single_median": round(statistics.median(ratios), 3),
            "to_single_min_max": [round(ratios[0], 3), round(ratios[-1], 3)],
        }
    return result


def share_of_step(router: RewardRouter, models: ModelsConfig, rows: Rows, steps: int) -> dict[str, Any]:
    """Train a policy by GRPO with the router's rewards; return the seconds of a step and of its rewards."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig

    from drirl_core.policy.cpu import lean_training
    from drirl_core.policy.rollout import message_text
    from drirl_core.policy.shared_states import SharedStates, equal_up_to
    from drirl_core.policy.trainer import DynamicRewardScalingTrainer

    ends = [time.perf_counter()]

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        users, texts = ([message_text(one) for one in column] for column in (prompts, completions))
        return list(map(float, router.rewards(users, texts, columns["category"])))

    policy, on_cpu = load_policy(models.policy, models), models.device != "cuda"
    shared = None
    if router.reads is not None:
        source, layer = router.reads
        if equal_up_to(layer, policy.model, source.policy().model):
            shared = SharedStates(source, layer, policy.tokenizer)
    unique = list(dict(zip(rows.prompts, rows.categories, strict=True)).items())
    data = [{"prompt": [{"role": "user", "content": user}], "category": name} for user, name in unique * (steps + 1)]
    arguments = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=on_cpu, bf16=not on_cpu, gradient_checkpointing=not on_cpu,
        max_steps=steps + 1, per_device_train_batch_size=len(rows.prompts), steps_per_generation=1,
        num_generations=GENERATIONS, max_completion_length=NEW_TOKENS, temperature=0.7, beta=0.02, learning_rate=1e-3,
        loss_type="grpo", scale_rewards="none", shuffle_dataset=False, remove_unused_columns=False, report_to="none",
        logging_steps=1, disable_tqdm=True, save_strategy="no", seed=0,
    )  # fmt: skip
    trainer = DynamicRewardScalingTrainer(
        reward_funcs=reward, exact_sampling=on_cpu, shared=shared, model=policy.model, args=arguments,
        train_dataset=Dataset.from_list(data), processing_class=policy.tokenizer, callbacks=[Clock()],
        peft_config=adapters_of(LoraConfig(first_layer=0.6), policy.model, "policy.lora", models.policy),
    )  # fmt: skip
    ends[0] = time.perf_counter()
    with lean_training(trainer.model):
        trainer.train()
    step_s = [end - start for start, end in itertools.pairwise(ends[1:])]  # the first one warms up
    reward_s = [row["time/reward_s"] for row in trainer.state.log_history if "time/reward_s" in row][1:]
    shares = [own / whole for own, whole in zip(reward_s, step_s, strict=True)]
    return {
        "steps": len(shares),
        "step_s": round(statistics.median(step_s), 3),
        "reward_s": round(statistics.median(reward_s), 4),
        "share_median": round(statistics.median(shares), 4),
        "share_min_max": [round(min(shares), 4), round(max(shares), 4)],
    }


def measure(folder: Path, models: ModelsConfig, given: argparse.Namespace) -> dict[str, Any]:
    """Measure everything on one device."""
    shape = SHAPES[given.random] if given.random else None
    write_models(folder, models)
    options = ["--device", given.device, "--policy", models.policy, "--folder", str(folder)]
    options += ["--random", given.random] if given.random else []
    result: dict[str, Any] = {}
    for backbone in ("adapter", "hidden_state"):
        one, eight = (in_process([*options, "--memory", backbone, "--count", str(count)]) for count in (1, 8))
        files = [file.stat().st_size for file in (folder / backbone / CATEGORIES[0]).iterdir()]
        result[backbone] = {
            "file_mib": round(sum(files) / 2**20, 2),
            "memory_mib": {name: [round(one[name], 1), round(eight[name], 1)] for name in one},
            "eight_to_one": {name: round(eight[name] / one[name], 4) for name in one},
        }
        print(json.dumps({backbone: result[backbone]}))
    routers = [router_of(folder, "adapter", 8, models, one_by_one=way) for way in (False, True)]
    result["adapter"]["batches"] = [
        mixed_against_single(routers, rows_of(count, shape), given.rounds) for count in given.prompts
    ]
    del routers
    print(json.dumps(result["adapter"]["batches"]))
    rows = rows_of(16, shape)
    for backbone in ("adapter", "hidden_state"):
        result[backbone]["grpo_step"] = share_of_step(router_of(folder, backbone, 8, models), models, rows, given.steps)
        print(json.dumps({backbone: result[backbone]["grpo_step"]}))
    return result


def main() -> None:
    """Measure and write the results of this device into benchmarks/results/reward_backbones.json."""
    parser = argparse.ArgumentParser(description="What eight reward models cost.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--policy", help="model reference (default: that of configs/demo.yaml)")
    parser.add_argument("--random", choices=tuple(SHAPES), help="a random policy of this shape instead")
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 64], help="prompts of the batches")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of batches")
    parser.add_argument("--steps", type=int, default=4, help="GRPO steps after the first")
    parser.add_argument("--output", type=Path, default=RESULTS / "reward_backbones.json")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    demo = read_yaml(ROOT / "configs" / "demo.yaml", "config file")["models"]["policy"]
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        reference = given.policy or demo
        if given.random and not given.policy:
            reference = f"path:{make_policy(made / 'policy', SHAPES[given.random])}"
        models = ModelsConfig(policy=reference, encoder="path:none", device=given.device)
        if given.memory:
            shape = SHAPES[given.random] if given.random else None
            print(json.dumps(memory(given.folder, given.memory, given.count, models, rows_of(16, shape))))
            return
        result = measure(made, models, given)
        dtype = str(next(load_policy(reference, models).model.parameters()).dtype)
    weights = f"random weights of the {given.random} shape" if given.random else reference
    gpu = torch.cuda.get_device_name() if given.device == "cuda" else None
    known = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {}
    known[given.device] = {"machine": {**describe(), "gpu": gpu}, "policy": weights, "dtype": dtype, **result}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    print(f"written to {given.output}")


if __name__ == "__main__":
    main()
