"""The plan for a card: what each stage takes of its memory, how long it runs, and what to change if it does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from drirl_core.config import Config
from drirl_core.models.references import described
from drirl_core.planning.fitting import changes_that_fit
from drirl_core.planning.gpus import GIB, GPUS, Gpu
from drirl_core.planning.passes import Numbers
from drirl_core.planning.shape import ModelShape, encoder_bytes, shape_of
from drirl_core.planning.stages import StagePlan, plan_stages
from drirl_core.planning.work import Device
from drirl_core.planning.workload import Workload, policy_folder, workload_of

NOT_PLANNED = ("use_vllm", "use_transformers_continuous_batching", "use_transformers_paged", "deepspeed", "fsdp")
"""Options of TRL under which memory lies elsewhere than the plan counts it."""


@dataclass(frozen=True)
class Refusal:
    """A stage that does not fit.

    Args:
        stage: its name.
        needs: bytes at its peak.
        has: bytes that the card has for it.
        changes: values of settings with which it fits; empty where there are none.
        largest: name of the largest part.
        cards: names of cards on which it fits as it is.
    """

    stage: str
    needs: int
    has: int
    changes: Mapping[str, Any]
    largest: str
    cards: Sequence[str]

    def __str__(self) -> str:
        """Say what is needed, and what to do."""
        said = (
            f"{self.stage} needs {self.needs / GIB:.1f} GiB, most of it {self.largest}, and the card has "
            f"{self.has / GIB:.1f} GiB for tensors"
        )
        if self.changes:
            ways = " and ".join(f"{name} to {value}" for name, value in self.changes.items())
            return f"{said}. It fits if you set {ways}"
        larger = f"a card such as {' or '.join(self.cards[:3])}, or " if self.cards else ""
        return f"{said}, and no setting makes it fit; take {larger}a smaller model"


@dataclass(frozen=True)
class GpuPlan:
    """The plan of all stages.

    Args:
        gpu: the card.
        reference: of the policy.
        shape: its sizes.
        load: rows and tokens.
        stages: in the order of the graph.
        refusals: the stages that do not fit.
        notes: what the figures rest on, in sentences.
    """

    gpu: Gpu
    reference: str
    shape: ModelShape
    load: Workload
    stages: Sequence[StagePlan]
    refusals: Sequence[Refusal] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def seconds(self) -> float | None:
        """Time of all stages; None where times are not computed."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    @property
    def changes(self) -> dict[str, Any]:
        """All changes with which every stage fits, as far as there are any: of one setting the smallest value."""
        found: dict[str, Any] = {}
        for refusal in self.refusals:
            for name, value in refusal.changes.items():
                smaller = isinstance(value, int) and name in found
                found[name] = min(found[name], value) if smaller else value
        return found

    @property
    def larger(self) -> str | None:
        """The smallest card on which everything fits as it is, where some stage fits with no setting; else None."""
        if all(refusal.changes for refusal in self.refusals):
            return None
        return next((name for name in self.refusals[0].cards if all(name in one.cards for one in self.refusals)), None)


@dataclass(frozen=True)
class Counted:
    """What the plan rests on beside the settings: sizes of the models, and of the user's files.

    Args:
        shape: of the policy.
        load: rows and tokens.
        encoder: bytes of the sentence encoder; None where it is not on this machine.
    """

    shape: ModelShape
    load: Workload
    encoder: int | None


def count(config: Config) -> Counted:
    """Read config.json of the models, and the files; no weights load.

    Args:
        config: the configuration.

    Raises:
        ModelError: config.json or the tokenizer is missing, or the model is of a kind that cannot be counted.
        DataError: a file cannot be read.
        ConfigError: a setting cannot be used.
    """
    folder, encoder = policy_folder(config), described(config.models.encoder, config.models)
    return Counted(
        shape_of(folder, config.models.policy),
        workload_of(config, folder),
        encoder_bytes(encoder, config.models.encoder) if encoder else None,
    )


