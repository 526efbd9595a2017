"""Write the measured figures into docs/how-to/production.md: `python -m benchmarks.reliability.table`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "production.md"
START, END = "<!-- figures of benchmarks/results/reliability.json -->\n", "<!-- end of figures -->\n"

_AFTER = {
    "drirl run: worker": "the step restarts it after 10 s, and it resumes",
    "drirl run: command": "its worker ends too; the next `drirl run` closes the dead run and resumes",
    "drirl run: everything": "the next `drirl run` closes the dead run and resumes",
    "dagster dev: worker": "the step restarts it after 10 s, and it resumes",
    "dagster dev: step": "its worker ends too; the run restarts the step",
    "dagster dev: run worker": "step and worker end too; the run fails and is restarted from its failed step",
    "dagster dev: daemon": "page and daemon end, the run continues; start them again",
    "dagster dev: everything": "after the next start the run monitor closes the dead run and restarts it",
}


def render(result: Mapping[str, Any]) -> str:
    """Return the two tables: what was killed, and what held.

    Args:
        result: content of benchmarks/results/reliability.json.
    """
    machine, kills, graphs = result["machine"], result["kills"], result["graphs_completed"]
    head = (
        f"{kills} kills at random moments while {graphs} graphs were built on tiny random models, in "
        f"{result['minutes']:.0f} minutes ({machine['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"Dagster {machine['dagster']}):"
    )
    rows = ["| under | killed | kills | what happens |", "|---|---|--:|---|"]
    for name, count in result["by_target"].items():
        driver, _, target = name.partition(": ")
        rows.append(f"| `{driver}` | {target} | {count} | {_AFTER[name]} |")
    held = [
        "| guarantee | times checked | times broken |",
        "|---|--:|--:|",
        *(f"| {text} | {count} | {broken} |" for text, count, broken in _held(result)),
    ]
    return "\n".join([head, "", *rows, "", *held, ""])


def _held(result: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return each guarantee, how often it was checked, and how often it was broken."""
    broken = [line.partition(": ")[0] for line in result["broken"]]

    def count(*words: str) -> int:
        return sum(any(word in line for word in words) for line in broken)

    recovered = ", ".join(
        f"{times['median_s']:.0f} s under `{name}` (median; slowest {times['slowest_s']:.0f} s)"
        for name, times in result["dead_runs_healed"].items()
    )
    rows, slowest = result["rows"].values(), result["slowest_worker_to_follow_s"]
    interrupted, resumed = result["trainings_interrupted"], result["trainings_resumed"]
    return [
        (
            "every visible artifact is complete, and its files match the hashes in its manifest",
            result["artifacts_verified"],
            count("half-published"),
        ),
        (
            f"a worker does not outlive the processes of its run (slowest to end: {slowest} s)",
            result["workers_that_followed_their_owner"],
            count("orphan", "process that remained"),
        ),
        (
            f"a dead run is closed and frees its slot in the pool: {recovered}",
            sum(times["runs"] for times in result["dead_runs_healed"].values()),
            count("dead run", "run that never ended", "slot in the pool"),
        ),
        ("an interrupted training resumes from its last complete checkpoint", interrupted, interrupted - resumed),
        (
            "no cached completion or embedding is lost or differs",
            sum(row["compared"] for row in rows),
            sum(row["lost"] for row in rows),
        ),
        (
            "every asset is bit for bit what an undisturbed run builds",
            result["assets_compared"],
            result["assets_that_differ"],
        ),
    ]


def written(page: str, result: Mapping[str, Any]) -> str:
    """Return the page with the figures between its two marks."""
    before, _, rest = page.partition(START)
    return before + START + render(result) + END + rest.partition(END)[2]


def main() -> None:
    """Write the page."""
    result = json.loads((RESULTS / "reliability.json").read_text(encoding="utf-8"))
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), result), encoding="utf-8")


if __name__ == "__main__":
    main()
