"""Trackers that get the metrics of a training while it runs: TRL reports to them, we name the run and end it.

What a run was made from is added where the tracker keeps it, so that a curve leads to its artifact. No tracker decides
a result: the versions of assets do not know of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from drirl_core.graph import build as stages

BOARDS = ".tensorboard"
"""Directory below the root of the artifacts that TensorBoard reads; it is no asset, and retention leaves it alone."""


@dataclass(frozen=True)
class Tracking:
    """What trackers get.

    Args:
        report_to: names of the trackers; none where nothing is tracked.
        run_name: name of the run; None where nothing is tracked.
        tags: what the run was made from, by name.
        boards: directory of this run for TensorBoard.
    """

    report_to: tuple[str, ...] = ()
    run_name: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    boards: Path = Path(BOARDS)

    def part(self, name: str) -> Tracking:
        """Return what trackers get of a part of the training, such as a round, which is a run of its own."""
        named = f"{self.run_name}/{name}" if self.run_name else None
        return dataclasses.replace(self, run_name=named, boards=self.boards / name)


def tracking_of(context: stages.Context) -> Tracking:
    """Return what the trackers of a stage's training get.

    The data version of the artifact is a hash of what the training writes, so it is not known yet: the key is, under
    which the store notes the version (`<asset>/by-input/<key>.json`).

    Args:
        context: of the stage.
    """
    config, asset, key = context.config, context.asset, context.key
    if not config.execution.report_to:
        return Tracking()
    tags = {"drirl/config": config.name, "drirl/asset": asset, "drirl/key": key}
    inputs = {f"drirl/input/{name}": version for name, version in sorted(context.versions.items())}
    folder = re.sub(r"[^\w.-]+", "_", config.name).lstrip(".") or "run"
    return Tracking(
        config.execution.report_to,
        f"{config.name}/{asset}",
        {**tags, **inputs},
        context.store.root / BOARDS / folder / asset / key,
    )


@contextlib.contextmanager
def tracked(trainer: Any, tracking: Tracking) -> Iterator[None]:
    """Tag the run of the trackers inside the block, and end it afterwards, so that the next training has its own.

    TensorBoard writes below `tracking.boards`, unless TENSORBOARD_LOGGING_DIR names another directory.

    Args:
        trainer: one of TRL's, made with the trackers in its `report_to`.
        tracking: what they get.
    """
    if not tracking.report_to:
        yield
        return
    from transformers.integrations import TensorBoardCallback

    boards = [each for each in trainer.callback_handler.callbacks if isinstance(each, TensorBoardCallback)]
    for board in boards:
        board.logging_dir = board.logging_dir or str(tracking.boards)  # else it would go with the checkpoints
    trainer.add_callback(_Tags(tracking, boards))
    complete = False
    try:
        yield
        complete = True
    finally:
        _end(tracking.report_to, complete)


class _Tags(TrainerCallback):
    """Add the tags when the trackers' own callbacks, which come before this one, have started their runs."""

    def __init__(self, tracking: Tracking, boards: Sequence[Any]) -> None:
        self._tracking, self._boards = tracking, boards

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        tags, trackers = dict(self._tracking.tags), self._tracking.report_to
        for board in self._boards:
            board.tb_writer.add_text("drirl", "\n\n".join(f"{name}: {value}" for name, value in tags.items()))
        if "wandb" in trackers:
            import wandb

            wandb.config.update(tags, allow_val_change=True)
        if "trackio" in trackers:
            import trackio

            trackio.config.update(tags, allow_val_change=True)
        if "mlflow" in trackers:
            import mlflow

            mlflow.set_tags(tags)


def _end(trackers: Sequence[str], complete: bool) -> None:
    """End the runs that the trackers' own callbacks leave open."""
    if "wandb" in trackers:
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=0 if complete else 1)
    if "mlflow" in trackers:
        import mlflow

        if mlflow.active_run() is not None:
            mlflow.end_run("FINISHED" if complete else "FAILED")
