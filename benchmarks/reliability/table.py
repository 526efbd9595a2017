"""Put the measured figures into docs/how-to/production.md: `python -m benchmarks.reliability.table`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "production.md"
START, END = "<!-- figures of benchmarks/results/reliability.json -->\n", "<!-- end of figures -->\n"

_AFTER = {
    "drirl run: worker": "the step starts it again after 10 s, and it goes on",
    "drirl run: command": "its worker follows; `drirl run` again closes the dead run and goes on",
    "drirl run: everything": "`drirl run` again closes the dead run and goes on",
    "dagster dev: worker": "the step starts it again after 10 s, and it goes on",
    "dagster dev: step": "its worker follows; the run starts the step again",
    "dagster dev: run worker": "step and worker follow; the run fails and is started again from its failed step",
    "dagster dev: daemon": "page and daemon end, the run goes on; start them again",
    "dagster dev: everything": "after the next start the run monitor closes the dead run and starts it again",
}


def render(result: Mapping[str, Any]) -> str:
    """Return the two tables: what was killed, and what held.

    Args:
        result: content of benchmarks/results/reliability.json.
    """
    machine = result["machine"]
    head = (
        f"{result['kills']} kills at random moments while {result['graphs_completed']} graphs were made on tiny random models, in "
        f"{result['minutes']:.0f} minutes ({machine['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"Dagster {machine['dagster']}):"
    )
    kills = ["| under | killed | kills | what happens |", "|---|---|--:|---|"]
    for name, count in result["by_target"].items():
        driver, _, target = name.partition(": ")
        kills.append(f"| `{driver}` | {target} | {count} | {_AFTER[name]} |")
    held = [
        "| promise | looked at | broken |",
        "|---|--:|--:|",
        *(f"| {text} | {count} | {broken} |" for text, count, broken in _held(result)),
    ]
    return "\n".join([head, "", *kills, "", *held, ""])


def _held(result: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return promise, how often it was looked at, and how often it was broken."""
    broken = [line.partition(": ")[0] for line in result["broken"]]

    def count(*words: str) -> int:
        return sum(any(word in line for word in words) for line in broken)

    healed = ", ".join(
        f"{times['median_s']:.0f} s under `{name}` (median; slowest {times['slowest_s']:.0f} s)"
        for name, times in result["dead_runs_healed"].items()
    )
    rows = result["rows"].values()
    interrupted, resumed = result["trainings_interrupted"], result["trainings_resumed"]
    return [
        (
            "every visible artifact is whole, and hashes to what its manifest says",
            result["artifacts_verified"],
            count("half-published"),
        ),
        (
            f"a worker does not outlive the processes of its run (slowest to follow: {result['slowest_worker_to_follow_s']} s)",
            result["workers_that_followed_their_owner"],
            count("orphan", "process that stayed"),
        ),
        (
            f"a dead run is closed and gives back its place in the pool: {healed}",
            sum(times["runs"] for times in result["dead_runs_healed"].values()),
            count("dead run", "run that never ended", "place in the pool"),
        ),
        ("an interrupted training goes on from its last whole checkpoint", interrupted, interrupted - resumed),
        (
            "no cached completion or embedding is lost or differs",
            sum(row["compared"] for row in rows),
            sum(row["lost"] for row in rows),
        ),
        (
            "every asset is, to the bit, what an undisturbed run makes",
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
