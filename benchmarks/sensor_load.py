"""Test an instance with many sensor ticks and dropped files: `python -m benchmarks.sensor_load`.

The sensors of the drop folder and of failed runs and the automation condition are the real ones, evaluated as the
daemon does. Now and then a tick of the drop folder is lost, as when the daemon dies before it has stored the tick. The
two assets are small: the pool reads the accepted files with the readers of the prompt pool, the data set depends on it.
A run waits in a thread until the test ends it, many ticks later; some runs fail.
"""

import hashlib
import itertools
import random
import statistics
import tempfile
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.machine import write
from drirl_core.config import AlertsConfig, Config, InboxConfig, ModelsConfig, OperationsConfig
from drirl_core.graph.versions import source_version
from drirl_core.project import Project
from drirl_core.prompts.adapters import read_source
from drirl_core.prompts.inbox import LOCK_FILE
from pipeline.wiring.alerts import Alert
from pipeline.wiring.conditions import RETRAIN
from pipeline.wiring.failures import failure_sensor
from pipeline.wiring.ingest import inbox_sensor
from pipeline.wiring.private import NO_CAPTURE
from pipeline.wiring.resolve import VERSION_TAG, recorded_version

ASSETS = ("prompt_pool", "dataset")
TICKS = {"ingest": 0.6, "failures": 0.2, "automation": 0.2}
ACTIONS = {"good": 0.5, "bad": 0.14, "again": 0.12, "in_parts": 0.12, "overwritten": 0.06, "removed": 0.06}
LOST, FAILING = 0.05, 0.15
LONGEST_RUN = 12
"""Ticks that a run takes at most."""
_INSTANCE = {"telemetry": {"enabled": False}, "compute_logs": NO_CAPTURE}
"""Runs in threads share the output of one process, which each of them would redirect."""


