"""Configuration: YAML in, frozen dataclasses out, every value checked before any model loads.

One section per stage. A file may say `extends: other.yaml` and hold only its differences. The string under a field
is its help. Relative paths are taken from the directory of the file that names them.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drirl_core.config.base import BASE, BaseConfig, DifferenceConfig, base_file, differences_from
from drirl_core.config.benchmarks import BenchmarksConfig, SuiteConfig
from drirl_core.config.checks import ChecksConfig, refuse_moved, upgraded
from drirl_core.config.data import (
    CompletionsConfig,
    DemonstrationsConfig,
    DemonstratorConfig,
    ModelsConfig,
    PromptsConfig,
    SourceConfig,
)
from drirl_core.config.dpo import DpoConfig
from drirl_core.config.execution import ExecutionConfig, VllmConfig
from drirl_core.config.hardness import HardnessConfig
from drirl_core.config.irft import IrftConfig
from drirl_core.config.judges import EmbeddedJudgeConfig, JudgeName, LlmJudgeConfig, SecondJudge
from drirl_core.config.leave_out import LeaveOutConfig
from drirl_core.config.lora import LoraConfig
from drirl_core.config.names import label_source_name, require_distinct
from drirl_core.config.operations import (
    INBOX,
    AlertHookConfig,
    AlertsConfig,
    FreshnessConfig,
    InboxConfig,
    OperationsConfig,
)
from drirl_core.config.own_rewards import OwnRewardConfig
from drirl_core.config.promotion import PromotionConfig
from drirl_core.config.reading import EMBEDDED, added, anchor_paths, build, expanded, read, require
from drirl_core.config.slices import quiet, slice_of
from drirl_core.config.staging import check_stages
from drirl_core.config.training import (
    BASELINES,
    BEST_OF_N,
    MOST_ROUNDS,
    TRAINED,
    Baseline,
    PolicyConfig,
    RewardsConfig,
    SftConfig,
)
from drirl_core.errors import ConfigError
from drirl_core.store.remote import check_uri

__all__ = [
    "BASELINES", "BEST_OF_N", "EMBEDDED", "INBOX", "MOST_ROUNDS", "TRAINED", "AlertHookConfig", "AlertsConfig",
    "BaseConfig", "BenchmarksConfig", "ChecksConfig", "CompletionsConfig", "Config", "DemonstrationsConfig",
    "DemonstratorConfig", "DifferenceConfig", "DpoConfig", "EmbeddedJudgeConfig", "ExecutionConfig", "FreshnessConfig",
    "HardnessConfig", "InboxConfig", "IrftConfig", "JudgeName", "LeaveOutConfig", "LlmJudgeConfig", "LoraConfig",
    "ModelsConfig", "OperationsConfig", "OwnRewardConfig", "PolicyConfig", "PromotionConfig", "PromptsConfig",
    "RewardsConfig", "SecondJudge", "SftConfig", "SourceConfig", "SuiteConfig", "VllmConfig", "from_resolved",
    "load_config", "resolved", "slice_hash",
]  # fmt: skip


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
    """Where the artifacts are: a directory, relative to the working directory, or a URI such as s3://bucket/prefix.
    Never credentials."""
    mirror: str = ".drirl/mirror"
    """Directory for this machine's copies when root is a URI; unused otherwise."""
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
    leave_out: LeaveOutConfig = field(default_factory=LeaveOutConfig)
    """What no policy is trained on."""
    baselines: tuple[Baseline, ...] = added(())
    """Policies to compare with, an asset each, in every benchmark: `dpo` on the pairs of the pools, `dpo_s` on pairs
    drawn in proportion to alpha, `irft` in rounds on pairs with the policy's own completions, `joint` by GRPO with one
    reward model for all categories, `grpo` and `rloo` with the same rewards and alpha = 1, `staged_competence` as
    `grpo` with the prompts in the order of their hardness and a reference renewed at every stage, `rloo_s` with alpha,
    as controls `verifiable`, GRPO rewarded by the rules judge, and `propositions`, GRPO rewarded by readable
    propositions of a reply, and `best_of_n`, the SFT start, of whose `benchmarks.best_of` samples the reward models
    choose one."""
    dpo: DpoConfig = field(default_factory=DpoConfig)
    """The baseline `dpo`."""
    irft: IrftConfig = field(default_factory=IrftConfig)
    """The baseline `irft`."""
    benchmarks: BenchmarksConfig = field(default_factory=BenchmarksConfig)
    """Evaluation."""
    checks: ChecksConfig = field(default_factory=ChecksConfig)
    """Bounds of the checks and gates; to change one recomputes nothing."""
    promotion: PromotionConfig = field(default_factory=PromotionConfig)
    """Which policy is the promoted one."""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    """Dagster steps."""
    operations: OperationsConfig = field(default_factory=OperationsConfig)
    """Drop folder and alerts."""
    base: BaseConfig = field(default_factory=BaseConfig, compare=False)
    """Filled in when the file is read, never by the user: which file it started from, and what differs."""

    def seed_of(self, training: PolicyConfig | DpoConfig) -> int:
        """Return the seed of one training: its own, or that of the run where it has none.

        Args:
            training: the section of the training, of this configuration.
        """
        return self.seed if training.seed < 0 else training.seed

    def _require_adapters(self) -> None:
        """Refuse trainings that would change weights of four bits, or weights of which a process holds a part."""
        sharded = self.execution.sharding != "none"
        if self.models.quantization == "none" and not sharded:
            return
        require(
            self.models.quantization == "none" or not sharded,
            f"models.quantization is {self.models.quantization!r} and execution.sharding {self.execution.sharding!r}, "
            "but weights of four bits cannot be divided among processes; set one of the two to none",
        )
        ranks = {"policy.lora": self.policy.lora, "sft.lora": self.sft.lora}
        of_dpo = {"dpo", "dpo_s"} if sharded else {"dpo", "dpo_s", "irft"}  # whose rounds train in one process
        ranks |= {"dpo.lora": self.dpo.lora} if of_dpo & set(self.baselines) else {}
        full = [name for name, lora in ranks.items() if lora.rank == 0]
        require(
            not full or not sharded,
            f"execution.sharding is {self.execution.sharding!r}, but {' and '.join(full)}.rank is 0, which trains all "
            f"weights, and only frozen weights are divided among processes; set {' and '.join(full)}.rank to a "
            "positive rank, or execution.sharding to none",
        )
        require(
            not full,
            f"models.quantization is {self.models.quantization!r}, but {' and '.join(full)}.rank is 0, which trains "
            f"all weights, and weights of four bits cannot be trained; set {' and '.join(full)}.rank to a positive "
            "rank, or models.quantization to none",
        )
        require(
            self.rewards.backbone != "adapter" or sharded,
            f"models.quantization is {self.models.quantization!r}, but rewards.backbone is 'adapter', whose adapters "
            "read unquantised weights only; choose the backbone hidden_state or embedding, or models.quantization none",
        )

    @property
    def shown_seed(self) -> str:
        """The seed of the run, and that of the policy where it has one of its own."""
        own = self.seed_of(self.policy)
        return str(self.seed) if own == self.seed else f"{self.seed}, of the policy {own}"

    def __post_init__(self) -> None:
        check_uri(self.root)
        wants_sft = self.completions.samples.get("sft", 0) > 0
        require(
            self.policy.start == "sft" or not wants_sft,
            "policy.start is 'base' but completions.samples asks for completions of 'sft'; set "
            "completions.samples.sft to 0 or policy.start to 'sft'",
        )
        require(
            self.rewards.positives == "demonstrations" or wants_sft,
            f"rewards.positives is {self.rewards.positives!r}, but completions.samples asks for no completions of the "
            "SFT start; set completions.samples.sft to 1 or more, or rewards.positives to demonstrations",
        )
        require(
            self.rewards.rounds == 1 or self.policy.reward == "learned",
            f"rewards.rounds is {self.rewards.rounds}, but policy.reward is {self.policy.reward!r} and no learned "
            "reward trains the policy; set rewards.rounds to 1, or policy.reward to learned",
        )
        require(
            not self.completions.prompts or self.hardness.refresh == "step" or self.hardness.combine == "none",
            f"hardness.refresh is {self.hardness.refresh!r}, which needs a stored alpha of every prompt, but "
            f"completions.prompts is {self.completions.prompts}; set it to 0, or hardness.refresh to 'step'",
        )
        require(
            len(set(self.baselines)) == len(self.baselines), f"baselines names one twice: {', '.join(self.baselines)}"
        )
        require(
            BEST_OF_N not in self.baselines or self.policy.start == "sft",
            f"baselines has {BEST_OF_N}, which chooses among completions of the SFT start, but policy.start is "
            f"{self.policy.start!r} and there is none; set policy.start to 'sft', or take {BEST_OF_N} out",
        )
        check_stages(self)
        self._require_adapters()
        require(self.seed >= 0, f"seed is {self.seed}; at least 0")
        self.execution.check_root(self.root)
        require(bool(self.name.strip()), "name is empty; give the run a name, which its report shows")
        sources = self._named_sources()
        require(
            len(set(self.rewards.labels)) == len(self.rewards.labels),
            f"rewards.labels names a file twice: {', '.join(self.rewards.labels)}",
        )
        require_distinct(sources, [suite.name for suite in self.benchmarks.suites])
        taken = [place for place, source in sources if source.name == INBOX]
        require(
            not taken,
            f"a source is called {INBOX!r}, which is the name of the drop folder (operations.inbox); rename it "
            f"({', '.join(taken)})",
        )

    def _named_sources(self) -> list[tuple[str, SourceConfig]]:
        """Return every file that is read, with the place of its setting."""
        demonstrations = self.demonstrations
        found = [(f"prompts.sources[{number}]", source) for number, source in enumerate(self.prompts.sources)]
        found += [(f"demonstrations.{name}", getattr(demonstrations, name)) for name in ("helpful", "refusals")]
        if demonstrations.demonstrator.kind == "file":
            found.append(("demonstrations.demonstrator.source", demonstrations.demonstrator.source))
        return found + [(f"rewards.labels[{number}]", source) for number, source in enumerate(self.label_sources)]

    @property
    def label_sources(self) -> tuple[SourceConfig, ...]:
        """The files of `rewards.labels` as sources, each named after its file."""
        return tuple(SourceConfig(label_source_name(path), path) for path in self.rewards.labels)

    @property
    def prompt_sources(self) -> tuple[SourceConfig, ...]:
        """Every source of the prompt pool: those of `prompts.sources`, then the drop folder when there is one."""
        inbox = self.operations.inbox.source
        return (*self.prompts.sources, inbox) if inbox else self.prompts.sources

    @property
    def model_references(self) -> dict[str, str]:
        """The reference of every model that a run loads, by dotted name of its setting."""
        demonstrator = self.demonstrations.demonstrator
        written_by = {"demonstrations.demonstrator.model": demonstrator.model} if demonstrator.kind == "model" else {}
        return {"models.policy": self.models.policy, "models.encoder": self.models.encoder, **written_by}


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file into a checked `Config`.

    Args:
        path: the file; `extends:` names another one whose values it changes.
        overrides: dotted keys to values, applied last, such as `{"policy.steps": 4}`; relative paths among them are
            taken from the working directory.

    Returns:
        The frozen configuration, with file paths made absolute.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, a type is wrong or settings contradict.
    """
    path = Path(expanded(str(path)))
    merged = read(path)
    require(BASE not in merged, f"config file {path}: {BASE!r} is filled in when the file is read; remove it")
    for dotted, value in (overrides or {}).items():
        *parents, last = dotted.split(".")
        node = merged
        for parent in parents:
            node = node.setdefault(parent, {})
            require(isinstance(node, dict), f"override {dotted!r}: {parent!r} is not a section")
        change = {last: copy.deepcopy(value)}
        anchor_paths(change, Path.cwd())
        node.update(change)
    refuse_moved(merged)
    require(BASE not in merged, f"{BASE!r} is filled in when the file is read; it cannot be set")
    config = build(Config, merged)
    return dataclasses.replace(config, base=_base(path, config, bool(overrides)))


def _base(path: Path, config: Config, changed: bool) -> BaseConfig:
    """Compare a configuration with the file that its own file extends, or with that file without the overrides."""
    file = base_file(path)
    if file == path.resolve() and not changed:
        return BaseConfig(str(file))
    data = read(file)
    try:
        before = resolved(build(Config, data))
    except ConfigError:  # a base that holds only a part of the settings
        before = data
    return BaseConfig(str(file), tuple(differences_from(before, resolved(config))))


def resolved(config: Any) -> dict[str, Any]:
    """Return a configuration as plain data that `json` and `yaml` can write."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_resolved(data: Mapping[str, Any]) -> Config:
    """Build a `Config` from what `resolved` returned, in this version or an earlier one."""
    return build(Config, upgraded(data))


def slice_hash(config: Config, sections: tuple[str, ...], unread: tuple[str, ...] = ()) -> str:
    """Hash the named parts of a configuration.

    Args:
        config: the configuration.
        sections: dotted names of sections or fields, such as `("rewards", "seed", "models.encoder")`.
        unread: dotted names of fields below them that are left out.

    Returns:
        Twelve hexadecimal digits that change when, and only when, one of those parts changes. The location of
        files is not part of it.
    """
    # Only these sections are turned into plain data: every start of the code location does this for every asset.
    names = {section.partition(".")[0] for section in sections}
    values = {name: getattr(config, name) for name in names}
    data = {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()
    }
    silent = [dotted for name, value in values.items() for dotted in quiet(value, name)]
    heard = [section for section in sections if section not in silent]
    text = json.dumps(slice_of(data, heard, [*unread, *silent]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
