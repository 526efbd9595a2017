"""Run a study, several assets at a time on one GPU, without Dagster: `python -m benchmarks.study_side_by_side FILE`.

A small model leaves most of a GPU idle, so that trainings beside each other finish sooner than one after the other; the
seconds of a single one then say nothing. An asset that several cells need is built once, as in `drirl study`, and page
and tables are the same. Called again, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import multiprocessing
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import describe
from drirl_core.graph.build import build
from drirl_core.graph.plan import with_ancestors
from drirl_core.graph.versions import source_version
from drirl_core.project import Project
from drirl_core.reporting import LogReporter
from drirl_core.runs.record import Results, result_of_run
from drirl_core.study.cost import identities
from drirl_core.study.file import Study, read_study
from drirl_core.study.outcomes import read_outcomes
from drirl_core.study.tables import tables_of, write_study

LAST = ("benchmark_*",)
"""What a study needs of a cell; reports and gates are left out."""


@dataclass
class Task:
    """An asset to build, once for all cells that need it.

    Args:
        result: result of the first cell that needs it.
        asset: its name.
        needs: identities of its inputs.
        version: of the artifact, once it is there.
    """

    result: str
    asset: str
    needs: tuple[str, ...]
    version: str = ""


@dataclass
class Work:
    """All assets of a study.

    Args:
        tasks: by identity, in topological order.
        cells: by result, the identity of each asset.
        failed: why, by identity.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def ready(self) -> list[str]:
        """Return what can be built now."""
        return [
            key
            for key, task in self.tasks.items()
            if not task.version and key not in self.failed and all(self.tasks[need].version for need in task.needs)
        ]


@functools.cache
def opened(file: Path, device: str) -> tuple[Study, dict[str, Project]]:
    """Read a study, with the device in every cell, and its projects by result."""
    study = read_study(file)
    cells = tuple(
        dataclasses.replace(
            cell,
            config=dataclasses.replace(cell.config, models=dataclasses.replace(cell.config.models, device=device)),
        )
        for cell in study.cells
    )
    return dataclasses.replace(study, cells=cells), {cell.result: Project(cell.config) for cell in cells}


def work_of(projects: Mapping[str, Project], last: Iterable[str]) -> Work:
    """List the assets of all cells, each once."""
    work = Work()
    for result, project in projects.items():
        known = identities(project)
        wanted = with_ancestors(project.graph, last)
        work.cells[result] = {node.name: known[node.name] for node in wanted}
        for node in wanted:
            needs = tuple(known[name] for name in node.inputs if name in known)
            work.tasks.setdefault(known[node.name], Task(result, node.name, needs))
    return work


def build_one(file: Path, device: str, result: str, asset: str, versions: Mapping[str, str]) -> tuple[str, float]:
    """Build an asset in a process of the pool; return its version and the seconds that it took."""
    logging.basicConfig(level=logging.INFO, format=f"{result} {asset}: %(message)s", force=True)
    project = opened(file, device)[1][result]
    sources = {name: source_version(path) for name, path in project.graph.sources.items()}
    started = time.perf_counter()
    artifact, _, _ = build(project.graph.nodes[asset], project, {**sources, **versions}, LogReporter())
    return artifact.version, time.perf_counter() - started


def carry_out(work: Work, file: Path, device: str, workers: int, ends: float) -> list[dict[str, str | float]]:
    """Build what is missing, several assets at a time; return what was built, with seconds."""
    built: list[dict[str, str | float]] = []
    started = time.perf_counter()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running: dict[Future[tuple[str, float]], str] = {}
        while True:
            for key in work.ready() if time.monotonic() < ends else ():
                if key in running.values() or len(running) == workers:
                    continue
                task = work.tasks[key]
                versions = {work.tasks[need].asset: work.tasks[need].version for need in task.needs}
                running[pool.submit(build_one, file, device, task.result, task.asset, versions)] = key
            if not running:
                return built
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                task, now = work.tasks[key], time.perf_counter() - started
                try:
                    task.version, seconds = future.result()
                except Exception as error:  # the other assets go on, and it is told below
                    work.failed[key] = f"{task.asset} of {task.result}: {error}"
                    print(f"{now:7.1f} s  FAILED {work.failed[key]}", flush=True)
                    continue
                built.append({"asset": task.asset, "cell": task.result, "seconds": round(seconds, 1)})
                print(f"{now:7.1f} s  {task.result} {task.asset}: {seconds:.1f} s", flush=True)


def main() -> None:
    """Build, record every complete cell, and write page, tables and what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a study file, as for `drirl study`")
    parser.add_argument("--out", type=Path, required=True, help="folder of page and tables")
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--workers", type=int, default=8, help="assets that are built at a time (default 8)")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which nothing new is begun (default 60)")
    parser.add_argument("--until", nargs="*", default=LAST, metavar="ASSET", help="build these and all they need")
    arguments = parser.parse_args()
    file = arguments.file.absolute()
    study, projects = opened(file, arguments.device)
    begun = time.monotonic()
    work = work_of(projects, arguments.until)
    print(f"{len(work.tasks)} assets in {len(projects)} cells", flush=True)
    built = carry_out(work, file, arguments.device, arguments.workers, begun + 60 * arguments.minutes)
    seconds = round(time.monotonic() - begun, 1)
    store = next(iter(projects.values())).store
    for cell in study.cells:
        versions = {asset: work.tasks[key].version for asset, key in work.cells[cell.result].items()}
        if all(versions.values()) and any(name.startswith("benchmark_") for name in versions):
            Results(store).record(result_of_run(cell.config, str(study.base), cell.result, False, versions))
    failures = {
        result: next(work.failed[key] for key in keys.values() if key in work.failed)
        for result, keys in work.cells.items()
        if work.failed.keys() & set(keys.values())
    }
    found = read_outcomes(study, Results(store), failures)
    for label, reason in found.missing.items():
        print(f"no result of {label}: {reason}")
    if found.measured:
        write_study(arguments.out / "study", study, found, tables_of(study, found, store))
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = {"machine": describe(), "workers": arguments.workers, "seconds": seconds, "built": built}
    (arguments.out / f"built_{int(time.time())}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{len(built)} assets built in {seconds} s, {len(work.failed)} failed; {arguments.out}")


if __name__ == "__main__":
    main()
