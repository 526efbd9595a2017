"""Kill runs of the graph at random moments and check that nothing was lost.

`python -m benchmarks.reliability [--kills 100] [--seed 0] [--config FILE]` sends SIGKILL to the training worker, the
step, the process of the run, the daemon, or all of them, seven in ten under `drirl run` and three in ten under
`dagster dev`. Every broken guarantee is printed with its evidence, and makes the exit code 1. Writes
benchmarks/results/reliability.json.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.machine import write
from benchmarks.reliability import processes
from benchmarks.reliability.campaign import Campaign
from benchmarks.reliability.drivers import CommandLine, DagsterDev
from benchmarks.reliability.run_folder import RunFolder, lost_rows, make_run_folder, undisturbed
from pipeline.instance.home import INSTANCE_FILE

DEV_SHARE = 0.3


def measure(run_folder: RunFolder, kills: int, seed: int, dev_share: float = DEV_SHARE) -> dict[str, Any]:
    """Kill and compare.

    Args:
        run_folder: a new one.
        kills: how many.
        seed: decides moments and targets.
        dev_share: share of the kills under `dagster dev`; they come between two halves of the others, so that each way
            to run has to recover from what the other one left.

    Returns:
        Figures, with `broken`: every guarantee that did not hold, and its evidence.
    """
    started = time.monotonic()
    in_dev = round(kills * dev_share)
    first = (kills - in_dev) // 2
    with _nothing_left(run_folder), dg.DagsterInstance.from_config(str(run_folder.home), INSTANCE_FILE) as instance:
        campaign = Campaign(run_folder, instance, seed)
        for kind, count in ((CommandLine, first), (DagsterDev, in_dev), (CommandLine, kills - in_dev - first)):
            if count:
                driver = kind(run_folder)
                campaign.kill(driver, count)
                if kind is DagsterDev:
                    campaign.finish(driver)
                driver.stop()
        campaign.finish(driver := CommandLine(run_folder))
        driver.stop()
        campaign.close()
    tally = campaign.tally
    differing, rows = {}, {}
    for number, versions in tally.seeds.items():
        print(f"seed {number} once more, undisturbed", flush=True)
        expected, reference = undisturbed(run_folder, number)
        differing |= {
            f"{name} of seed {number}": (versions.get(name), v)
            for name, v in expected.items()
            if versions.get(name) != v
        }
        rows = lost_rows(run_folder, reference)
    tally.broken += [
        ("version that differs from the undisturbed run's", f"{name}: {pair}") for name, pair in differing.items()
    ]
    tally.broken += [("lost rows", f"{lost} of {all_} in {name}") for name, (all_, lost) in rows.items() if lost]
    return {
        **tally.figures(),
        "trainings_interrupted": campaign.trainings.interrupted,
        "trainings_resumed": campaign.trainings.resumed,
        "assets_compared": sum(map(len, tally.seeds.values())),
        "assets_that_differ": len(differing),
        "rows": {name: {"compared": all_, "lost": lost} for name, (all_, lost) in rows.items()},
        "minutes": round((time.monotonic() - started) / 60, 1),
        "broken": [": ".join(pair) for pair in tally.broken],
    }


@contextlib.contextmanager
def _nothing_left(run_folder: RunFolder) -> Iterator[None]:
    """End the processes of a run folder when its measurement ends early."""
    try:
        yield
    finally:
        while left := processes.of_home(run_folder.home):
            processes.kill(left)
            processes.wait_gone(left, limit_s=1.0)


def main() -> int:
    """Measure, write and print.

    Returns:
        Exit code: 1 when a guarantee was broken.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, help="settings to kill runs of; the tiny random models without it")
    parser.add_argument("--dev-share", type=float, default=DEV_SHARE, help="share of the kills under dagster dev")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="drirl-reliability-"))
    print(f"all files are in {folder}", flush=True)
    result = measure(make_run_folder(folder, arguments.config), arguments.kills, arguments.seed, arguments.dev_share)
    write(
        "reliability",
        {"what": "SIGKILL at random moments of the graph on tiny random models", "seed": arguments.seed, **result},
    )
    return 1 if result["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
