"""Whether an interrupted training resumes from its last complete checkpoint, read from the runs' logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

STAGES = {"sft_checkpoint": "SFT", "policy_checkpoint": "GRPO"}
"""What the trainings are called in the log, by asset."""

_LINE = re.compile(r"(?:\[\w+\] )?(SFT|GRPO)(?: resumes from checkpoint-(\d+)|: \d+/\d+)")
_RECENT_RUNS = 6


@dataclass
class Trainings:
    """Follow the trainings below a root.

    Args:
        root: the artifacts.
        waiting: per training, the checkpoint from which it has to resume.
        interrupted: trainings that were killed with a complete checkpoint.
        resumed: those that resumed from it.
        problems: those that did not.
    """

    root: Path
    waiting: dict[str, int] = field(default_factory=dict)
    interrupted: int = 0
    resumed: int = 0
    problems: list[str] = field(default_factory=list)
    _seen: dict[str, int] = field(default_factory=dict)

    def read(self, instance: dg.DagsterInstance) -> None:
        """Compare the new lines of the log with the checkpoints that are waited for."""
        for what, checkpoint in self._starts(instance):
            if what not in self.waiting:
                continue
            expected = self.waiting.pop(what)
            if checkpoint == expected:
                self.resumed += 1
            else:
                began = f"from checkpoint-{checkpoint}" if checkpoint else "at the beginning"
                self.problems.append(
                    f"{what} had a complete checkpoint-{expected} when it was killed, and started {began}"
                )

    def killed(self) -> None:
        """Find the checkpoints that trainings have to resume from; call it after `read`, when nothing is training."""
        complete = complete_checkpoints(self.root)
        for what, before in list(self.waiting.items()):
            if complete.get(what, 0) < before:  # published, or lost
                del self.waiting[what]
                if not self._published(what):
                    self.problems.append(
                        f"{what} had a complete checkpoint-{before}, of which {complete.get(what, 'nothing')} is left"
                    )
        for what, checkpoint in complete.items():
            self.interrupted += what not in self.waiting
            self.waiting[what] = checkpoint

    def _published(self, what: str) -> bool:
        """Tell whether the work directory of a training was removed, as it is after publishing."""
        asset = next(name for name, title in STAGES.items() if title == what)
        return not list((self.root / ".work").glob(f"{asset}-*/scratch/checkpoints"))

    def _starts(self, instance: dg.DagsterInstance) -> Iterator[tuple[str, int]]:
        """Yield training and checkpoint (0: none) of each new line about a start or a step."""
        runs = instance.get_runs(limit=_RECENT_RUNS)
        new: list[tuple[float, str]] = []
        for run_id in (run.run_id for run in runs):
            entries = [entry for entry in instance.all_logs(run_id) if entry.dagster_event is None]
            new += [(entry.timestamp, entry.user_message) for entry in entries[self._seen.get(run_id, 0) :]]
            self._seen[run_id] = len(entries)
        for _, line in sorted(new):
            if found := _LINE.match(line):
                yield found[1], int(found[2] or 0)


def complete_checkpoints(root: Path) -> dict[str, int]:
    """Return the newest complete checkpoint of each training that is not published yet."""
    newest: dict[str, int] = {}
    for asset, what in STAGES.items():
        for mark in (root / ".work").glob(f"{asset}-*/scratch/checkpoints/checkpoint-*/complete.json"):
            newest[what] = max(newest.get(what, 0), int(mark.parent.name.rpartition("-")[2]))
    return newest
