"""Memory and time as planned and as measured, on random models of a given shape.

`python -m benchmarks.memory_plan` compares three shapes on the CPU: an SFT step, an update of GRPO and sampling, in a
fresh process each, by highest resident memory above what was loaded. It writes benchmarks/results/memory_plan.json.
`python -m benchmarks.memory_plan --device cuda --shape llama-3.1-8b` does the same on a GPU, by what torch allocated,
with times; it needs only torch, transformers, trl and peft, and downloads nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, write
from drirl_core.planning.gpus import GIB, GPUS, Gpu
from drirl_core.planning.parts import Parts
from drirl_core.planning.passes import Batch, Numbers, Trained
from drirl_core.planning.shape import ModelShape, shape_of_model
from drirl_core.planning.work import Device, Phase, Update, reading, resident_of, rollout, sampling, training

RUNS = ("sampling", "sft", "grpo")
CPU_SHAPES = {
    "small": {"rows": 32, "micro": 16, "prompts": 8, "generations": 4, "prompt": 96, "new": 32},
    "medium": {"rows": 32, "micro": 8, "prompts": 4, "generations": 4, "prompt": 96, "new": 32},
    "smollm2-135m": {"rows": 32, "micro": 8, "prompts": 2, "generations": 4, "prompt": 96, "new": 32},
}
"""Shapes that the CPU compares, and how much is done with each."""
GPU_SIZES = {
    "tiny": {},
    "llama-3.1-8b": {
        "rows": 64, "micro": 16, "prompts": 32, "generations": 8, "prompt": 128, "new": 256, "rank": 64,
    },
}  # fmt: skip
"""Sizes of a GPU's comparison; those of the 8B are the settings of configs/llama-3.1-8b.yaml."""
DEPTH = 0.6
_NOT_COUNTED = ("weights", "adapters")
"""What a CPU's baseline holds; copies are counted by `_planned`."""


