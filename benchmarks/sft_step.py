"""Seconds of an SFT step over their floor: `python -m benchmarks.sft_step [CONFIG]`.

The stage itself runs, from its rows to its trainer, with the settings of a finished run, and ends after some steps.
Validation is off, and the first step is left out. See benchmarks/floor.py. Where `sft.share_lower_layers` is on, each
round also measures the step without it. The floor is that of the method as it is written: every step computes all
layers.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from benchmarks.floor import Row, backward, forward, measured_rates, predicted, trained_by
from benchmarks.grpo_step import stage_context
from benchmarks.machine import write
from benchmarks.phases import BACKWARD, FORWARD, STEP, Measured, PhaseClock, record, show, with_step
from drirl_core.graph.build import Context
from drirl_core.models.loading import device_of, dtype_of
from drirl_core.models.references import resolve
from drirl_core.planning.passes import Numbers
from drirl_core.planning.shape import shape_of
from drirl_core.policy import sft
from drirl_core.policy.lower_states import LowerStates
from drirl_core.policy.training import run
from drirl_core.project import Project

STEPS, ROUNDS = 17, 3
_IGNORED = -100


class _Enough(Exception):
    """No error: it leaves the stage after the steps that are measured."""


def rows_of(batch: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a batch without padding, prompts without answers among them; a learned token has a label.

    Args:
        batch: `input_ids`, `attention_mask` and `labels`, int64, (B, T).
    """
    found = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        present = mask.bool()
        learned = int((labels[present] != _IGNORED).sum())
        tokens = ids[present].tolist()
        # Of a prompt without an answer the first token of a reply is decided, which costs what predicting it does.
        found.append(Row(tuple(tokens[: len(tokens) - learned]), max(1, learned)))
    return found


def measure(context: Context, steps: int) -> tuple[Measured, list[list[Row]]]:
    """Run the stage for some steps; return what was measured, and the rows of each step."""
    config = context.config
    device, dtype = device_of(config.models).type, dtype_of(config.models)
    shape = shape_of(resolve(config.models.policy, config.models), config.models.policy)
    clock, rates = PhaseClock(device), []

    def noted(result: Any, model: Any, batch: Mapping[str, Any], *arguments: Any, **named: Any) -> None:
        clock.note("batch", batch)

    def some_steps(trainer: Any, checkpoint: Any, tracking: Any) -> None:
        rates.append(measured_rates(shape, dtype, device))
        trainer.add_callback(clock)
        clock.time_update(trainer, noted)
        trainer.args.max_steps, trainer.args.save_strategy = steps, "no"
        run(trainer, None, tracking)
        raise _Enough

    with mock.patch.object(sft, "run", some_steps), contextlib.suppress(_Enough):
        sft.build_sft_checkpoint(context)
    what = trained_by(config.sft.lora, shape)
    numbers = Numbers(device == "cuda", dtype.itemsize, config.models.quantization != "none")
    rows = [[row for batch in noted["batch"] for row in rows_of(batch)] for _, noted in clock.steps]
    floors = []
    for tokens in map(predicted, rows):
        work = {
            FORWARD: forward(shape, numbers, tokens, what=what),
            BACKWARD: backward(shape, numbers, tokens, what),
        }
        floors.append(with_step({name: one.floor(rates[0]) for name, one in work.items()}))
    return Measured(str(dtype), [phases for phases, _ in clock.steps], floors, rates[0]), rows


@contextlib.contextmanager
def learning_timed(seconds: list[float]) -> Iterator[None]:
    """Note the seconds in which the block computes the lower layers of all rows; none where it does not."""
    learn = LowerStates.learn

    def timed(self: LowerStates, *arguments: Any) -> int:
        started = time.monotonic()
        found = learn(self, *arguments)
        seconds.append(time.monotonic() - started)
        return found

    with mock.patch.object(LowerStates, "learn", timed):
        yield


def main() -> None:
    """Measure and write benchmarks/results/sft_step.json, with _shared in its name if it shares, and _gpu on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/demo.yaml", help="of a run that has been built")
    parser.add_argument("--device", help="models.device, when it is not the configuration's")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"trainings (default {ROUNDS})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of each, from 2 (default {STEPS})")
    arguments = parser.parse_args()
    if arguments.steps < 2 or arguments.rounds < 1:
        parser.error(f"--steps {arguments.steps} --rounds {arguments.rounds}: at least 2 steps and 1 round")
    chosen = {"sft.validation_prompts": 0, "sft.choose_by": "composite"}
    if arguments.device:
        chosen["models.device"] = arguments.device
    project = Project.load(arguments.config, chosen)
    computed = Project.load(arguments.config, {**chosen, "sft.share_lower_layers": False})
    found, every, once, rows = [], [], [], []
    for _ in range(arguments.rounds):
        with stage_context(project, "sft_checkpoint") as context, learning_timed(once):
            measured, met = measure(context, arguments.steps)
        found.append(measured)
        rows = met[1:]
        if once:
            with stage_context(computed, "sft_checkpoint") as context:
                every.append(measure(context, arguments.steps)[0])
    settings, floor, on_gpu = project.config.sft, record(found), device_of(project.config.models).type == "cuda"
    tokens, others = [predicted(step) for step in rows], " and those of the contrast" if settings.contrast else ""
    others += f", {settings.decision_prompts} prompts beside each" if settings.decision_prompts else ""
    write(
        f"sft_step{'_shared' if once else ''}{'_gpu' if on_gpu else ''}",
        {
            "what": f"batches of {settings.batch_size} rows{others}, "
            f"{settings.answer_tokens or 'all'} tokens of each answer, {project.config.models.policy}, "
            f"LoRA from {settings.lora.first_layer} of the depth",
            "rounds": arguments.rounds,
            "steps_of_a_round": arguments.steps - 1,
            "rows_per_step": statistics.mean(map(len, rows)),
            "tokens_per_step": round(statistics.mean(one.computed for one in tokens)),
            "of_them_scored": round(statistics.mean(one.scored for one in tokens)),
            "step_s": floor["phases"][STEP]["measured_s"],
            **({"lower_layers_once_s": round(statistics.median(once), 1)} if once else {}),
            "floor": floor,
            **({"every_step_computes_all_layers": record(every)["phases"]} if every else {}),
        },
    )
    show(floor["phases"])
    if every:
        print(f"lower layers once: {statistics.median(once):.1f} s; with all layers in every step:")
        show(record(every)["phases"])


if __name__ == "__main__":
    main()
