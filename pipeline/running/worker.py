"""The worker process: build the named assets and report each one to Dagster through Pipes.

Started by `pipeline.running.launch` as `python -m pipeline.running.worker`. It does not import Dagster, only the
small package `dagster_pipes`. Heavy libraries such as torch are loaded only in this process.
"""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

from dagster_pipes import PipesContext, PipesEnvVarParamsLoader, open_dagster_pipes

from drirl_core.config import from_resolved
from drirl_core.errors import DrirlError
from drirl_core.graph.build import build
from drirl_core.graph.layout import Graph, Node
from drirl_core.graph.processes import ProcessKilledError
from drirl_core.graph.stages import STAGES
from drirl_core.models.threads import choose_waiting
from drirl_core.project import Project
from drirl_core.reporting import LogReporter
from pipeline.running.problems import same_kind
from pipeline.wiring.display import pipes_metadata

_GRACE_S = 5.0


class PipesReporter(LogReporter):
    """Send progress to the log of the run, and print it to the output of the step.

    Args:
        pipes: the open connection.
        prefix: put before each line, when one worker builds several assets.
    """

    def __init__(self, pipes: PipesContext, prefix: str = "") -> None:
        super().__init__()
        self._pipes, self._prefix = pipes, prefix

    def emit(self, line: str) -> None:
        """Write one finished line."""
        line = self._prefix + line
        self._pipes.log.info(line)
        print(line, file=sys.stderr, flush=True)


def work(pipes: PipesContext, project: Project, targets: list[str], versions: Mapping[str, str]) -> bool:
    """Build the targets in the order of the graph and report each one.

    A stage's own error (`DrirlError`) stops only its asset: a category with bad data must not block the others. Any
    other error ends the worker, whose state is then unknown.

    Args:
        pipes: the open connection.
        project: the configuration, its graph and its store.
        targets: names of the assets.
        versions: version of every input that is not a target.

    Returns:
        Whether every target was built.
    """
    graph, known, complete, problems = project.graph, dict(versions), True, list[str]()
    unknown = sorted(set(targets) - set(graph.nodes))
    if unknown:
        _report_problem(
            pipes, ", ".join(unknown), "no such asset in this configuration; reload the code location", expected=True
        )
        return False
    for node in _ordered(graph, targets):
        reporter = PipesReporter(pipes, f"[{node.name}] " if len(targets) > 1 else "")
        try:
            artifact, reused, shown = build(node, project, known, reporter)
            metadata = pipes_metadata(node.stage, artifact, shown, reused)
        except DrirlError as error:
            reporter.log(_said(f"{node.name}: {error}", problems))
            _report_problem(pipes, node.name, str(error), expected=True)
            complete = False
        except ProcessKilledError as error:  # may succeed when it is started again, like a killed worker
            reporter.log(f"failed: {error}")
            _report_problem(pipes, node.name, str(error), expected=False)
            return False
        except Exception as error:
            problem = _unexpected(error)
            reporter.log(f"failed: {problem}")
            _report_problem(pipes, node.name, problem, expected=False, trace=traceback.format_exc())
            return False
        else:
            known[node.name] = artifact.version
            pipes.report_asset_materialization(metadata=metadata, data_version=artifact.version, asset_key=node.name)
    return complete


def _said(message: str, earlier: list[str]) -> str:
    """Return the line that logs a problem, short when an earlier asset had the same, and note it."""
    first = next((other for other in earlier if same_kind(other, message)), None)
    earlier.append(message)
    return (
        f"failed with the same error as {first.partition(':')[0]}" if first else f"failed: {message.partition(': ')[2]}"
    )


def _ordered(graph: Graph, targets: list[str]) -> list[Node]:
    wanted = set(targets)
    return [node for node in graph.nodes.values() if node.name in wanted]


def _unexpected(error: Exception) -> str:
    """Describe an error that no stage expected, with the line of our code where it occurred."""
    frames = traceback.extract_tb(error.__traceback__)
    place = next(
        (
            frame
            for frame in reversed(frames)
            if "site-packages" not in frame.filename and not frame.filename.startswith(sys.base_prefix)
        ),
        frames[-1],
    )
    return f"unexpected {type(error).__name__}: {error} ({os.path.basename(place.filename)}, line {place.lineno})"


def _report_problem(pipes: PipesContext, asset: str, problem: str, *, expected: bool, trace: str = "") -> None:
    if trace:
        print(trace, file=sys.stderr, flush=True)
    pipes.report_custom_message({"asset": asset, "problem": problem, "expected": expected, "traceback": trace})


def die_with(parent: int) -> None:
    """End this process and its helpers when its parent dies, so that no orphan continues to train.

    The parent is checked once per second.

    Args:
        parent: process id of the parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.killpg(os.getpgrp(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def main() -> int:
    """Build the assets that the parent process asked for.

    Returns:
        Exit code: 0 when every asset was built, 1 when one failed, 2 when this process was not started by a Dagster
        step.
    """
    if not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        print(
            "pipeline.running.worker is started by a Dagster step; to run stages by hand use `drirl run`",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # undo any handler inherited from the parent processes
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with open_dagster_pipes() as pipes:
        extras: Mapping[str, Any] = pipes.extras
        die_with(extras["parent"])
        project = Project(from_resolved(extras["config"]))
        nodes = project.graph.nodes
        if any(STAGES[nodes[name].stage].heavy for name in extras["targets"] if name in nodes):
            chosen = choose_waiting(project.config.models)
            if chosen:
                PipesReporter(pipes).log(chosen)
        return 0 if work(pipes, project, extras["targets"], extras["versions"]) else 1


if __name__ == "__main__":
    sys.exit(main())
