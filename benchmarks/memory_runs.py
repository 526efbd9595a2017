"""Real passes on random models, metered: what `benchmarks.memory_plan` compares the plan with.

Nothing is downloaded: the model is made from a shape, on the device itself, and the tokenizer from numbered words. Only
torch, transformers, trl and peft are needed.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast, PrinterCallback
from trl import GRPOConfig, SFTConfig, SFTTrainer

from drirl_core.models.layer_states import read_layer
from drirl_core.models.loading import Policy, make_head_contiguous, without_cudnn_attention
from drirl_core.models.sampling import SamplingSettings
from drirl_core.models.sampling.decode import decode
from drirl_core.policy.cpu import lean_training
from drirl_core.policy.tracking import Tracking
from drirl_core.policy.trainer import DynamicRewardScalingTrainer
from drirl_core.policy.training import common_arguments

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPES = {  # layers, hidden, intermediate, query heads, key heads, vocabulary, tied
    "tiny": (2, 256, 768, 4, 2, 2048, True),
    "small": (2, 576, 1536, 9, 3, 49152, True),
    "medium": (12, 512, 1408, 8, 4, 32000, True),
    "smollm2-135m": (30, 576, 1536, 9, 3, 49152, True),
    "smollm2-360m": (32, 960, 2560, 15, 5, 49152, True),
    "llama-3.2-1b": (16, 2048, 8192, 32, 8, 128256, True),
    "llama-3.1-8b": (32, 4096, 14336, 32, 8, 128256, False),
}
"""Llama models by name."""


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Args:
        prompts: prompts per step of GRPO.
        generations: completions of each.
        micro: rows per pass of a training.
        prompt: tokens of a prompt.
        new: tokens of a completion.
        rows: rows that are sampled together from the frozen model.
        rank: of the adapters; 0 trains all weights.
        steps: of each training; the first one also warms up.
    """

    prompts: int = 4
    generations: int = 4
    micro: int = 8
    prompt: int = 64
    new: int = 32
    rows: int = 16
    rank: int = 16
    steps: int = 2


