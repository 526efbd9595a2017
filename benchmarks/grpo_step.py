"""Seconds of a GRPO step against stock TRL, on a CPU or a GPU: `python -m benchmarks.grpo_step [CONFIG]`.

Ours is the trainer of the policy stage, with the eight reward models of a finished run, dynamic scaling and the KL;
stock is TRL's `GRPOTrainer` with the same arguments, model, adapters, prompts and batch, whose reward is the length of
the completion and costs nothing. They take turns in one process, and the first step of each turn is left out. On a GPU
the highest memory of either is read too. Of ours the time over floor is read by phase (benchmarks/grpo_floor.py).

Each round has a seed of its own and a copy of the stored embeddings: completions are new to the encoder, as in a run.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from benchmarks.floor import measured_rates, trained_by
from benchmarks.grpo_floor import floors_of, watched
from benchmarks.machine import write
from benchmarks.phases import Measured, PhaseClock, record, show
from drirl_core.graph.build import Context, context_of
from drirl_core.graph.planned import Named
from drirl_core.models import embeddings
from drirl_core.models.adapters import adapters_of
from drirl_core.models.loading import load_policy
from drirl_core.models.references import resolve
from drirl_core.models.sampling import reader_of_completions
from drirl_core.planning.passes import Numbers
from drirl_core.planning.shape import shape_of
from drirl_core.policy.cpu import lean_training
from drirl_core.policy.grpo import grpo_arguments
from drirl_core.policy.lower_states import lower_states
from drirl_core.policy.schedule import schedule, training_prompts
from drirl_core.policy.scoring import load_scorer
from drirl_core.policy.shared_states import shared_states
from drirl_core.policy.tracking import tracking_of
from drirl_core.policy.trainer import DynamicRewardScalingTrainer
from drirl_core.policy.training import common_arguments
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import Workspace
from drirl_core.store.rowcache import RowCache

STEPS, ROUNDS = 5, 3


class StepTimes(TrainerCallback):
    """Keep when each step ended, and the times that a step logs of its parts."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.parts: list[Mapping[str, float]] = []

    def on_train_begin(self, *arguments: Any, **kwargs: Any) -> None:
        """Begin to count."""
        self.ends.append(time.perf_counter())

    def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
        """Read the clock once the device has finished."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep sampling and reward times."""
        self.parts.append({key: value for key, value in (logs or {}).items() if key.startswith("time/")})

    def seconds(self) -> list[float]:
        """Return the seconds of each step but the first."""
        return [after - before for before, after in zip(self.ends[1:-1], self.ends[2:], strict=True)]


def length_reward(completions: list[Any], **columns: Any) -> list[float]:
    """Reward a completion by its length, at no cost."""
    return [float(len(completion[-1]["content"])) for completion in completions]


@contextmanager
def stage_context(project: Project, name: str) -> Iterator[Context]:
    """Yield the context in which an asset of a finished run was trained."""
    node = project.graph.nodes[name]
    names = [name for name in node.inputs if name in project.graph.nodes]
    versions = {name: artifact.version for name, artifact in Named(project).open(*names).items()}
    with tempfile.TemporaryDirectory() as folder:
        yield context_of(node, project, versions, Workspace(Path(folder), Path(folder)), SilentReporter())


