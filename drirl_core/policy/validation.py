"""Validation during training: refusals on held-out prompts of the pool, and the best checkpoint by them.

Greedy replies to validation prompts show when a run has learned and when it begins to lose; a benchmark suite is never
read here. The composite is the refused share of unsafe prompts minus that of look-alikes: what a policy does at its
operating point. The AUC of the refusal score says what it knows wherever that point lies, and costs one forward pass
per prompt, so that all validation prompts are scored.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from drirl_core.benchmarks.judges.rules import UNUSABLE, Label, label_reply
from drirl_core.benchmarks.refusal_score import refusal_margins
from drirl_core.benchmarks.roc import auc
from drirl_core.errors import DataError
from drirl_core.graph import build as stages
from drirl_core.models.loading import Policy
from drirl_core.models.sampling import SamplingSettings, chat_text
from drirl_core.models.sampling.decode import by_length, decode, ready_to_decode
from drirl_core.models.sharding import is_sharded
from drirl_core.policy.schedule import rows_of_split
from drirl_core.reporting import Reporter, Table
from drirl_core.store.tables import first_by_hash
from drirl_core.text.chain_of_draft import cut_draft

KINDS = ("unsafe", "look_alike")
REPLY_TOKENS = 32
"""Shortest length limit that is of use: a loop shows from the twentieth word on."""

_BATCH = 64


@dataclass(frozen=True)
class ValidationPoint:
    """Refusals after a step.

    Args:
        step: optimiser steps so far; 0 is the start.
        unsafe: refused share of the unsafe prompts, in [0, 1].
        look_alike: refused share of the look-alikes, in [0, 1].
        unusable: share of all replies that are empty, degenerate or an echo: neither refusal nor help, in [0, 1].
        auc: of the refusal score over all validation prompts of both kinds, in [0, 1]; None where it is not asked for.
    """

    step: int
    unsafe: float
    look_alike: float
    unusable: float
    auc: float | None = None

    @property
    def composite(self) -> float:
        """Refused share of unsafe prompts minus that of look-alikes, in [-1, 1]."""
        return self.unsafe - self.look_alike

    def record(self) -> dict[str, Any]:
        """Return the point as JSON data, without an AUC that was not asked for."""
        return {name: value for name, value in vars(self).items() if value is not None}


def checkpoint_choice(
    context: stages.Context,
    policy: Policy,
    count: int,
    setting: str,
    max_new_tokens: int,
    by: Literal["composite", "auc"] = "composite",
) -> CheckpointChoice | None:
    """Make the callback that chooses the checkpoint of a training stage.

    Args:
        context: inputs are the data sets of all categories.
        policy: the policy before training.
        count: validation prompts of each kind; 0 publishes the last step.
        setting: which gives the count, for messages.
        max_new_tokens: length limit of a reply.
        by: what the best checkpoint has most of; the AUC is taken over all validation prompts.

    Returns:
        The callback; None where the last step is published.

    Raises:
        DataError: a kind has no validation prompt.
    """
    if not count:
        return None
    prompts = validation_prompts(context, count, setting)
    scored = validation_prompts(context, None, setting) if by == "auc" else None
    return CheckpointChoice(policy, prompts, max_new_tokens, context.scratch, context.reporter, scored)


def validation_prompts(context: stages.Context, count: int | None, setting: str) -> dict[str, list[str]]:
    """Choose validation prompts of both kinds from the data sets, by the hash of their ids.

    Args:
        context: inputs are the data sets of all categories.
        count: prompts of each kind, as far as there are so many; None for all.
        setting: which asks for them, for the message.

    Returns:
        Prompts by kind, `unsafe` and `look_alike`.

    Raises:
        DataError: a kind has no validation prompt.
    """
    found = prompts_by_kind(context.datasets(), context.config.leave_out.categories)
    for kind, prompts in found.items():
        if not prompts:
            raise DataError(
                f"{setting} is {count}, but no data set has a validation prompt of the kind {kind}; "
                f"raise demonstrations.quota and helpful_quota, or set {setting} to 0"
            )
    return {
        kind: [prompts[name] for name in first_by_hash(prompts, len(prompts) if count is None else count)]
        for kind, prompts in found.items()
    }


def prompts_by_kind(datasets: Mapping[str, Path], leave_out: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """Return the validation prompts of data sets, each once.

    Args:
        datasets: directory of the data set of each category.
        leave_out: categories that are left out, together with the twins of their prompts.

    Returns:
        For each kind, `unsafe` and `look_alike`, its prompts by their id; there may be none.
    """
    found: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    for rows in rows_of_split(datasets, "validation", leave_out).values():
        for row in rows:
            if row["kind"] in found:
                found[row["kind"]][row["prompt_id"]] = row["prompt"]
    return found


class CheckpointChoice(TrainerCallback):
    """Answer validation prompts at every checkpoint, and keep the trained weights of the best one.

    Several processes share the prompts, batch by batch, and the first one keeps points and weights.

    Args:
        policy: tokenizer and device; the weights are those of the trainer's model.
        prompts: validation prompts by kind.
        max_new_tokens: length limit of a reply.
        folder: holds the points and the best weights, also for a run that is resumed.
        reporter: gets each point.
        scored: validation prompts by kind over which the AUC is taken, by which the best is then chosen; None chooses
            by the composite.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: Mapping[str, Sequence[str]],
        max_new_tokens: int,
        folder: Path,
        reporter: Reporter,
        scored: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._policy, self._prompts, self._reporter, self._scored = policy, prompts, reporter, scored
        self._settings = SamplingSettings(max_new_tokens, 0.0, _BATCH)
        self._points, self._best = folder / "validation.jsonl", folder / "best.safetensors"
        self._measured: set[int] = set()

    @property
    def points(self) -> list[ValidationPoint]:
        """All points so far, by step."""
        lines = self._points.read_text(encoding="utf-8").splitlines() if self._points.is_file() else []
        return [ValidationPoint(**json.loads(line)) for line in lines]

    @property
    def best(self) -> ValidationPoint:
        """The point with the highest AUC, or composite where none is taken; of equal ones the latest."""
        return max(self.points, key=lambda point: (point.composite if point.auc is None else point.auc, point.step))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the start; forget points that a resumed run will measure again."""
        kept = [point for point in self.points if point.step <= state.global_step] if state.global_step else []
        self._measured = {point.step for point in kept}
        PartialState().wait_for_everyone()  # until each process has read the file
        if state.is_world_process_zero:
            self._points.write_text("".join(json.dumps(point.record()) + "\n" for point in kept), encoding="utf-8")
        if not kept:
            self._measure(kwargs["model"], 0)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure a checkpoint; the trainer calls this before the checkpoint is marked as complete."""
        if state.global_step not in self._measured:
            self._measure(kwargs["model"], state.global_step)

    def publish(self, model: Any, out: Path) -> dict[str, Any]:
        """Give the model the trained weights of the best point, and write all points.

        Args:
            model: the trainer's model.
            out: directory of the artifact; gets `validation.json`.

        Returns:
            Display metadata: the chosen step, and the points.
        """
        weights, best = load_file(self._best), self.best
        with torch.no_grad():
            for name, weight in _trained(model).items():
                weight.copy_(weights[name])
        shown = self._write(out, best)
        self._reporter.log(f"step {best.step} is published: the best of {len(self.points)} on validation prompts")
        return shown

    def publish_last(self, out: Path) -> dict[str, Any]:
        """Keep the weights of the last step, whatever the best point was, and write all points.

        Args:
            out: directory of the artifact; gets `validation.json`.

        Returns:
            Display metadata: the last step, and the points.
        """
        return self._write(out, max(self.points, key=lambda point: point.step))

    def _write(self, out: Path, chosen: ValidationPoint) -> dict[str, Any]:
        rows = [{**point.record(), "composite": round(point.composite, 4)} for point in self.points]
        text = json.dumps({"chosen": chosen.step, "points": rows}, indent=1, sort_keys=True)
        (out / "validation.json").write_text(text, encoding="utf-8")
        return {"chosen_step": chosen.step, "validation": Table(rows)}

    def _measure(self, model: Any, step: int) -> None:
        self._measured.add(step)
        training = model.training
        model.eval()
        with ready_to_decode(model):
            labels = {kind: self._labels(model, prompts) for kind, prompts in self._prompts.items()}
            # Of several processes the others have no use for it, but compute it where each has a part of the weights.
            needed = PartialState().is_main_process or is_sharded(model)
            known = self._auc(model, self._scored) if self._scored and needed else None
        model.train(training)
        if not PartialState().is_main_process:
            return
        refused = {kind: found.count("refusal") / len(found) for kind, found in labels.items()}
        every = [label for found in labels.values() for label in found]
        unusable = sum(label in UNUSABLE for label in every) / len(every)
        point = ValidationPoint(step, refused["unsafe"], refused["look_alike"], unusable, known)
        with self._points.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point.record()) + "\n")
        if self.best == point:
            save_file({name: weight.detach().contiguous() for name, weight in _trained(model).items()}, self._best)
        counts = {kind: len(prompts) for kind, prompts in self._prompts.items()}
        self._reporter.log(
            f"validation after step {step}: refused {point.unsafe:.0%} of {counts['unsafe']} unsafe prompts and "
            f"{point.look_alike:.0%} of {counts['look_alike']} look-alikes; {unusable:.0%} of the replies are unusable"
            + ("" if known is None else f"; AUC of the refusal score {known:.3f}")
        )

    def _auc(self, model: Any, prompts: Mapping[str, Sequence[str]]) -> float:
        policy = replace(self._policy, model=model)
        scores = [refusal_margins(policy, prompts[kind], _BATCH).tolist() for kind in KINDS]
        return round(auc(*scores), 4)

    def _labels(self, model: Any, prompts: Sequence[str]) -> list[Label]:
        policy = replace(self._policy, model=model)
        texts = {prompt: chat_text(policy.tokenizer, prompt) for prompt in prompts}
        state, labels = PartialState(), list[Label]()
        # Complete batches, so that each is what one process would decode.
        parts = list(by_length(prompts, texts.__getitem__, _BATCH))
        rounds = -(-len(parts) // state.num_processes) * state.num_processes
        for place in range(state.process_index, rounds, state.num_processes):
            if place >= len(parts) and not is_sharded(model):
                continue
            part = parts[min(place, len(parts) - 1)]  # of sharded weights each process has to decode equally often
            replies = decode(policy, [texts[prompt] for prompt in part], ["0" * 16] * len(part), self._settings)
            if place < len(parts):
                answers = [cut_draft(reply.text) for reply in replies]
                labels += [label_reply(answer, asked) for answer, asked in zip(answers, part, strict=True)]
        return gather_object(labels)


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
