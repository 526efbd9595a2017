"""Tiny models and settings for tests and documentation: they run in seconds and give no meaningful results.

`python -m drirl_core.testing DIRECTORY` writes the tiny policy and encoder that configs/smoke.yaml names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from drirl_core.config import Config, load_config
from drirl_core.reporting import SilentReporter

_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>"]


class RecordingReporter(SilentReporter):
    """Record every line, the progress of every task and the metrics of every step."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: dict[str, tuple[int, int]] = {}
        self.steps: list[tuple[int, dict[str, float]]] = []

    def log(self, message: str) -> None:
        """Record the line."""
        self.lines.append(message)

    def progress(self, what: str, done: int, total: int) -> None:
        """Record the last state."""
        self.done[what] = (done, total)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record the step."""
        self.steps.append((step, dict(values)))


def make_tiny_policy(folder: Path, *, seed: int = 0) -> Path:
    """Write a random two-layer Llama with a byte-level tokenizer and a chat template.

    Args:
        folder: directory to make.
        seed: of the weights.

    Returns:
        `folder`, loadable by transformers.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(_SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>")  # noqa: S106
    tokenizer.chat_template = _TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_encoder(folder: Path, *, seed: int = 0) -> Path:
    """Write a random one-layer sentence encoder with 32 dimensions.

    Args:
        folder: directory to make.
        seed: of the weights.

    Returns:
        `folder`, loadable by sentence-transformers.
    """
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    body = folder / "body"
    body.mkdir(exist_ok=True)
    letters = [chr(c) for c in range(33, 127)]
    (body / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]),
        encoding="utf-8",
    )
    tokenizer = BertTokenizerFast(str(body / "vocab.txt"))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    BertModel(config).save_pretrained(body)
    tokenizer.save_pretrained(body)
    transformer = models.Transformer(str(body), max_seq_length=128)
    pooling = models.Pooling(transformer.get_word_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save_pretrained(str(folder))
    return folder


def tiny_settings(policy: Path, encoder: Path, root: Path) -> dict[str, Any]:
    """Return settings that run the complete graph on tiny models in seconds."""
    return {
        "name": "smoke",
        "root": str(root),
        "models": {
            "policy": f"path:{policy}",
            "encoder": f"path:{encoder}",
            "dtype": "float32",
            "device": "cpu",
            "threads": 1,
        },
        # A random encoder and a random policy test the code, not the method: no quality is required.
        "prompts": {"router_confidence": 0.0, "relabel_confidence": 1.0},
        "demonstrations": {"quota": 6, "helpful_quota": 120},
        "completions": {"samples": {"base": 1, "sft": 1}, "max_new_tokens": 8},
        "rewards": {"epochs": 3, "hidden": 8},
        "sft": {"epochs": 1, "rows_per_category": 2, "batch_size": 8, "max_length": 480, "lora": {"rank": 2}},
        "policy": {
            "steps": 2,
            "prompts_per_step": 4,
            "num_generations": 2,
            "max_new_tokens": 8,
            "save_steps": 1,
            "lora": {"rank": 2},
        },
        "benchmarks": {
            "suites": [{"name": "embedded", "limit": 2}, {"name": "twins", "limit": 2}],
            "max_new_tokens": 8,
            "resamples": 200,
        },
        "checks": {"min_accuracy": 0.0, "min_within_group": 0.0},
    }


def tiny_config(folder: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Write tiny models and a configuration below `folder`, and load it.

    Args:
        folder: directory to fill; existing models are kept.
        overrides: dotted keys to values, as in `load_config`.

    Returns:
        The configuration; its file is `folder/smoke.yaml`.
    """
    policy, encoder = folder / "policy", folder / "encoder"
    if not (policy / "config.json").is_file():
        make_tiny_policy(policy)
    if not (encoder / "modules.json").is_file():
        make_tiny_encoder(encoder)
    file = folder / "smoke.yaml"
    file.write_text(
        yaml.safe_dump(json.loads(json.dumps(tiny_settings(policy, encoder, folder / "artifacts")))), encoding="utf-8"
    )
    return load_config(file, overrides)


if __name__ == "__main__":
    tiny_config(Path(sys.argv[1]).expanduser().absolute())
