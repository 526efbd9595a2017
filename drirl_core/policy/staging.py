"""Training in stages: prompts in the order of their hardness, and a reference that is renewed at every stage.

DR-IRL uses hardness as a weight (alpha). Here difficulty decides the order of the prompts instead, and the reference of
the KL follows the policy stage by stage (docs/method.md, section 5, "Difficulty as order").
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from drirl_core import taxonomy
from drirl_core.config import PolicyConfig
from drirl_core.errors import ArtifactError, DataError
from drirl_core.graph import build as stages
from drirl_core.reporting import Reporter
from drirl_core.store.tables import read_table

FILE = "reference.safetensors"
"""Weights of the reference in a checkpoint."""

Prompts = Mapping[str, Sequence[dict[str, Any]]]
"""Training prompts by category."""


def first_steps(steps: int, parts: int) -> tuple[int, ...]:
    """Return the first step of each stage, counted from 0: step t belongs to stage floor(t S / steps).

    Args:
        steps: of the training, at least as many as stages.
        parts: S, the stages.
    """
    return tuple(-(-number * steps // parts) for number in range(parts))


def hardness_of_prompts(context: stages.Context) -> dict[str, float]:
    """Return delta = 1 - W by id of the prompt, from all hardness tables; harmless prompts have none.

    Within a category the order of delta is that of alpha, because alphaM is one number per category; unlike alpha
    it does not depend on `hardness.combine`.

    Raises:
        DataError: a table cannot be read.
    """
    tables = context.named("hardness").values()
    return {row["prompt_id"]: row["delta"] for path in tables for row in read_table(path / "hardness.parquet")}


def in_stages(prompts: Prompts, parts: int, hardness: Mapping[str, float]) -> list[dict[str, list[dict[str, Any]]]]:
    """Cut the prompts of each harm category into equal parts of growing hardness.

    Of N prompts in the order of their hardness, the one at place r = 0..N-1 is in stage floor(r S / N). Equal ones are
    ordered by their ids, which are hashes and say nothing else. The parts are disjoint: as in a random order each
    prompt has the same share of the training, so that hardness decides when a prompt comes and not how often.

    Args:
        prompts: training prompts by category; those of `helpful` are left out.
        parts: S, the stages.
        hardness: by id of the prompt; larger is harder.

    Returns:
        Prompts by category, for each stage.

    Raises:
        DataError: a prompt has no hardness, or a category has fewer prompts than there are stages.
    """
    found: list[dict[str, list[dict[str, Any]]]] = [{} for _ in range(parts)]
    for category, rows in prompts.items():
        if category == taxonomy.HELPFUL:
            continue
        lacking = [row["prompt_id"] for row in rows if row["prompt_id"] not in hardness]
        if lacking:
            raise DataError(
                f"{len(lacking)} of {len(rows)} training prompts of {category} have no hardness, such as {lacking[0]}, "
                f"and policy.order is 'hardness'; materialize hardness_{category} of this data set again with "
                "completions.prompts 0, or set policy.order to random"
            )
        if len(rows) < parts:
            raise DataError(
                f"{category} has {len(rows)} training prompts, which cannot be cut into {parts} stages; lower "
                "policy.stages, or add prompts"
            )
        ordered = sorted(rows, key=lambda row: (hardness[row["prompt_id"]], row["prompt_id"]))
        for place, row in enumerate(ordered):
            found[place * parts // len(ordered)].setdefault(category, []).append(row)
    return found


class ReferenceRenewal(TrainerCallback):
    """Make the policy the reference of the KL at the first step of each stage but the first.

    With adapters the reference is a second adapter, which TRL uses for it where it has the name `ref`: at first a copy
    of the untrained one, which changes nothing. Without adapters it is TRL's reference model. Its weights are a part of
    each checkpoint (the trainer itself keeps the adapter, but not the model), so that a resumed run has the reference
    of its stage and not the start.

    Args:
        settings: steps, stages and passes over a generation.
        reporter: gets a line per renewal.
    """

    def __init__(self, settings: PolicyConfig, reporter: Reporter) -> None:
        passes = settings.num_iterations
        self._starts: Collection[int] = {step * passes for step in first_steps(settings.steps, settings.stages)[1:]}
        self._reporter = reporter
        self._weights: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def attach(self, trainer: Any) -> None:
        """Give the trainer a reference that can change; call once, before it trains.

        Args:
            trainer: one of TRL's group trainers, with a KL.
        """
        self._weights = _reference_weights(trainer)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the reference of a resumed run.

        Raises:
            ArtifactError: it is not in the checkpoint, or cannot be read.
        """
        if not state.global_step:
            return
        file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE
        try:
            stored = load_file(file)
            with torch.no_grad():
                for name, (reference, _) in self._weights.items():
                    reference.copy_(stored[name])
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise ArtifactError(
                f"{file.parent} cannot be resumed ({error}); delete it to start from the one before"
            ) from error

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Copy the policy into the reference where a stage begins; the step then samples and computes its KL."""
        if state.global_step not in self._starts:
            return
        with torch.no_grad():
            for reference, policy in self._weights.values():
                reference.copy_(policy)
        if state.is_world_process_zero:
            self._reporter.log(f"the policy after step {state.global_step} is the reference from here on")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the reference into the checkpoint; the trainer calls this before that is marked as complete."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            weights = {name: reference.detach().cpu().contiguous() for name, (reference, _) in self._weights.items()}
            save_file(weights, Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE)


def _reference_weights(trainer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return each weight of the reference beside that of the policy, by name; add the adapter `ref` where it is one."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.ref_model is not None:
        reference = dict(trainer.accelerator.unwrap_model(trainer.ref_model).named_parameters())
        return {name: (reference[name], weight) for name, weight in model.named_parameters()}
    devices = {weight.device for weight in model.parameters() if weight.device.type == "cuda"}
    with torch.random.fork_rng(devices):  # its random weights are overwritten, and no other number may change
        model.add_adapter("ref", model.peft_config["default"])
    found = {
        name: (model.get_parameter(name.replace(".default.", ".ref.")), weight)
        for name, weight in model.named_parameters()
        if ".default." in name
    }
    with torch.no_grad():
        for reference, policy in found.values():
            reference.copy_(policy)
    return found