@dataclass
class OngoingRun:
    """A run that has not ended."""

    asset: str
    fails: bool
    ends_at: int
    entered: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class LoadTest:
    """A drop folder, an instance, and what is expected of them.

    Args:
        folder: an empty directory.
        instance: an empty instance.
        seed: decides everything.
    """

    def __init__(self, folder: Path, instance: dg.DagsterInstance, seed: int) -> None:
        self.drop, self.instance, self.chance = folder / "drop", instance, random.Random(seed)
        self.drop.mkdir()
        models = ModelsConfig(policy="path:none", encoder="path:none")
        operations = OperationsConfig(InboxConfig(folder=str(self.drop), settle_s=0.0), AlertsConfig(hooks=()))
        self.config = Config(models=models, root=str(folder / "artifacts"), operations=operations)
        self.alerts: list[Alert] = []
        hooks = [self.alerts.append]
        self.sensors = {
            "ingest": inbox_sensor(Project(self.config), hooks),
            "failures": failure_sensor(self.config, hooks),
        }
        self.cursors: dict[str, Any] = {}
        self.expected: dict[str, str] = {}
        self.parts: list[tuple[Path, str]] = []
        self.ongoing: list[OngoingRun] = []
        self.counts: Counter[str] = Counter()
        self.milliseconds: defaultdict[str, list[float]] = defaultdict(list)
        self.most_ongoing = 0
        self.failures_allowed = True
        self.definitions = self._definitions()
        self.jobs = {name: self.definitions.resolve_job_def(f"make_{name}") for name in ASSETS}

    # assets

    def prompts(self) -> list[str]:
        """Return the prompts of the accepted files, as the prompt pool reads them."""
        source = self.config.prompt_sources[-1]
        return sorted(row.prompt for row in read_source(source, Path(source.path), ("insult",), all_files=True).rows)

    def _made(self, name: str, prompts: list[str]) -> dg.MaterializeResult:
        run = next(run for run in self.ongoing if run.asset == name)
        run.entered.set()
        run.released.wait()
        if run.fails:
            raise dg.Failure("a failure of the test", allow_retries=False)
        return dg.MaterializeResult(data_version=dg.DataVersion(_digest("\n".join(prompts))))

    def _definitions(self) -> dg.Definitions:
        @dg.multi_observable_source_asset(specs=[dg.AssetSpec("source_inbox")])
        def observe() -> Iterator[dg.ObserveResult]:
            yield dg.ObserveResult("source_inbox", data_version=dg.DataVersion(source_version(self.drop / "accepted")))

        @dg.asset(deps=["source_inbox"], code_version="1", automation_condition=RETRAIN)
        def prompt_pool() -> dg.MaterializeResult:
            return self._made("prompt_pool", self.prompts())

        @dg.asset(deps=["prompt_pool"], code_version="1", automation_condition=RETRAIN)
        def dataset() -> dg.MaterializeResult:
            return self._made("dataset", [prompt for prompt in self.prompts() if _digest(prompt) < "8"])  # half of them

        jobs = [dg.define_asset_job(f"make_{name}", selection=dg.AssetSelection.assets(name)) for name in ASSETS]
        return dg.Definitions(assets=[observe, prompt_pool, dataset], jobs=jobs)

    # actions

    def act(self, action: str, number: int) -> None:
        """Do one thing to the drop folder."""
        self.counts[action] += 1
        name, text = f"file {number}.csv", _rows(number)
        if action == "good":
            self._put(name, text)
        elif action == "bad":
            (self.drop / name).write_text("no,such,columns\n1,2,3\n")
        elif action == "again" and self.expected:
            self._put(name, self.chance.choice(sorted(self.expected.values())))
        elif action == "in_parts":
            part = self.drop / f"{name}.part"
            part.write_text(text[: len(text) // 2])
            self.parts.append((part, text))
        elif action == "overwritten":
            (self.drop / name).write_text(_rows(-number))
            self._put(name, text)
        elif action == "removed" and (accepted := sorted((self.drop / "accepted").glob("*"))):
            gone = self.chance.choice(accepted)
            del self.expected[gone.name[:16]]
            gone.unlink()

    def finish_parts(self, all_of_them: bool = False) -> None:
        """Complete files that were half written, and give them their final names."""
        while self.parts and (all_of_them or self.chance.random() < 0.2):
            part, text = self.parts.pop(0)
            part.write_text(text)
            part.rename(part.with_suffix(""))
            self.expected[_digest(text)] = text

    def _put(self, name: str, text: str) -> None:
        hidden = self.drop / f".{name}"
        hidden.write_text(text)
        hidden.replace(self.drop / name)
        self.expected[_digest(text)] = text

    # ticks

    def tick(self, kind: str, now: int, lossy: bool = True) -> None:
        """Evaluate one sensor, keep what the daemon would keep, and start what it would start."""
        self.counts[f"ticks_{kind}"] += 1
        started = time.process_time()
        asked = self._automation() if kind == "automation" else self._evaluate(kind, lossy)
        self.milliseconds[kind].append(1000 * (time.process_time() - started))
        for name in asked:
            self._launch(name, now)

    def _evaluate(self, kind: str, lossy: bool) -> list[str]:
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursors.get(kind))
        data = self.sensors[kind].evaluate_tick(context)
        self.counts["runs_asked_by_sensors"] += len(data.run_requests or ())
        if kind == "ingest" and lossy and self.chance.random() < LOST:
            self.counts["lost_ticks"] += 1
            return []
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        self.cursors[kind] = data.cursor
        return []

    def _automation(self) -> list[str]:
        result = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=self.cursors.get("automation")
        )
        self.cursors["automation"] = result.cursor
        return [found.key.to_user_string() for found in result.results if not found.true_subset.is_empty]

    # runs

    def _launch(self, name: str, now: int) -> None:
        fails = self.chance.random() < FAILING and self.failures_allowed
        run = OngoingRun(name, fails, now + self.chance.randint(1, LONGEST_RUN))
        self.ongoing.append(run)
        self.counts[f"runs_{name}"] += 1
        self.counts["runs_failed"] += fails
        self.most_ongoing = max(self.most_ongoing, len(self.ongoing))
        settings: dict[str, Any] = {"run_config": {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}}
        job = self.jobs[name]
        run.thread = threading.Thread(
            target=lambda: job.execute_in_process(instance=self.instance, raise_on_error=False, **settings), daemon=True
        )
        run.thread.start()
        if not run.entered.wait(60):
            raise RuntimeError(f"the run of {name} did not start")

    def end_runs(self, now: float) -> None:
        """End the runs that are due."""
        for run in [run for run in self.ongoing if run.ends_at <= now]:
            run.released.set()
            if run.thread:
                run.thread.join(60)
            self.ongoing.remove(run)


