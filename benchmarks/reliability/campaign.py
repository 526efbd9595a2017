"""The kills: wait for a random moment, kill, check, let the pipeline recover, continue."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import dagster as dg
import psutil

from benchmarks.reliability import invariants, processes
from benchmarks.reliability.drivers import Driver
from benchmarks.reliability.run_folder import RunFolder
from benchmarks.reliability.trainings import Trainings

ORPHAN_LIMIT_S, STILL_LIMIT_S = 15.0, 300.0
FINISH_LIMIT_S = 1800.0
_TICK_S = 0.5


@dataclass
class Tally:
    """What was counted, and every guarantee that was broken, with its evidence."""

    kills: Counter[str] = field(default_factory=Counter)
    artifacts_verified: int = 0
    deaths_followed_s: list[float] = field(default_factory=list)
    recovered_s: dict[str, list[float]] = field(default_factory=dict)
    seeds: dict[int, dict[str, str]] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return the counts as JSON data."""
        return {
            "kills": sum(self.kills.values()),
            "by_target": dict(sorted(self.kills.items())),
            "artifacts_verified": self.artifacts_verified,
            "workers_that_followed_their_owner": len(self.deaths_followed_s),
            "slowest_worker_to_follow_s": round(max(self.deaths_followed_s, default=0.0), 1),
            "dead_runs_healed": {
                name: {"runs": len(times), "median_s": round(median(times), 1), "slowest_s": round(max(times), 1)}
                for name, times in sorted(self.recovered_s.items())
            },
            "graphs_completed": len(self.seeds),
        }


