"""The folder of a reliability run: its own root and Dagster home, and the settings of the current seed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from drirl_core.config import Config, load_config
from drirl_core.graph.build import run_all
from drirl_core.graph.plan import plan
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.testing import tiny_config
from pipeline.instance.home import INSTANCE_FILE
from pipeline.instance.settings import ROOT

SETTINGS = {
    "sft": {"epochs": 20, "batch_size": 32},
    "policy": {"steps": 60, "save_steps": 2},
    "checks": {"min_refusal": 0.0},
    "promotion": {"automatic": False},
}
"""Changes to the tiny settings: trainings of some seconds that save a checkpoint every step or two, and no gate that a
random model fails, because a failed gate fails its run."""

CACHES = ("completions", "embeddings")


@dataclass(frozen=True)
class RunFolder:
    """A directory with everything that the runs read and write.

    Args:
        path: the directory.
        base: settings that every seed extends.
    """

    path: Path
    base: Path

    @property
    def home(self) -> Path:
        """The Dagster home."""
        return self.path / "home"

    @property
    def root(self) -> Path:
        """Artifacts of the disturbed runs."""
        return self.path / "artifacts"

    @property
    def settings(self) -> Path:
        """The current settings; the file stays, its seed changes."""
        return self.path / "current.yaml"

    def use_seed(self, seed: int) -> None:
        """Give the graph new work: another seed decides every asset from the pool on."""
        temporary = self.settings.with_suffix(".new")
        temporary.write_text(
            yaml.safe_dump({"extends": str(self.base), "root": str(self.root), "seed": seed}), encoding="utf-8"
        )
        temporary.replace(self.settings)

    def versions(self) -> dict[str, str] | None:
        """Return the version of every asset of the current settings, or None while some are missing."""
        made = plan(Project.load(self.settings))
        return {name: str(asset.version) for name, asset in made.assets.items()} if made.up_to_date else None

    def environment(self) -> dict[str, str]:
        """Return the variables for a process of this folder: one thread, so that equal work gives equal bits."""
        own = {"DAGSTER_HOME": str(self.home), "DRIRL_CONFIG": str(self.settings)}
        return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **own}


def make_run_folder(path: Path, base: Path | None) -> RunFolder:
    """Fill a directory.

    Args:
        path: an empty directory.
        base: settings to kill runs of; None for the tiny random models.
    """
    if base is None:
        with _libraries_to(path / "models.log"):
            tiny_config(path)
        base = path / "base.yaml"
        base.write_text(yaml.safe_dump({"extends": "smoke.yaml", **SETTINGS}), encoding="utf-8")
    run_folder = RunFolder(path, base.expanduser().absolute())
    run_folder.home.mkdir()
    shutil.copy(ROOT / INSTANCE_FILE, run_folder.home)
    return run_folder


def undisturbed(run_folder: RunFolder, seed: int) -> tuple[dict[str, str], Config]:
    """Run the graph of a seed in this process, without Dagster and without kills, beside the disturbed root.

    The undisturbed seeds share one root, in the order of the disturbed ones, because those share the row caches too.

    Returns:
        Version by asset, and the configuration.
    """
    config = load_config(run_folder.base, {"root": str(run_folder.path / "undisturbed"), "seed": seed})
    with _libraries_to(run_folder.path / "undisturbed.log"):
        return {name: artifact.version for name, artifact in run_all(Project(config), SilentReporter()).items()}, config


def lost_rows(run_folder: RunFolder, reference: Config) -> dict[str, tuple[int, int]]:
    """Compare the row caches with those of the undisturbed runs.

    Returns:
        Per cache: rows that the undisturbed one holds, and how many of them are missing or differ in the disturbed one.
    """
    found = {}
    for name in CACHES:
        expected, tested = (_rows(ArtifactStore(root).cache_path(name)) for root in (reference.root, run_folder.root))
        found[name] = (len(expected), sum(tested.get(key) != value for key, value in expected.items()))
    return found


@contextlib.contextmanager
def _libraries_to(file: Path) -> Iterator[None]:
    """Keep the progress bars and warnings of the libraries off the terminal."""
    with file.open("a", encoding="utf-8") as log, contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
        yield


def _rows(file: Path) -> dict[str, bytes]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return dict(connection.execute("SELECT key, value FROM rows"))