def planned(shape: ModelShape, run: str, sizes: Any, numbers: Numbers, gpu: Gpu | None) -> list[Phase]:
    """Plan one run of benchmarks/memory_runs.py, as the plan of a stage does.

    Args:
        shape: the model.
        run: `sampling`, `reading`, `sft` or `grpo`.
        sizes: how much is done.
        numbers: how the device computes.
        gpu: the card; None for no times.
    """
    from benchmarks.memory_runs import TARGETS

    device = Device(shape, numbers, gpu)
    rows, layer = Batch(sizes.rows, sizes.prompt, sizes.new), max(1, round(DEPTH * shape.layers))
    width = sizes.prompt + sizes.new
    if run == "sampling":
        return [sampling(device, rows, 1, "exact")]
    if run == "reading":
        return [reading(device, max(1, 4096 // width), width, layer, Parts(weights=shape.parameters * numbers.size))]
    what = Trained(sizes.rank, TARGETS if sizes.rank else (), shape.layers)
    batch = sizes.prompts * sizes.generations
    micro = Batch(sizes.micro, sizes.prompt, sizes.new)
    if run == "sft":
        return [training(device, Update(what, micro, sizes.micro * sizes.new, 1))]
    if not numbers.gpu:
        micro = dataclasses.replace(micro, distinct=min(sizes.prompts, sizes.micro))  # TRL shuffles a step's rows
    update = Update(what, micro, sizes.micro * sizes.new, batch / sizes.micro, reference=True)
    every = Batch(batch, sizes.prompt, sizes.new, sizes.prompts)
    resident = dataclasses.replace(resident_of(device, update, 1), gradients=0)
    read = reading(device, batch, width, layer, resident)
    return [rollout(device, update, every, 1, 1), *([read] if numbers.gpu else []), training(device, update, 1)]


def measure(run: str, shape: str, device: str, dtype: str, sizes: Any) -> dict[str, Any]:
    """Run and plan one part in this process.

    Returns:
        For each phase the planned parts, the planned and the measured peak, and on a GPU the seconds; a part that
        failed has its `error` instead.
    """
    import torch

    from benchmarks.memory_runs import Meter, make_policy, run_grpo, run_reading, run_sampling, run_sft

    meter, kind = Meter(device), getattr(torch, dtype)
    policy = make_policy(shape, device, kind)
    sizes_of_model = shape_of_model(policy.model, shape)
    layer, gpu = max(1, round(DEPTH * sizes_of_model.layers)), _card() if device == "cuda" else None
    if run == "sampling":
        run_sampling(policy, dataclasses.replace(sizes, rows=1), Meter(device))  # what libraries keep
        meter.start()
        run_sampling(policy, sizes, meter)
    elif run == "reading":
        meter.start()
        run_reading(policy, sizes, meter, layer, 4096)
    elif run == "sft":
        run_sft(policy, sizes, meter)
    else:
        run_grpo(policy, make_policy(shape, device, kind), sizes, meter, layer)
    numbers = Numbers(device == "cuda", torch.empty(0, dtype=kind).element_size())
    phases = planned(sizes_of_model, run, sizes, numbers, gpu)
    found: dict[str, Any] = {"phases": [_compared(phase, meter, sizes_of_model, numbers) for phase in phases]}
    if device == "cuda":
        found["reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
        free, total = torch.cuda.mem_get_info()
        found["taken_on_the_card_gib"] = round((total - free) / GIB, 2)
    peaks = [(phase["measured_gib"], phase["planned_gib"]) for phase in found["phases"]]
    found["peak"] = _pair(max(peak for peak, _ in peaks), max(peak for _, peak in peaks))
    return found


def _compared(phase: Phase, meter: Any, shape: ModelShape, numbers: Numbers) -> dict[str, Any]:
    parts = dataclasses.asdict(phase.parts)
    if not numbers.gpu:  # frozen models and adapters are in the baseline
        frozen = shape.parameters * numbers.size
        parts = {name: 0 if name in _NOT_COUNTED else value for name, value in parts.items()}
        parts["other_models"] -= frozen if parts["other_models"] >= frozen else 0
    both = {
        "phase": phase.name,
        **_pair(meter.peaks[phase.name] / GIB, sum(parts.values()) / GIB),
        "planned_parts_gib": {name: round(value / GIB, 3) for name, value in parts.items() if value},
    }
    if phase.seconds is not None:
        seconds = meter.seconds[phase.name]
        both |= {"measured_s": round(seconds, 2), "planned_s": round(phase.seconds, 2)}
    return both


def _pair(measured: float, planned: float) -> dict[str, float]:
    return {
        "measured_gib": round(measured, 3),
        "planned_gib": round(planned, 3),
        "planned_over_measured": round(planned / measured, 3) if measured > 0 else float("inf"),
    }


def _card() -> Gpu | None:
    """Return the card of this machine from the table, by its name and memory."""
    import torch

    here = torch.cuda.get_device_properties(0)
    alike = [gpu for name, gpu in GPUS.items() if name.split("-")[0].removeprefix("rtx") in here.name.lower()]
    return min(alike, key=lambda gpu: abs(gpu.memory - here.total_memory), default=None)


def _apart(run: str, shape: str, dtype: str, sizes: Any) -> dict[str, Any]:
    """Measure in a fresh process, whose allocator gives freed memory back at once, so that its peak is what is live."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "benchmarks.memory_plan", "--shape", shape, "--dtype", dtype, "--run", run]
    command += ["--sizes", json.dumps(dataclasses.asdict(sizes))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{run} of {shape} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _on_gpu(shape: str, dtype: str, sizes: Any) -> dict[str, Any]:
    """Measure every part in this process; a part that fails does not keep the others from being measured."""
    import gc

    import torch

    found: dict[str, Any] = {"card": torch.cuda.get_device_name(), "sizes": dataclasses.asdict(sizes), "runs": {}}
    for run in ("sampling", "reading", "sft", "grpo"):
        try:
            found["runs"][run] = measure(run, shape, "cuda", dtype, sizes)
        except Exception:  # reported with the others, and in the exit code
            found["runs"][run] = {"error": traceback.format_exc()[-2000:]}
        print(run, json.dumps(found["runs"][run]), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    return found


def show(runs: dict[str, Any]) -> None:
    """Print one line per phase."""
    for run, result in runs.items():
        if "error" in result:
            print(f"{run}: failed\n{result['error']}")
            continue
        for phase in result["phases"]:
            times = f", {phase['measured_s']} s against {phase['planned_s']} s" if "measured_s" in phase else ""
            print(
                f"{run:9} {phase['phase']:14} {phase['measured_gib']:7.3f} GiB measured, {phase['planned_gib']:7.3f} "
                f"planned ({phase['planned_over_measured']:.2f}){times}"
            )


def main() -> None:
    """Measure and write, or measure one part for the process that asked for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", help="one shape instead of all; see benchmarks/memory_runs.py")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU, else float32")
    parser.add_argument("--sizes", default="{}", help="JSON, such as '{\"new\": 64}'")
    parser.add_argument("--run", choices=(*RUNS, "reading"), help="one part, in this process")
    parser.add_argument("--out", type=Path, help="file for the result of one shape")
    given = parser.parse_args()
    from benchmarks.memory_runs import Sizes

    dtype = given.dtype or ("bfloat16" if given.device == "cuda" else "float32")
    defaults = GPU_SIZES.get(given.shape, {}) if given.device == "cuda" else CPU_SHAPES.get(given.shape, {})
    sizes = Sizes(**{**defaults, **json.loads(given.sizes)})
    if given.run:
        print(json.dumps(measure(given.run, given.shape, given.device, dtype, sizes)))
        return
    if given.device == "cuda":
        found = _on_gpu(given.shape or "llama-3.1-8b", dtype, sizes)
        show(found["runs"])
        document = json.dumps({"machine": describe(), **found}, indent=1)
        print(document)
        if given.out:
            given.out.write_text(document + "\n", encoding="utf-8")
        sys.exit(any("error" in result for result in found["runs"].values()))
    shapes = [given.shape] if given.shape else list(CPU_SHAPES)
    result: dict[str, Any] = {}
    for shape in shapes:
        chosen = Sizes(**{**CPU_SHAPES.get(shape, {}), **json.loads(given.sizes)})
        runs = {run: _apart(run, shape, dtype, chosen) for run in RUNS}
        print(shape)
        show(runs)
        result[shape] = {"sizes": dataclasses.asdict(chosen), "dtype": dtype, "runs": runs}
    if not given.shape:
        write("memory_plan", {"what": "peak above what was loaded, planned and measured", "shapes": result})


if __name__ == "__main__":
    main()
