"""Trackers: that the trainer reports to them, how runs are named and tagged, and that a missing package is said first.

The tests of a tracker run where its package is installed; nothing here uses the network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.integrations import TensorBoardCallback, integration_utils

from drirl_core.config.execution import TRACKERS
from drirl_core.errors import ConfigError
from drirl_core.graph.build import Context
from drirl_core.policy.options import tracker_problems
from drirl_core.policy.sft import build_sft_checkpoint
from drirl_core.policy.tracking import tracking_of
from drirl_core.testing import tiny_config

pytestmark = pytest.mark.usefixtures("no_curves")
Tracked = Callable[..., Context]
TAGS = {
    "drirl/config": "smoke",
    "drirl/asset": "sft_checkpoint",
    "drirl/key": "0123abcd",
    "drirl/input/helpful_dataset": "f00d",
}


@pytest.fixture
def tracked(contexts: Any) -> Tracked:
    """Contexts of an SFT start that reports to a tracker."""

    def made(*trackers: str, **changes: Any) -> Context:
        asked = {"execution.report_to": list(trackers), "sft.epochs": 1}
        known = {"asset": "sft_checkpoint", "key": "0123abcd", "versions": {"helpful_dataset": "f00d"}}
        return contexts.make("_".join(trackers) or "none", {**asked, **changes}, **known)

    return made


# ------------------------------------------------------------------------------------------------------------- packages


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_missing_package_is_said_with_its_extra(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: Tracked
) -> None:
    import tomllib

    (tmp_path / tracker).mkdir()  # trackers leave folders of their own name in the working directory
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    context = tracked(tracker)
    monkeypatch.setattr("drirl_core.policy.sft.load_policy", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError) as refused:
        build_sft_checkpoint(context)
    assert str(refused.value) == (
        f"execution.report_to names {tracker}, whose package is not installed here; install it with "
        f"`pip install 'drirl[{tracker}]'`, or take {tracker} out"
    )
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"][tracker]
    (tmp_path / tracker / "__init__.py").write_text("")
    assert list(tracker_problems(context.config)) == []


def test_trackers_are_known_and_named_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"execution\.report_to\[0\] is 'all'; choose one of trackio, tensorboard, "):
        tiny_config(tmp_path, {"execution.report_to": ["all"]})
    with pytest.raises(ConfigError, match=r"execution\.report_to names a tracker twice: wandb, wandb"):
        tiny_config(tmp_path, {"execution.report_to": ["wandb", "wandb"]})


# ------------------------------------------------------------------------------------------------------------ reporting


def test_names_and_tags_lead_to_the_artifact(tracked: Tracked) -> None:
    found = tracking_of(tracked("wandb", name="my run/2"))
    assert found.run_name == "my run/2/sft_checkpoint"
    assert found.tags == {**TAGS, "drirl/config": "my run/2"}
    assert found.boards.parts[-4:] == (".tensorboard", "my_run_2", "sft_checkpoint", "0123abcd")
    assert tracking_of(tracked()).run_name is None


class Board(TensorBoardCallback):
    """TensorBoard's callback with a writer that keeps what it gets, in place of the package."""

    boards: list[Board] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.tb_writer: Any = self
        self.logging_dir = None
        self.texts: dict[str, str] = {}
        self.scalars: dict[str, list[tuple[int, float]]] = {}
        self.boards.append(self)

    def add_text(self, name: str, text: str, step: int = 0) -> None:
        self.texts[name] = text

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.setdefault(name, []).append((step, value))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_the_trainer_reports_to_the_tracker_that_is_named(
    tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL looks the tracker up by name; the loss of every step arrives, with the name of the run and the tags."""
    monkeypatch.setattr(Board, "boards", [])
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Board)
    monkeypatch.setattr("drirl_core.policy.options.is_installed", lambda _: True)
    shown = build_sft_checkpoint(tracked("tensorboard"))
    build_sft_checkpoint(tracked())
    (board,) = Board.boards  # none for the second training
    assert [step for step, _ in board.scalars["train/loss"]] == list(range(1, shown["steps"] + 1))
    assert board.scalars["train/loss"][0][1] == pytest.approx(shown["first_loss"])
    assert '"run_name": "smoke/sft_checkpoint"' in board.texts["args"]
    assert board.texts["drirl"].split("\n\n") == [f"{name}: {value}" for name, value in TAGS.items()]
    assert str(board.logging_dir).endswith("/.tensorboard/smoke/sft_checkpoint/0123abcd")


# -------------------------------------------------------------------------------------------------------- real trackers


def test_tensorboard_keeps_its_files_beside_the_artifacts(tracked: Tracked) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    context = tracked("tensorboard")
    shown = build_sft_checkpoint(context)
    folder = context.store.root / ".tensorboard" / "smoke" / "sft_checkpoint" / "0123abcd"
    read = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in read.Scalars("train/loss")] == list(range(1, shown["steps"] + 1))
    assert b"drirl/key: 0123abcd" in read.Tensors("drirl/text_summary")[0].tensor_proto.string_val[0]


def test_wandb_offline(tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    seen: dict[str, Any] = {}
    finish = wandb.finish

    def finished(*args: Any, **kwargs: Any) -> None:
        seen.update(name=wandb.run.name, **dict(wandb.config))
        finish(*args, **kwargs)

    monkeypatch.setattr(wandb, "finish", finished)
    build_sft_checkpoint(tracked("wandb"))
    assert (seen["name"], {name: seen[name] for name in TAGS}) == ("smoke/sft_checkpoint", TAGS)
    assert wandb.run is None  # the next training has a run of its own
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_mlflow_in_a_local_file(tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    build_sft_checkpoint(tracked("mlflow"))
    assert mlflow.active_run() is None
    (run,) = mlflow.search_runs(output_format="list", search_all_experiments=True)
    assert (run.info.run_name, run.info.status) == ("smoke/sft_checkpoint", "FINISHED")
    assert {name: run.data.tags[name] for name in TAGS} == TAGS
    assert run.data.metrics["loss"] > 0


def test_trackio_in_a_local_file(tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    build_sft_checkpoint(tracked("trackio"))
    (run,) = trackio.Api().runs("drirl")
    assert run.name == "smoke/sft_checkpoint"
    assert {name: run.config[name] for name in TAGS} == TAGS