@dataclass
class Meter:
    """Record the highest memory and the last time of each phase; phases may lie inside each other.

    Args:
        device: `cuda` counts what torch has allocated, `cpu` the resident memory of the process.
        baseline: memory that is not counted.
        peaks: highest bytes by phase.
        seconds: time of the last pass by phase, phases inside it left out.
    """

    device: str
    baseline: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _open: list[list[Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Meter a block."""
        self._note()
        self._open.append([name, time.perf_counter(), 0.0])
        try:
            yield
        finally:
            self._note()
            _, started, inside = self._open.pop()
            took = time.perf_counter() - started
            self.seconds[name] = took - inside
            if self._open:
                self._open[-1][2] += took

    def start(self) -> None:
        """Take what is there now as the baseline of a CPU; a GPU counts everything."""
        self.baseline = 0 if self.device == "cuda" else _status("VmRSS")
        self._reset()

    def _note(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else _status("VmHWM")
        if self._open:
            name = self._open[-1][0]
            self.peaks[name] = max(self.peaks.get(name, 0), peak - self.baseline)
        self._reset()

    def _reset(self) -> None:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest resident memory so far


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def make_policy(shape: str, device: str, dtype: torch.dtype) -> Policy:
    """Make a random Llama of a shape on a device, with a tokenizer of numbered words."""
    layers, hidden, intermediate, heads, key_heads, vocabulary, tied = SHAPES[shape]
    tokenizer = make_tokenizer(vocabulary)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, max_position_embeddings=8192,
        tie_word_embeddings=tied, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    if device == "cuda":
        without_cudnn_attention()
    torch.manual_seed(0)
    with torch.device(device):
        attention = {"attn_implementation": "eager"} if device == "cpu" else {}  # as models/loading.py chooses
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **attention)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    make_head_contiguous(model)
    return Policy(model.eval(), tokenizer, torch.device(device), shape)


def make_tokenizer(vocabulary: int) -> Any:
    """Return a tokenizer whose every word is one token, padding on the left, with a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<|pad|>", "<|end|>", "<|unknown|>", "<|user|>", "<|assistant|>"]
    words = [f"w{number}" for number in range(min(vocabulary, 4096) - len(special))]
    known = {word: number for number, word in enumerate([*special, *words])}
    raw = Tokenizer(models.WordLevel(known, unk_token="<|unknown|>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>", padding_side="left"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return tokenizer


def make_prompts(count: int, tokens: int, seed: int = 0) -> list[str]:
    """Return texts that the template turns into so many tokens; they have no beginning in common."""
    drawn = random.Random(seed)
    return [" ".join(f"w{drawn.randrange(1000)}" for _ in range(tokens - 2)) for _ in range(count)]


def rendered(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Return prompts as the template renders them."""
    return [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in prompts
    ]


def run_sampling(policy: Policy, sizes: Sizes, meter: Meter) -> None:
    """Sample from the frozen model, as completion pools are."""
    texts = rendered(policy.tokenizer, make_prompts(sizes.rows, sizes.prompt))
    for new in (2, sizes.new):  # the first warms up
        with meter.phase("sampling"):
            decode(policy, texts, ["0" * 16] * len(texts), SamplingSettings(new, 1.0, sizes.rows))


def run_reading(policy: Policy, sizes: Sizes, meter: Meter, layer: int, tokens: int) -> None:
    """Read a middle layer of rows with so many tokens together, as rewards on hidden states do."""
    count = max(1, tokens // (sizes.prompt + sizes.new))
    prompts = [
        policy.tokenizer(text)["input_ids"] for text in rendered(policy.tokenizer, make_prompts(count, sizes.prompt))
    ]
    completions = [[10] * sizes.new for _ in prompts]
    for _ in range(2):
        with meter.phase("hidden states"):
            read_layer(policy, prompts, completions, layer)


def adapters(sizes: Sizes) -> LoraConfig | None:
    """Return the adapters of a training."""
    if sizes.rank == 0:
        return None
    return LoraConfig(r=sizes.rank, lora_alpha=32, target_modules=list(TARGETS), task_type="CAUSAL_LM")


def common(device: str, folder: str) -> dict[str, Any]:
    """Return the trainer arguments of the project's own trainings, without checkpoints."""
    ours = common_arguments(0, Path(folder), device, Tracking())
    return {**{name: one.value for name, one in ours.items()}, "save_strategy": "no", "learning_rate": 1e-5}


def run_sft(policy: Policy, sizes: Sizes, meter: Meter) -> None:
    """Fine-tune on rows of equal length."""
    width, drawn = sizes.prompt + sizes.new, random.Random(0)
    ids = [[drawn.randrange(10, 1000) for _ in range(width)] for _ in range(sizes.micro * sizes.steps)]
    rows = [{"input_ids": row, "labels": [-100] * sizes.prompt + row[sizes.prompt :]} for row in ids]
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            **common(policy.device.type, folder), per_device_train_batch_size=sizes.micro, max_steps=sizes.steps,
            max_length=width, packing=False, completion_only_loss=True,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=policy.model, args=arguments, train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer, peft_config=adapters(sizes),
        )  # fmt: skip
        _train(trainer, meter)


def run_grpo(policy: Policy, frozen: Policy, sizes: Sizes, meter: Meter, layer: int) -> None:
    """Align a policy with rewards from a middle layer of a frozen copy, as in GRPO with rewards on hidden states."""

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        asked = rendered(frozen.tokenizer, [prompt[-1]["content"] for prompt in prompts])
        with meter.phase("hidden states"):
            found: list[float] = []
            tokens = [frozen.tokenizer(text)["input_ids"] for text in asked]
            size = max(1, 4096 // (sizes.prompt + sizes.new))
            for start in range(0, len(tokens), size):
                part = slice(start, start + size)
                states = read_layer(frozen, tokens[part], columns["completion_ids"][part], layer)
                found += states.mean(dim=(1, 2)).tolist()
        return found

    batch = sizes.prompts * sizes.generations
    prompts = make_prompts(sizes.prompts * sizes.steps, sizes.prompt)
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            **common(policy.device.type, folder), max_steps=sizes.steps, per_device_train_batch_size=sizes.micro,
            gradient_accumulation_steps=batch // sizes.micro, steps_per_generation=batch // sizes.micro,
            num_generations=sizes.generations, max_completion_length=sizes.new, beta=0.02, temperature=1.0,
            shuffle_dataset=False, remove_unused_columns=False,
        )  # fmt: skip
        trainer = DynamicRewardScalingTrainer(
            exact_sampling=policy.device.type == "cpu", model=policy.model, reward_funcs=reward, args=arguments,
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in prompts]),
            processing_class=policy.tokenizer, peft_config=adapters(sizes),
        )  # fmt: skip
        generate = trainer._generate_single_turn

        def metered(*arguments: Any, **named: Any) -> Any:
            with meter.phase("rollouts"):
                return generate(*arguments, **named)

        trainer._generate_single_turn = metered
        _train(trainer, meter)


def _train(trainer: Any, meter: Meter) -> None:
    """Train, metering the steps; one small pass before makes what libraries keep part of the baseline."""
    trainer.remove_callback(PrinterCallback)
    step, passes = trainer.training_step, [0, 0.0]
    model, device = trainer.model, next(trainer.model.parameters()).device
    ids = torch.full((1, 8), 10, device=device)
    with lean_training(model), torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True).loss.backward()
    model.zero_grad(set_to_none=True)
    meter.start()

    def metered(*arguments: Any, **named: Any) -> Any:
        passes[0] += 1
        if (passes[0] - 1) % trainer.args.gradient_accumulation_steps == 0:
            passes[1] = 0.0
        with meter.phase("training"):
            loss = step(*arguments, **named)
        passes[1] += meter.seconds["training"]
        return loss

    trainer.training_step = metered
    with lean_training(model):
        trainer.train()
    meter.seconds["training"] = passes[1]  # all passes of the last step
