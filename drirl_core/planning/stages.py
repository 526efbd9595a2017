"""The stages of a run that use a model, as phases with memory and time; each follows the code of its stage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from drirl_core.benchmarks.refusal_score import OPENINGS
from drirl_core.completions.choice import most_completed
from drirl_core.config import BEST_OF_N, Config, LoraConfig
from drirl_core.config.reward_adapter import RewardAdapterConfig
from drirl_core.planning.parts import Parts
from drirl_core.planning.passes import Batch, Trained, cache_per_token, loaded, reading_pass, sharded, trained
from drirl_core.planning.timing import forward_seconds
from drirl_core.planning.work import (
    Device,
    Phase,
    Update,
    merged,
    reading,
    resident_of,
    rollout,
    sampling,
    training,
)
from drirl_core.planning.workload import Lengths, SuiteLoad, Workload
from drirl_core.policy.validation import REPLY_TOKENS
from drirl_core.taxonomy import HELPFUL

_OWN_BATCH, _SPARE = 64, 8
"""Of policy/own_answers.py and policy/validation.py: rows that are answered together, and tokens beyond the learned."""
_KEPT = 2
"""Policies that stay loaded in a process, and one more while the next is loaded: models/sampling/rows.py."""
_PACK_TOKENS = 1024
"""Tokens of one row of answers that share their prompt: models/adapted.py."""
_DEPTH = 0.6
"""Share of the depth at which the linear probe reads: benchmarks/references/stage.py."""


@dataclass(frozen=True)
class StagePlan:
    """What one stage needs.

    Args:
        name: of its assets, `*` for those of all categories or suites.
        phases: what it does, in order.
        settings: dotted names of settings that make it smaller, those that change no result first.
    """

    name: str
    phases: tuple[Phase, ...]
    settings: tuple[str, ...] = ()

    @property
    def peak(self) -> Phase:
        """The phase with the highest memory."""
        return max(self.phases, key=lambda phase: phase.parts.total)

    @property
    def seconds(self) -> float | None:
        """Time of all phases; None where times are not computed."""
        known = [phase.seconds for phase in self.phases if phase.seconds is not None]
        return sum(known) if len(known) == len(self.phases) else None


def plan_stages(config: Config, device: Device, load: Workload, encoder: int) -> list[StagePlan]:
    """Plan every stage of a configuration that uses the policy or the encoder.

    Args:
        config: the configuration.
        device: its policy on a card.
        load: rows and tokens.
        encoder: bytes of the sentence encoder.
    """
    planner = _Planner(config, device, load, encoder)
    found = []
    if config.policy.start == "sft":
        found.append(planner.sft())
    found += [planner.completions(), planner.rewards(), planner.hardness(), planner.policy("policy_checkpoint")]
    for name in config.baselines:
        if name == BEST_OF_N:  # it trains nothing
            continue
        if name in ("dpo", "dpo_s"):
            found.append(planner.dpo(f"{name}_checkpoint"))
        elif name == "irft":
            found.append(planner.irft())
        else:
            found.append(planner.policy(f"{name}_checkpoint", _REWARDS.get(name, "learned")))
    found.append(planner.classifiers())
    if BEST_OF_N in config.baselines:
        found += [planner.best_of_n(suite) for suite in load.suites]
    found += [planner.benchmark(suite) for suite in load.suites]
    # The last resort: it changes the result of every stage.
    return [replace(stage, settings=(*stage.settings, "models.quantization")) for stage in found]


_REWARDS = {"verifiable": "verifiable", "propositions": "propositions"}
"""Baselines of GRPO with another reward than the learned one."""


class _Planner:
    """Plan the stages of one configuration.

    Args:
        config: the configuration.
        device: its policy on a card.
        load: rows and tokens.
        encoder: bytes of the sentence encoder.
    """

    def __init__(self, config: Config, device: Device, load: Workload, encoder: int) -> None:
        self._config, self._device, self._load, self._encoder = config, device, load, encoder

    def sft(self) -> StagePlan:
        """Plan supervised fine-tuning; `sft.contrast` adds two rows per pair to a batch, where all have a partner.

        Prompts without answers beside the rows (`sft.decision_prompts`) are padded to the length of rows.
        """
        settings, load = self._config.sft, self._load
        per_category, harmless = load.unsafe * load.train / load.categories, load.harmless * load.train
        harmless = min(harmless, settings.helpful_rows or harmless)
        rows = harmless + load.categories * min(per_category, settings.rows_per_category or per_category)
        answer = settings.answer_tokens or load.answers.longest
        size = settings.batch_size * (2 if settings.contrast else 1)
        width = min(settings.max_length, load.prompts.longest + answer)
        usual = min(settings.max_length, load.prompts.mean + min(answer, load.answers.mean))
        what, own = self._trained(settings.lora), settings.own_answers
        passes = settings.epochs * math.ceil(rows / settings.batch_size)
        batch = _padded(size + settings.batch_size * settings.decision_prompts, width, answer)
        update = Update(what, batch, size * min(answer, width), passes)
        phases = [_at(training(self._device, update, int(own)), usual / width)]
        if own:
            sampled = Batch(_OWN_BATCH, load.prompts.longest, settings.answer_tokens + _SPARE)
            phases.insert(0, self._sampled(sampled, harmless, "greedy", load.prompts.mean))
        replies = {"answer": REPLY_TOKENS, "demonstration": 4 * REPLY_TOKENS}[settings.target]
        points = 2 * settings.epochs + 1
        count, by_auc = settings.validation_prompts, settings.choose_by == "auc"
        phases += self._validated(update, count, replies, points, int(own), by_auc)
        names = ("batch_size", "validation_prompts", "decision_prompts", "max_length", "lora.rank")
        return StagePlan("sft_checkpoint", tuple(phases), tuple(f"sft.{name}" for name in names))

    def completions(self) -> StagePlan:
        """Plan the completion pools of all categories, which one process samples from up to two policies."""
        settings = self._config.completions
        policies = [copies for copies in settings.samples.values() if copies]
        batch = Batch(settings.batch_size, self._load.prompts.longest, settings.max_new_tokens)
        rows = self._completed() * sum(policies)
        phase = self._sampled(batch, rows, "exact", self._load.prompts.mean, len(policies) - 1)
        names = ("completions.batch_size", "completions.max_new_tokens")
        return StagePlan("completion_pool_*", (phase,), names)

    def rewards(self) -> StagePlan:
        """Plan the reward models: hidden states of the frozen policy, embeddings, or adapters on the policy."""
        samples, counts = self._config.completions.samples, self._config.completions.contrast
        harmless = sum(counts.get(kind, 0) for kind in ("refusal", "hedged", "off_topic"))
        contrast = max(counts.get("compliance", 0), harmless) + counts.get("corrupted", 0)
        each = 1 + sum(samples.values()) + contrast
        rows = self._completed() * each
        if self._config.rewards.backbone == "embedding":
            return StagePlan("reward_model_*", (self._encoded(rows),))
        if self._config.rewards.backbone == "adapter":
            return StagePlan("reward_model_*", (self._reward_adapters(each),), ("rewards.adapter.micro_tokens",))
        return StagePlan("reward_model_*", (self._read(rows, self._layer(self._config.rewards.layer)),))

    def _reward_adapters(self, each: int) -> Phase:
        """Plan the adapters of the reward models, each learned from prompts with so many answers that lie in one row.

        What the lower layers make of a row is kept, so that only the adapted ones are computed.
        """
        settings, load, device = self._config.rewards.adapter, self._load, self._device
        longest = load.prompts.longest + each * load.answers.longest
        usual = load.prompts.mean + each * load.answers.mean
        width = min(longest, _PACK_TOKENS)
        what = replace(self._adapters(settings), trainer=False)
        batch = Batch(max(1, max(settings.micro_tokens, longest) // width), width, 0)
        passes = settings.epochs * self._completed() * load.train * usual / (batch.rows * width)
        phase = training(device, Update(what, batch, 0, passes * what.layers / device.shape.layers))
        return replace(phase, name="reward adapters")

    def hardness(self) -> StagePlan:
        """Plan the hardness of prompts, which needs the sentence encoder alone."""
        rows = self._completed() * (1 + max(self._config.completions.samples.values()))
        return StagePlan("hardness_*", (self._encoded(rows),))

    def policy(self, name: str, reward: str | None = None) -> StagePlan:
        """Plan GRPO, or RLOO, which has the same passes.

        Args:
            name: of the asset.
            reward: who rewards; None for `policy.reward`.
        """
        settings, load, device = self._config.policy, self._load, self._device
        learned = (reward or settings.reward) == "learned"
        frozen = int(learned and self._config.rewards.backbone != "embedding")
        divided = frozen and device.shards > 1 and self._config.rewards.backbone == "hidden_state"
        copies = 0 if divided else frozen
        rows, what = settings.prompts_per_step * settings.num_generations, self._trained(settings.lora)
        micro, new = settings.micro_batch or rows, settings.max_new_tokens
        reference = settings.kl > 0
        update = Update(
            what,
            Batch(micro, load.prompts.longest, new),
            micro * new,
            settings.steps * settings.num_iterations * rows / micro,
            reference,
            reference and what.rank == 0,
        )
        usual = (load.prompts.mean + new) / (load.prompts.longest + new)
        every = Batch(rows, load.prompts.longest, new, settings.prompts_per_step)
        phases = [rollout(device, update, every, settings.steps, copies)]
        if frozen:
            resident = replace(resident_of(device, update, copies), gradients=0)
            read = settings.steps * (rows + settings.prompts_per_step)
            width = load.prompts.longest + max(new, load.answers.longest)
            phases.append(_at(self._rewarded(read, width, resident), usual))
        phases.append(_at(training(device, update, copies), usual))
        points = settings.steps / settings.save_steps + 1
        replies = max(new, REPLY_TOKENS)
        phases += self._validated(update, settings.validation_prompts, replies, points, copies)
        others = Parts(other_models=self._encoder)
        if divided:
            others += Parts(other_models=sharded(device.shape, device.numbers, device.shards).weights)
        names = (
            "policy.micro_batch",
            "policy.validation_prompts",
            "policy.max_new_tokens",
            "policy.prompts_per_step",
            "policy.lora.rank",
            *(("rewards.backbone",) if frozen else ()),
        )
        return StagePlan(name, tuple(replace(one, parts=one.parts + others) for one in phases), names)

    def _rewarded(self, rows: float, width: int, resident: Parts) -> Phase:
        """Read what rewards are computed from: a middle layer, or the last one under the adapters of all categories."""
        if self._config.rewards.backbone == "hidden_state":
            return reading(self._device, rows, width, self._layer(self._config.rewards.layer), resident)
        one = trained(self._device.shape, self._device.numbers, self._adapters(self._config.rewards.adapter))
        adapters = Parts(adapters=(self._load.categories + 1) * one.adapters)
        phase = reading(self._device, rows, width, self._device.shape.layers, resident + adapters)
        return replace(phase, name="reward adapters")

    def dpo(self, name: str, pairs: float | None = None, epochs: float | None = None) -> StagePlan:
        """Plan DPO: a batch holds the two rows of each pair.

        Args:
            name: of the asset.
            pairs: how many there are; None for all sampled completions, the most there can be.
            epochs: passes over them; None for `dpo.epochs`.
        """
        settings, load = self._config.dpo, self._load
        answer = max(self._config.completions.max_new_tokens, load.answers.longest)
        width = min(settings.max_length, load.prompts.longest + answer)
        if pairs is None:
            pairs = self._completed() * load.train * sum(self._config.completions.samples.values())
        passes = (settings.epochs if epochs is None else epochs) * math.ceil(pairs / settings.batch_size)
        size, what = 2 * settings.batch_size, self._trained(settings.lora)
        scored = size * min(answer, width)
        update = Update(what, _padded(size, width, answer), scored, passes, True, what.rank == 0)
        usual = min(settings.max_length, load.prompts.mean + load.answers.mean) / width
        phases = (_at(training(self._device, update), usual),)
        return StagePlan(name, phases, ("dpo.batch_size", "dpo.max_length", "dpo.lora.rank"))

    def irft(self) -> StagePlan:
        """Plan rounds of sampling and DPO."""
        settings, load = self._config.irft, self._load
        prompts = settings.prompts or (load.unsafe + load.harmless) * load.train
        pairs = prompts * settings.samples
        alone = _Planner(self._config, replace(self._device, shards=1), load, self._encoder)  # trains in one process
        one = alone.dpo("irft_checkpoint", pairs, settings.epochs)
        batch = Batch(
            self._config.completions.batch_size, load.prompts.longest, self._config.completions.max_new_tokens
        )
        sampled = self._sampled(batch, pairs, "exact", load.prompts.mean)
        phases = [
            replace(phase, seconds=None if phase.seconds is None else settings.rounds * phase.seconds)
            for phase in (sampled, *one.phases)
        ]
        names = ("completions.batch_size", "completions.max_new_tokens", *one.settings)
        return StagePlan("irft_checkpoint", tuple(phases), names)

    def classifiers(self) -> StagePlan:
        """Plan floor and ceiling, which read a middle layer of every prompt."""
        rows = self._load.unsafe + self._load.harmless
        layers = max(1, round(_DEPTH * self._device.shape.layers))
        return StagePlan("reference_classifiers", (self._read(rows, layers, self._load.prompts.longest),))

    def best_of_n(self, suite: SuiteLoad) -> StagePlan:
        """Plan the samples of the SFT start on a suite, and what rewards and probe read of the base model."""
        settings, device, prompts = self._config.benchmarks, self._device, suite.prompts
        new, rows = settings.max_new_tokens, settings.best_of * suite.rows
        sampled = self._sampled(Batch(settings.batch_size, prompts.longest, new), rows, "exact", prompts.mean, 1)
        resident = loaded(device.shape, device.numbers, 1)  # the start stays beside the base model
        probed = reading(device, suite.rows, prompts.longest, self._layer(_DEPTH), resident)
        rewarded = self._encoded(rows)
        if self._config.rewards.backbone != "embedding":
            width = prompts.longest + new
            rewarded = _at(self._rewarded(rows, width, resident), (prompts.mean + new) / width)
        names = ("benchmarks.batch_size", "benchmarks.max_new_tokens")
        phases = (sampled, _at(probed, prompts.mean / prompts.longest), rewarded)
        return StagePlan(f"{BEST_OF_N}_{suite.name}", phases, names)

    def benchmark(self, suite: SuiteLoad) -> StagePlan:
        """Plan the greedy replies of all policies to a suite, and their refusal scores."""
        settings, device = self._config.benchmarks, self._device
        policies = 2 + (self._config.policy.start == "sft") + len(set(self._config.baselines) - {BEST_OF_N})
        copies = min(policies, _KEPT + 1) - 1
        batch = Batch(settings.batch_size, suite.prompts.longest, settings.max_new_tokens)
        phases = [self._sampled(batch, policies * suite.rows, "greedy", suite.prompts.mean, copies)]
        if settings.score == "samples":
            drawn = policies * suite.rows * settings.score_samples
            phases.append(replace(self._sampled(batch, drawn, "exact", suite.prompts.mean, copies), name="scores"))
        elif settings.score == "margin":
            resident = loaded(device.shape, device.numbers, copies)
            phases.append(self._scored(policies * suite.rows, suite.prompts, settings.batch_size, resident))
        names = ("benchmarks.batch_size", "benchmarks.max_new_tokens")
        return StagePlan(f"benchmark_{suite.name}", tuple(phases), names)

    def _trained(self, lora: LoraConfig) -> Trained:
        """Return what a training changes."""
        return self._adapters(lora) if lora.rank else Trained()

    def _adapters(self, lora: LoraConfig | RewardAdapterConfig) -> Trained:
        """Return adapters, as models/adapters.py counts their layers."""
        depth = self._device.shape.layers
        return Trained(lora.rank, lora.targets, depth - math.ceil(lora.first_layer * depth))

    def _layer(self, setting: float) -> int:
        return max(1, round(setting * self._device.shape.layers)) if setting < 1 else int(setting)

    def _completed(self) -> float:
        """Return the prompts of all categories that get completions."""
        load, config = self._load, self._config
        each = load.unsafe / load.categories
        most, harmless = most_completed(config, ""), most_completed(config, HELPFUL)
        return load.categories * min(each, most or each) + min(load.harmless, harmless or load.harmless)

    def _sampled(self, batch: Batch, rows: float, draws: str, mean: float, copies: int = 0) -> Phase:
        """Sample rows in batches by length: the memory is that of the longest prompts, the time that of the mean."""
        size = min(batch.rows, max(1, math.ceil(rows)))
        longest = sampling(self._device, replace(batch, rows=size), 0, draws, copies)
        usual = Batch(size, math.ceil(mean), batch.completion)
        return replace(longest, seconds=sampling(self._device, usual, rows / size, draws).seconds)

    def _read(self, rows: float, layers: int, width: int | None = None) -> Phase:
        longest = width or self._load.prompts.longest + max(
            self._config.completions.max_new_tokens, self._load.answers.longest
        )
        usual = self._load.prompts.mean + (0 if width else self._load.answers.mean)
        resident = loaded(self._device.shape, self._device.numbers)
        return _at(reading(self._device, rows, longest, layers, resident), usual / longest)

    def _scored(self, rows: float, prompts: Lengths, size: int, resident: Parts) -> Phase:
        """Compare the openings of replies: a pass over some prompts, and one over the openings of each."""
        device, together = self._device, max(1, size // len(OPENINGS))
        openings = together * len(OPENINGS)
        read = reading_pass(
            device.shape, device.numbers, together * prompts.longest + 2 * openings, device.shape.layers
        )
        cache = openings * (prompts.longest + 2) * cache_per_token(device.shape, device.numbers)
        logits = 2 * openings * device.shape.vocabulary * (device.numbers.size + 8)  # and two results in float32
        seconds, gpu = None, device.timed
        if gpu:
            both = (Batch(together, math.ceil(prompts.mean), 0), together), (Batch(openings, 2, 0), 2 * openings)
            each = sum(forward_seconds(device.shape, *one, gpu, device.numbers, device.rates) for one in both)
            seconds = rows / together * each
        parts = resident + replace(read, kv_cache=cache, logits=logits)
        return Phase("scores", parts, seconds)

    def _encoded(self, rows: float) -> Phase:
        """Return the embedding of texts; its time is not computed, and is small beside that of a language model."""
        return Phase("embeddings", Parts(weights=self._encoder), 0.0 if self._device.timed else None)

    def _validated(
        self, update: Update, prompts: int, new: int, points: float, copies: int, by_auc: bool = False
    ) -> Iterator[Phase]:
        """Yield answers to validation prompts during a training, for which adapters are merged, and their scores."""
        if not prompts:
            return
        device, load = self._device, self._load
        batch = Batch(min(_OWN_BATCH, prompts), load.prompts.longest, new)
        sampled = self._sampled(batch, 2 * prompts * points, "greedy", load.prompts.mean)
        resident = replace(resident_of(device, update, copies), gradients=0) + merged(device, update.what)
        alone = replace(sampled.parts, weights=0)
        yield Phase("validation", resident + alone, sampled.seconds)
        if by_auc:
            every = (load.unsafe + load.harmless) * (1 - load.train) / 2
            yield replace(self._scored(points * every, load.prompts, _OWN_BATCH, resident), name="validation scores")


def _padded(rows: int, width: int, answer: int) -> Batch:
    """Return a batch whose rows have the width together."""
    completion = min(answer, width - 1)
    return Batch(rows, width - completion, completion)


def _at(phase: Phase, share: float) -> Phase:
    """Return a phase whose rows have a share of the longest width on average, which its time follows."""
    return replace(phase, seconds=None if phase.seconds is None else phase.seconds * share)
