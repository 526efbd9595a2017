"""What a GPU machine is measured by, in one command: `python -m benchmarks.gpu [PART ...]`.

The parts, in this order, each in a process of its own and ended when its minutes are over: `demo`, the complete demo
without Dagster; `grpo_step`, a GRPO step against stock TRL; `reward_backbones`, eight reward models against one;
`memory_plan`, a random model of Llama-3.1-8B's shape through sampling, rewards and a GRPO update against the plan.
The machine needs neither Dagster nor a network: with PIP_NO_INDEX and PIP_FIND_LINKS the two models of the demo come
from a folder of wheels.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from typing import Any

from benchmarks.machine import write
from drirl_core.benchmarks.render import examination_table
from drirl_core.graph.build import build_each
from drirl_core.graph.plan import with_ancestors
from drirl_core.project import Project
from drirl_core.reporting import LogReporter

CONFIG = "configs/demo.yaml"
PARTS: dict[str, tuple[int, list[str]]] = {
    "demo": (420, ["benchmarks.gpu", "--inside", "demo"]),
    "grpo_step": (120, ["benchmarks.grpo_step", CONFIG, "--device", "cuda", "--rounds", "2"]),
    "reward_backbones": (120, ["benchmarks.reward_backbones", "--device", "cuda"]),
    "memory_plan": (
        240,
        ["benchmarks.memory_plan", "--device", "cuda", "--out", "benchmarks/results/memory_plan_gpu.json"],
    ),
}
"""Seconds that a part may take, and its module with arguments."""


def demo(device: str, until: str | None) -> None:
    """Build the demo's assets in order, or what one of them needs; write seconds and GPU memory after each stage."""
    import torch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    project, started = Project.load(CONFIG, {"models.device": device}), time.perf_counter()
    stages: dict[str, dict[str, float]] = {}
    result: dict[str, Any] = {
        "what": f"{CONFIG}, {f'what {until} needs' if until else 'every asset'}, without Dagster, in one process, "
        f"models.device: {device}",
        "stages": stages,
    }
    name = "demo_gpu" if device == "cuda" else "demo_cpu"
    nodes = with_ancestors(project.graph, [until]) if until else project.graph.nodes.values()
    begun = started
    for node, artifact in build_each(project, nodes, LogReporter()):
        taken = stages.setdefault(node.stage, {"seconds": 0.0, "gpu_gib": 0.0})
        taken["seconds"] = round(taken["seconds"] + time.perf_counter() - begun, 1)
        if device == "cuda":
            taken["gpu_gib"] = max(taken["gpu_gib"], round(torch.cuda.max_memory_allocated() / 2**30, 2))
            torch.cuda.reset_peak_memory_stats()
        result["seconds"] = round(time.perf_counter() - started, 1)
        result["built"] = node.name
        print(f"{result['seconds']:7.1f} s  {node.name}", flush=True)
        write(name, result, show=False)
        last, begun = artifact, time.perf_counter()
    if until:
        return
    summary = json.loads((last.path / "summary.json").read_text(encoding="utf-8"))
    result["headline"] = summary["headline"]
    result["tables"] = [examination_table(results).splitlines() for results in summary["suites"]]
    write(name, result)
    print("\n".join("\n".join(table) for table in result["tables"]))


def main() -> None:
    """Run the parts, each in its own process, and say how each ended; the status is 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--inside", choices=["demo"], help=argparse.SUPPRESS)
    parser.add_argument("--until", metavar="ASSET", help="the demo's last asset, such as policy_checkpoint")
    parser.add_argument("--device", default="cuda", help="cpu tries the demo's part without a GPU")
    arguments = parser.parse_args()
    if arguments.inside:
        demo(arguments.device, arguments.until)
        return
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no such part; there are {', '.join(PARTS)}")
    failed = False
    for name in arguments.parts or PARTS:
        limit, command = PARTS[name]
        if name == "demo":
            command = [*command, "--device", arguments.device]
            command += ["--until", arguments.until] if arguments.until else []
        started = time.perf_counter()
        try:
            status = subprocess.run([sys.executable, "-m", *command], timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            status = None
        said = {None: f"ended after its {limit} s", 0: "done"}.get(status, f"failed with status {status}")
        print(f"{name}: {said}, {time.perf_counter() - started:.0f} s", flush=True)
        failed |= status != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