class Campaign:
    """Kill the runs of one driver after another, on one home and one root.

    Args:
        run_folder: home and root.
        instance: Dagster's history there.
        seed: decides moments and targets.
    """

    def __init__(self, run_folder: RunFolder, instance: dg.DagsterInstance, seed: int) -> None:
        self._run_folder, self._instance, self._chance = run_folder, instance, random.Random(seed)
        self.tally, self.trainings = Tally(), Trainings(run_folder.root)
        self._seed = 0
        self._dead: dict[str, float] = {}
        self._touched: set[str] = set()
        self._ends = 0.0
        run_folder.use_seed(self._seed)

    def kill(self, driver: Driver, count: int) -> None:
        """Kill `count` times, taking the driver's targets in turn."""
        for number in range(count):
            self._until_moment(driver)
            self._kill_once(driver, driver.targets[number % len(driver.targets)])

    def finish(self, driver: Driver) -> None:
        """Let the graph run to its end."""
        deadline = time.monotonic() + FINISH_LIMIT_S
        driver.ensure_running(self._instance)
        self._ends = time.monotonic() + driver.recovery_limit_s
        while self._dead or driver.busy(self._instance) or not self._run_folder.versions():
            if time.monotonic() > deadline:
                self._report(
                    "graph that does not finish", [f"seed {self._seed} after {FINISH_LIMIT_S:.0f} s; see {driver.log}"]
                )
                return
            time.sleep(_TICK_S)
            self._note_recovered_runs(driver)
            if not driver.busy(self._instance) and not self._run_folder.versions():
                driver.ensure_running(self._instance)
        self.trainings.read(self._instance)
        self.tally.seeds[self._seed] = self._run_folder.versions() or {}
        self._seed += 1
        self._run_folder.use_seed(self._seed)

    def close(self) -> None:
        """Check what must hold at the end."""
        self.trainings.read(self._instance)
        self._report(
            "interrupted training that was never resumed",
            [f"{k}: checkpoint-{n}" for k, n in self.trainings.waiting.items()],
        )
        self._report("training that did not resume from its checkpoint", self.trainings.problems)
        self._report("run that never ended", invariants.unfinished(self._instance))
        self._report("slot in the pool that was never freed", sorted(invariants.pool_slots(self._instance)))
        for run in self._instance.get_runs(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
        ):
            if run.run_id not in self._touched:
                self._report(
                    "failure without a kill", [f"{run.run_id}: {invariants.failures_of(self._instance, run.run_id)}"]
                )
        self._report(
            "process that remained",
            [processes.describe(process) for process in processes.of_home(self._run_folder.home)],
        )

    def _until_moment(self, driver: Driver) -> None:
        left = self._chance.uniform(*driver.moments_s)
        driver.ensure_running(self._instance)
        self._ends = time.monotonic() + driver.recovery_limit_s
        while left > 0:
            time.sleep(min(_TICK_S, left))
            left -= _TICK_S
            self._note_recovered_runs(driver)
            if not driver.busy(self._instance):
                self._next_work(driver)

    def _next_work(self, driver: Driver) -> None:
        """Take the next seed when the graph is complete, then start it."""
        versions = self._run_folder.versions()
        if versions:
            self.tally.seeds[self._seed] = versions
            self._seed += 1
            self._run_folder.use_seed(self._seed)
            driver.settings_changed()
        driver.ensure_running(self._instance)

    def _kill_once(self, driver: Driver, target: str) -> None:
        target, victims = self._wait_for_victims(driver, target)
        running = processes.of_home(self._run_folder.home)
        bound = [
            worker
            for worker in processes.workers(running)
            if worker not in victims and _any(victims, processes.owners(worker))
        ]
        self._touched.update(invariants.unfinished(self._instance))
        owned = invariants.started(self._instance)
        processes.kill(victims)
        self.tally.kills[f"{driver.name}: {target}"] += 1
        print(f"kill {sum(self.tally.kills.values())}, seed {self._seed}: {target} of {driver.name}", flush=True)
        processes.wait_gone(victims, ORPHAN_LIMIT_S)
        seconds, left = processes.wait_gone(bound, ORPHAN_LIMIT_S)
        self.tally.deaths_followed_s += [seconds] * len(bound)
        self._report("orphan trainer", [processes.describe(process) for process in left])
        # From outside it is not visible which of several runs a killed process executed.
        if target in ("command", "everything") or (target == "run worker" and len(owned) == len(victims)):
            self._dead |= {run: time.monotonic() for run in owned if run not in self._dead}
        time.sleep(1.0)  # the reader of a worker's messages reads five times per second
        self.trainings.read(self._instance)
        if not processes.workers(processes.of_home(self._run_folder.home)):  # the end of a daemon stops no training
            self.trainings.killed()
        count, problems = invariants.half_published(self._run_folder.root)
        self.tally.artifacts_verified += count
        self._report("half-published artifact", problems)

    def _wait_for_victims(self, driver: Driver, target: str) -> tuple[str, list[psutil.Process]]:
        """Wait for the target, for example a worker between two steps; after the limit take everything instead."""
        deadline = time.monotonic() + STILL_LIMIT_S
        while not (victims := driver.victims(target)):
            if time.monotonic() > deadline:
                self._report("run that makes no progress", [f"no {target} in {STILL_LIMIT_S:.0f} s; see {driver.log}"])
                return "everything", driver.victims("everything")
            time.sleep(_TICK_S)
            self._note_recovered_runs(driver)
            if not driver.busy(self._instance):
                self._next_work(driver)
        return target, victims

    def _note_recovered_runs(self, driver: Driver) -> None:
        """Note the killed runs that were closed and freed their slots."""
        if not self._dead:
            return
        open_runs = {*invariants.unfinished(self._instance), *invariants.pool_slots(self._instance)}
        for run, since in list(self._dead.items()):
            if run not in open_runs:
                self.tally.recovered_s.setdefault(driver.name, []).append(time.monotonic() - since)
                del self._dead[run]
        if time.monotonic() > self._ends:
            self._report(
                f"dead run or its slot in the pool, {driver.recovery_limit_s:.0f} s after {driver.name} was restarted",
                sorted(self._dead),
            )
            self._dead.clear()

    def _report(self, what: str, evidence: Sequence[str]) -> None:
        for line in evidence:
            print(f"BROKEN {what}: {line}", flush=True)
            self.tally.broken.append((what, line))


def _any(victims: Sequence[psutil.Process], owners: Sequence[psutil.Process]) -> bool:
    return any(owner in victims for owner in owners)