def plan_for(config: Config, gpu: Gpu, counted: Counted | None = None) -> GpuPlan:
    """Plan a configuration for a card.

    Args:
        config: the configuration.
        gpu: the card.
        counted: what `count` returned for this model and these files; None to count now.

    Raises:
        ModelError: see `count`.
        DataError: see `count`.
        ConfigError: see `count`.
    """
    counted = counted or count(config)

    def stages(changed: Config) -> list[StagePlan]:
        models = changed.models
        numbers = Numbers(True, 4 if models.dtype == "float32" else 2, models.quantization == "4bit")
        device = Device(counted.shape, numbers, gpu, shards=changed.execution.most_shards(True))
        return plan_stages(changed, device, counted.load, counted.encoder or 0)

    def fits(stage: StagePlan) -> bool:
        return stage.peak.parts.total <= gpu.usable

    def refusal(stage: StagePlan) -> Refusal:
        needs = stage.peak.parts.total
        changes = changes_that_fit(
            config,
            stage.settings,
            lambda changed: fits(next(one for one in stages(changed) if one.name == stage.name)),
        )
        cards = sorted((card for card in GPUS.values() if card.usable >= needs), key=lambda card: card.memory)
        names = [card.name for card in cards]
        return Refusal(stage.name, needs, gpu.usable, changes or {}, stage.peak.parts.largest, names)

    found = stages(config)
    refusals = [refusal(stage) for stage in found if not fits(stage)]
    notes = _notes(config, gpu, counted)
    return GpuPlan(gpu, config.models.policy, counted.shape, counted.load, found, refusals, notes)


def _notes(config: Config, gpu: Gpu, counted: Counted) -> tuple[str, ...]:
    load = counted.load
    notes = [
        f"Prompts have {load.prompts.mean:.0f} tokens on average and {load.prompts.longest} at most; memory is that of "
        "the longest, time that of completions which all reach their length limit."
    ]
    if config.models.quantization == "4bit":
        notes.append(
            "Weights of four bits are expanded in every pass, which takes time that is not counted; what is published "
            f"is joined in the memory of the CPU, {counted.shape.parameters * 2 / 1e9:.0f} GB in bfloat16."
        )
    shards = config.execution.most_shards(True)
    if shards > 1:
        notes.append(
            f"SFT, DPO, GRPO and RLOO divide the frozen weights among {shards} processes (execution.sharding), each of "
            "them counted with the complete batch. The time to gather weights, in sampling once per token, is not "
            "counted. Other stages, and rewards of the backbone adapter, hold a complete copy."
        )
    elif gpu.count > 1:
        notes.append(
            f"A stage computes on one card and holds a complete copy of the weights; the other {gpu.count - 1} are "
            "only reserved (execution.gpu.count), and no time is divided by them."
        )
    if not gpu.timed:
        notes.append("Times are computed for named cards alone; a size says nothing about speed.")
    if counted.encoder is None:
        notes.append(f"{config.models.encoder} is not on this machine; the sentence encoder is not counted.")
    if config.execution.sampler == "vllm":
        notes.append(
            "execution.sampler is 'vllm': pools and replies are planned as transformers samples them. The engine takes "
            f"{config.execution.vllm.gpu_memory:.0%} of the card (execution.vllm.gpu_memory) instead."
        )
    options = {"policy.trl": config.policy.trl, "policy.rloo_trl": config.policy.rloo_trl, "sft.trl": config.sft.trl}
    used = [f"{section}.{name}" for section, own in options.items() for name in own if name in NOT_PLANNED]
    if used:
        notes.append(f"{', '.join(used)}: the plan does not know these options, and counts as without them.")
    optimisers = [f"{section}.optim" for section, own in options.items() if "optim" in own]
    if optimisers:
        notes.append(f"{', '.join(optimisers)}: the plan counts AdamW's two moments.")
    return tuple(notes)


def as_data(found: GpuPlan) -> dict[str, Any]:
    """Return all figures as plain data; memory in bytes per process, times in seconds.

    Args:
        found: the plan.
    """
    return {
        "gpu": {**asdict(found.gpu), "usable": found.gpu.usable},
        "computes_on": 1,
        "model": {"reference": found.reference, **asdict(found.shape)},
        "workload": asdict(found.load),
        "stages": [
            {
                "name": stage.name,
                "fits": stage.peak.parts.total <= found.gpu.usable,
                "peak": stage.peak.parts.total,
                "peak_phase": stage.peak.name,
                "largest": stage.peak.parts.largest,
                "seconds": stage.seconds,
                "phases": [
                    {
                        "name": phase.name,
                        "seconds": phase.seconds,
                        "total": phase.parts.total,
                        **asdict(phase.parts),
                    }
                    for phase in stage.phases
                ],
            }
            for stage in found.stages
        ],
        "seconds": found.seconds,
        "refusals": [{**asdict(refusal), "text": str(refusal)} for refusal in found.refusals],
        "changes": found.changes,
        "notes": list(found.notes),
    }