def run_load(folder: Path, ticks: int, files: int, seed: int) -> dict[str, Any]:
    """Give a real instance ticks and files, then tick until nothing is left to do, and count.

    Args:
        folder: an empty directory.
        ticks: sensor ticks.
        files: files that are dropped or changed between them.
        seed: decides everything.

    Returns:
        The figures; `violations` judges them.
    """
    with (
        dg.DagsterInstance.local_temp(str(folder), overrides=_INSTANCE) as instance,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", dg.BetaWarning)
        test, started = LoadTest(folder, instance, seed), time.process_time()
        _begin(test)
        when = Counter(test.chance.randrange(ticks) for _ in range(files))
        number = 0
        for now in range(ticks):
            for _ in range(when[now]):
                number += 1
                test.act(_pick(test.chance, ACTIONS), number)
            test.finish_parts()
            test.end_runs(now)
            test.tick(_pick(test.chance, TICKS), now)
        _settle(test, ticks)
        return _figures(test, time.process_time() - started)


def _begin(test: LoadTest) -> None:
    """Build everything once; on a fresh instance automation starts nothing."""
    test.failures_allowed = False
    test.act("good", 0)
    test.tick("ingest", 0, lossy=False)
    test.tick("failures", 0)
    for name in ASSETS:
        test._launch(name, 0)
        test.end_runs(float("inf"))
    test.tick("automation", 0)
    test.failures_allowed = True


def _settle(test: LoadTest, now: int) -> None:
    """Drop a last file, because an asset that failed waits for a new input; then tick until no run is requested."""
    test.failures_allowed = False
    test.finish_parts(all_of_them=True)
    test.act("good", 999_999)
    test.end_runs(float("inf"))
    quiet = 0
    while quiet < 3:
        for kind in TICKS:
            test.tick(kind, now, lossy=False)
        quiet = 0 if test.ongoing else quiet + 1
        test.end_runs(float("inf"))


def _figures(test: LoadTest, cpu_seconds: float) -> dict[str, Any]:
    accepted, rejected = (
        sorted(file.name for file in (test.drop / kind).iterdir()) for kind in ("accepted", "rejected")
    )
    observations = test.instance.fetch_observations(dg.AssetKey("source_inbox"), limit=10_000, ascending=True).records
    versions = [record.asset_observation.tags[VERSION_TAG] for record in observations if record.asset_observation]
    left = [file.name for file in test.drop.iterdir() if file.name not in ("accepted", "rejected", LOCK_FILE)]
    kinds = Counter(alert.kind for alert in test.alerts)
    statuses = Counter(run.status.value for run in test.instance.get_runs())
    return {
        "ticks": {kind: test.counts[f"ticks_{kind}"] for kind in TICKS},
        "lost_ticks": test.counts["lost_ticks"],
        "actions": {action: test.counts[action] for action in ACTIONS},
        "accepted_files": len(accepted),
        "accepted_as_expected": sorted(name[:16] for name in accepted) == sorted(test.expected),
        "rejected_files": sum(not name.endswith(".reason.txt") for name in rejected),
        "files_left_over": left,
        "observations": len(versions),
        "observed_twice": sum(before == after for before, after in itertools.pairwise(versions)),
        "observed_the_end": versions[-1] == source_version(test.drop / "accepted"),
        "runs": {name: test.counts[f"runs_{name}"] for name in ASSETS},
        "runs_asked_by_sensors": test.counts["runs_asked_by_sensors"],
        "runs_ended": dict(statuses),
        "runs_failed": test.counts["runs_failed"],
        "most_runs_in_flight": test.most_ongoing,
        "alerts": dict(kinds),
        "alerts_twice": len(test.alerts) - len({(a.title, str(a.facts)) for a in test.alerts}),
        "pool_is_current": recorded_version(test.instance, "prompt_pool") == _digest("\n".join(test.prompts())),
        "prompts_twice": len(test.prompts()) - len(set(test.prompts())),
        "cpu_seconds": round(cpu_seconds, 1),
        "median_cpu_ms_per_tick": {
            kind: round(statistics.median(values), 1) for kind, values in test.milliseconds.items()
        },
    }


def violations(figures: dict[str, Any]) -> list[str]:
    """Return the guarantees that a test broke: an empty list when all held.

    Bounds: an observed change of the source causes at most one run of the pool, a run of the pool at most one of the
    data set (and each was built once before); at most one run per asset at a time.
    """
    runs, alerts = figures["runs"], figures["alerts"]
    promises = {
        "each usable content is in the accepted files once": figures["accepted_as_expected"]
        and figures["prompts_twice"] == 0,
        "nothing is left in the folder": figures["files_left_over"] == [],
        "each change is observed once": figures["observed_twice"] == 0 and figures["observed_the_end"],
        "the pool is built from what was accepted": figures["pool_is_current"],
        "sensors request no run": figures["runs_asked_by_sensors"] == 0,
        "runs are bounded by what was observed": runs["prompt_pool"] <= figures["observations"]
        and runs["dataset"] <= runs["prompt_pool"],
        "one run per asset at a time": figures["most_runs_in_flight"] <= len(ASSETS),
        "every run ended": set(figures["runs_ended"]) <= {"SUCCESS", "FAILURE"},
        "each failed run raised one alert": alerts.get("run_failed", 0)
        == figures["runs_failed"]
        == figures["runs_ended"].get("FAILURE", 0),
        "each rejected file raised one alert": alerts.get("file_rejected", 0) == figures["rejected_files"]
        and figures["alerts_twice"] == 0,
    }
    return [promise for promise, kept in promises.items() if not kept]


def _pick(chance: random.Random, weights: dict[str, float]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


def _rows(number: int) -> str:
    prompts = f"Mock the baker number {number} in four rude lines.", f"Mock his cousin number {number} too."
    return "".join(f"{line}\n" for line in ("prompt,category", *(f"{prompt},insult" for prompt in prompts)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> None:
    """Test with 1,000 ticks and 50 files, and write benchmarks/results/sensor_load.json."""
    with tempfile.TemporaryDirectory() as folder:
        figures = run_load(Path(folder), ticks=1000, files=50, seed=0)
    broken = violations(figures)
    write(
        "sensor_load",
        {"what": "1,000 sensor ticks and 50 dropped or changed files at random", **figures, "broken_promises": broken},
    )
    if broken:
        raise SystemExit(f"broken: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