@contextmanager
def copied_embeddings(context: Context) -> Iterator[None]:
    """Let encoders in the block keep their rows in a copy of the store's."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "embeddings.sqlite"
        with (
            contextlib.closing(sqlite3.connect(context.store.cache_path("embeddings"))) as stored,
            contextlib.closing(sqlite3.connect(file)) as copy,
        ):
            stored.backup(copy)
        with mock.patch.object(embeddings, "RowCache", lambda place: RowCache(file)):
            yield


@dataclass
class Turn:
    """What was measured in one turn.

    Args:
        times: of the steps.
        gpu_gib: highest GPU memory; 0 on a CPU.
        floor: of ours, the phases beside their floors.
    """

    times: StepTimes
    gpu_gib: float
    floor: Measured | None = None


def turn(context: Context, seed: int, *, ours: bool) -> Turn:
    """Train some steps from the start, and measure."""
    config = context.config
    settings = config.policy
    start = context.inputs.get("sft_checkpoint", config.models.policy)
    policy, shape = load_policy(start, config.models), shape_of(resolve(start, config.models), start)
    device, dtype = policy.device.type, policy.model.dtype
    rates = measured_rates(shape, dtype, device) if ours else None
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    common = common_arguments(seed, context.scratch, device, tracking_of(context))
    arguments = grpo_arguments(settings, common)
    arguments.max_steps, arguments.save_strategy = STEPS, "no"
    times, clock = StepTimes(), PhaseClock(device)
    adapters = adapters_of(settings.lora, policy.model, "policy.lora", config.models.policy)
    lower = lower_states(policy.model, adapters) if ours and settings.share_lower_layers else None
    rest: dict[str, Any] = {
        "model": policy.model,
        "args": arguments,
        "train_dataset": Dataset.from_list(schedule(training_prompts(context), settings, seed)),
        "processing_class": policy.tokenizer,
        "peft_config": adapters,
        "callbacks": [times, clock] if ours else [times],
    }
    if ours:
        scorer = load_scorer(context)
        trainer: Any = DynamicRewardScalingTrainer(
            coefficient=scorer,
            reward_funcs=scorer.reward,
            exact_sampling=device == "cpu",
            read_completion=reader_of_completions(policy.tokenizer),
            shared=shared_states(policy, scorer, settings),
            lower=lower,
            **rest,
        )
    else:
        trainer = GRPOTrainer(reward_funcs=length_reward, **rest)
    trainer.remove_callback(PrinterCallback)
    if ours:
        with lean_training(trainer.model), watched(trainer, clock):
            trainer.train()
    else:
        trainer.train()
    gib = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    if rates is None:
        return Turn(times, gib)
    what = trained_by(settings.lora, shape)
    numbers = Numbers(device == "cuda", dtype.itemsize, config.models.quantization != "none")
    floors, more = floors_of(clock, shape, numbers, what, rates, device, later=lower is not None)
    return Turn(times, gib, Measured(str(dtype), [phases for phases, _ in clock.steps], floors, rates, more))


def main() -> None:
    """Measure and write benchmarks/results/grpo_step.json, or grpo_step_gpu.json on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/demo.yaml", help="of a run that has been built")
    parser.add_argument("--device", help="models.device, when it is not the configuration's")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each (default {ROUNDS})")
    parser.add_argument(
        "--share",
        action=argparse.BooleanOptionalAction,
        help="policy.share_lower_layers, when it is not the configuration's",
    )
    arguments = parser.parse_args()
    changes: dict[str, Any] = {"models.device": arguments.device} if arguments.device else {}
    changes |= {} if arguments.share is None else {"policy.share_lower_layers": arguments.share}
    project = Project.load(arguments.config, changes)
    first = project.config.seed_of(project.config.policy) + 1  # that of the run itself has stored embeddings
    stock, own, parts, memory, floors = [], [], [], {"stock": 0.0, "ours": 0.0}, []
    with stage_context(project, "policy_checkpoint") as context:
        for number in range(arguments.rounds):
            for name, seconds in (("stock", stock), ("ours", own)):
                with copied_embeddings(context):
                    found = turn(context, first + number, ours=name == "ours")
                seconds.append(statistics.median(found.times.seconds()))
                memory[name] = max(memory[name], found.gpu_gib)
                parts += found.times.parts[1:] if name == "ours" else []
                floors += [found.floor] if found.floor else []
    settings, on_gpu = project.config.policy, memory["ours"] > 0
    ratios = sorted(theirs / mine for theirs, mine in zip(stock, own, strict=True))
    write(
        "grpo_step_gpu" if on_gpu else "grpo_step",
        {
            "what": f"{settings.prompts_per_step} prompts x {settings.num_generations} completions of at most "
            f"{settings.max_new_tokens} tokens, {project.config.models.policy}, LoRA on the upper layers, KL",
            "rounds": arguments.rounds,
            "steps_of_a_round": STEPS - 1,
            "stock_s": round(statistics.median(stock), 2),
            "ours_s": round(statistics.median(own), 2),
            "of_it_sampling_s": round(statistics.median(part["time/sample_s"] for part in parts if part), 2),
            "of_it_rewards_s": round(statistics.median(part["time/reward_s"] for part in parts if part), 2),
            "of_it_alpha_s": round(statistics.median(part["time/alpha_s"] for part in parts if part), 2),
            "speedup_median": round(statistics.median(ratios), 2),
            "speedup_min_max": [round(ratios[0], 2), round(ratios[-1], 2)],
            **({"memory_gib": {name: round(used, 2) for name, used in memory.items()}} if on_gpu else {}),
            "floor": record(floors),
        },
    )
    show(record(floors)["phases"])


if __name__ == "__main__":
    main()
