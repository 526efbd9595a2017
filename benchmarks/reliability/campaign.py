"""The kills: wait for a random moment, kill, look, let heal, go on."""

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
from benchmarks.reliability.trainings import Trainings
from benchmarks.reliability.world import World

ORPHAN_LIMIT_S, STILL_LIMIT_S = 15.0, 300.0
FINISH_LIMIT_S = 1800.0
_TICK_S = 0.5


@dataclass
class Tally:
    """What was counted, and every promise that was broken, with its evidence."""

    kills: Counter[str] = field(default_factory=Counter)
    artifacts_verified: int = 0
    deaths_followed_s: list[float] = field(default_factory=list)
    healed_s: dict[str, list[float]] = field(default_factory=dict)
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
                for name, times in sorted(self.healed_s.items())
            },
            "graphs_completed": len(self.seeds),
        }


class Campaign:
    """Kill one driver's runs after another's, on one home and one root.

    Args:
        world: where.
        instance: Dagster's history there.
        seed: decides moments and targets.
    """

    def __init__(self, world: World, instance: dg.DagsterInstance, seed: int) -> None:
        self._world, self._instance, self._chance = world, instance, random.Random(seed)
        self.tally, self.trainings = Tally(), Trainings(world.root)
        self._seed = 0
        self._dead: dict[str, float] = {}
        self._touched: set[str] = set()
        self._ends = 0.0
        world.turn_to(self._seed)

    def kill(self, driver: Driver, count: int) -> None:
        """Kill `count` times, taking the driver's targets in turn."""
        for number in range(count):
            self._until_moment(driver)
            self._kill_once(driver, driver.targets[number % len(driver.targets)])

    def finish(self, driver: Driver) -> None:
        """Let the graph run to its end."""
        deadline = time.monotonic() + FINISH_LIMIT_S
        driver.go_on(self._instance)
        self._ends = time.monotonic() + driver.heal_limit_s
        while self._dead or driver.busy(self._instance) or not self._world.versions():
            if time.monotonic() > deadline:
                self._promise(
                    "graph that does not finish", [f"seed {self._seed} after {FINISH_LIMIT_S:.0f} s; see {driver.log}"]
                )
                return
            time.sleep(_TICK_S)
            self._look_at_dead(driver)
            if not driver.busy(self._instance) and not self._world.versions():
                driver.go_on(self._instance)
        self.trainings.read(self._instance)
        self.tally.seeds[self._seed] = self._world.versions() or {}
        self._seed += 1
        self._world.turn_to(self._seed)

    def close(self) -> None:
        """Look at what must hold when all is over."""
        self.trainings.read(self._instance)
        self._promise(
            "interrupted training that was never taken up",
            [f"{k}: checkpoint-{n}" for k, n in self.trainings.waiting.items()],
        )
        self._promise("training that did not go on from its checkpoint", self.trainings.problems)
        self._promise("run that never ended", invariants.unfinished(self._instance))
        self._promise("place in the pool that was never given back", sorted(invariants.pool_places(self._instance)))
        for run in self._instance.get_runs(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
        ):
            if run.run_id not in self._touched:
                self._promise(
                    "failure without a kill", [f"{run.run_id}: {invariants.failures_of(self._instance, run.run_id)}"]
                )
        self._promise(
            "process that stayed", [processes.describe(process) for process in processes.of_home(self._world.home)]
        )

    def _until_moment(self, driver: Driver) -> None:
        left = self._chance.uniform(*driver.moments_s)
        driver.go_on(self._instance)
        self._ends = time.monotonic() + driver.heal_limit_s
        while left > 0:
            time.sleep(min(_TICK_S, left))
            left -= _TICK_S
            self._look_at_dead(driver)
            if not driver.busy(self._instance):
                self._next_work(driver)

    def _next_work(self, driver: Driver) -> None:
        """Take the next seed when the graph is complete, then go on."""
        versions = self._world.versions()
        if versions:
            self.tally.seeds[self._seed] = versions
            self._seed += 1
            self._world.turn_to(self._seed)
            driver.turned()
        driver.go_on(self._instance)

    def _kill_once(self, driver: Driver, target: str) -> None:
        target, victims = self._wait_for_victims(driver, target)
        running = processes.of_home(self._world.home)
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
        self._promise("orphan trainer", [processes.describe(process) for process in left])
        # Which of several runs a killed process carried out is not told from outside.
        if target in ("command", "everything") or (target == "run worker" and len(owned) == len(victims)):
            self._dead |= {run: time.monotonic() for run in owned if run not in self._dead}
        time.sleep(1.0)  # the reader of a worker's messages looks five times a second
        self.trainings.read(self._instance)
        if not processes.workers(processes.of_home(self._world.home)):  # a daemon's end stops no training
            self.trainings.killed()
        count, problems = invariants.half_published(self._world.root)
        self.tally.artifacts_verified += count
        self._promise("half-published artifact", problems)

    def _wait_for_victims(self, driver: Driver, target: str) -> tuple[str, list[psutil.Process]]:
        """Wait for the target, for between two steps there is no worker; after a while take everything instead."""
        deadline = time.monotonic() + STILL_LIMIT_S
        while not (victims := driver.victims(target)):
            if time.monotonic() > deadline:
                self._promise("run that does not get on", [f"no {target} in {STILL_LIMIT_S:.0f} s; see {driver.log}"])
                return "everything", driver.victims("everything")
            time.sleep(_TICK_S)
            self._look_at_dead(driver)
            if not driver.busy(self._instance):
                self._next_work(driver)
        return target, victims

    def _look_at_dead(self, driver: Driver) -> None:
        """Note the killed runs that were closed and gave back their places."""
        if not self._dead:
            return
        open_runs = {*invariants.unfinished(self._instance), *invariants.pool_places(self._instance)}
        for run, since in list(self._dead.items()):
            if run not in open_runs:
                self.tally.healed_s.setdefault(driver.name, []).append(time.monotonic() - since)
                del self._dead[run]
        if time.monotonic() > self._ends:
            self._promise(
                f"dead run or its place in the pool, {driver.heal_limit_s:.0f} s after {driver.name} went on",
                sorted(self._dead),
            )
            self._dead.clear()

    def _promise(self, what: str, evidence: Sequence[str]) -> None:
        for line in evidence:
            print(f"BROKEN {what}: {line}", flush=True)
            self.tally.broken.append((what, line))


def _any(victims: Sequence[psutil.Process], owners: Sequence[psutil.Process]) -> bool:
    return any(owner in victims for owner in owners)
