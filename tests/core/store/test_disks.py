"""Really full and read-only disks: each write fails in turn, no partial artifact is visible, more space fixes it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.reliability.invariants import half_published
from drirl_core.config import ModelsConfig
from drirl_core.errors import ArtifactError, DrirlError, ModelError
from drirl_core.graph.build import run_all
from drirl_core.models.references import resolve
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache
from drirl_core.testing import tiny_config

PAGE = 4096
MESSAGES = (
    r"is full \(.* GB free\); free some space or set `root`|row cache .* cannot be used \(.*\); check its disk"
    r"|table .* cannot be written \(.*No space left on device.*\); free some space"
)


class Disk:
    """A file system whose size can change; it needs an account that may mount."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={PAGE}", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("this account cannot mount a file system")

    def change(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    subprocess.run(["umount", str(made.folder)], check=True)


def _build(store: ArtifactStore, reached: list[str]) -> None:
    """Write as a stage does: a checkpoint, rows, three files, and publish; append each finished step to `reached`."""
    with store.building("table", "aaaa") as workspace:
        (workspace.scratch / "checkpoint").write_bytes(b"c" * 2 * PAGE)
        reached.append("scratch")
        RowCache(store.cache_path("rows")).put_many({"key": b"r" * PAGE})
        reached.append("rows")
        for name in ("a", "b", "c"):
            (workspace.out / name).write_bytes(name.encode() * 12 * PAGE)
            reached.append(name)
        store.publish("table", "aaaa", workspace, details={"metadata": {"long": "m" * 4 * PAGE}, "inputs": {}})
        reached.append("published")


def test_a_full_disk_fails_clearly_at_every_write_and_more_space_fixes_it(disk: Disk) -> None:
    store, failed_after = ArtifactStore(disk.folder / "artifacts"), set()
    for pages in range(1, 200):
        disk.change(f"size={pages * PAGE}")
        reached: list[str] = ["nothing"]
        try:
            _build(store, reached)
        except ArtifactError as error:
            assert re.search(MESSAGES, str(error)), error
        else:
            break
        failed_after.add(reached[-1])
        assert half_published(store.root)[1] == []
        assert store.find("table", "aaaa") is None
    assert {"nothing", "scratch", "rows", "a", "b", "c"} <= failed_after
    found = store.find("table", "aaaa")
    assert found is not None
    store.verify(found)
    assert set(RowCache(store.cache_path("rows")).get_many(["key"])) == {"key"}


def test_a_read_only_root_fails_clearly_everywhere(disk: Disk) -> None:
    disk.change("size=1m")
    store = ArtifactStore(disk.folder / "artifacts")
    RowCache(store.cache_path("rows")).put_many({"key": b"kept"})
    disk.change("ro")
    with pytest.raises(
        ArtifactError, match=r"cannot be used \(Read-only file system\); fix its permissions or set `root`"
    ):
        _build(store, [])
    with pytest.raises(ArtifactError, match=r"row cache .* cannot be used \(.*\); check its disk"):
        RowCache(store.cache_path("rows")).put_many({"other": b"lost"})
    with pytest.raises(ArtifactError, match=r"cannot be used \(Read-only file system\)"):
        store.touch("table", "aaaa", "0123")
    disk.change("rw")
    _build(store, [])
    assert RowCache(store.cache_path("rows")).get_many(["key"]) == {"key": b"kept"}


def test_a_read_only_model_cache_is_reported_with_its_setting(disk: Disk, tiny_models: ModelsConfig) -> None:
    settings = replace(tiny_models, cache=str(disk.folder / "models"))
    disk.change("ro")
    with pytest.raises(
        ModelError, match=r"model cache .* cannot be used \(.*Read-only file system.*\); .*models\.cache"
    ):
        resolve("pypi:nothing==1.0/model", settings)


@pytest.mark.parametrize("kilobytes", [64, 600])
def test_full_disk_errors_of_libraries_are_recognised(disk: Disk, kilobytes: int) -> None:
    """Neither torch nor safetensors raises an OSError when the disk is full."""
    import torch
    from safetensors.torch import save_file

    weights = {"weight": torch.zeros(256, 1024)}  # 1 MiB
    disk.change(f"size={kilobytes}k")
    store = ArtifactStore(disk.folder / "artifacts")
    for save in (lambda path: torch.save(weights, path), lambda path: save_file(weights, path)):
        with pytest.raises(ArtifactError, match="is full"), store.building("table", "aaaa") as workspace:
            save(workspace.out / "weights")
    with (
        pytest.raises(RuntimeError, match="a bug"),
        store.building("table", "bbbb"),
    ):  # on a disk with space the error stays as it is
        disk.change("size=8m")
        raise RuntimeError("a bug")


@pytest.mark.slow  # the complete graph, started about twenty times
@pytest.mark.timeout(1200)
def test_the_complete_graph_on_a_disk_that_is_always_a_little_too_small(disk: Disk, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, {"root": str(disk.folder / "artifacts")})
    messages = []
    for kilobytes in range(64, 100_000, 192):
        disk.change(f"size={kilobytes}k")
        try:
            built = run_all(Project(config), SilentReporter())
        except DrirlError as error:
            assert re.search(MESSAGES, str(error)), error
            messages.append(str(error))
            assert half_published(Path(config.root))[1] == []
        else:
            break
    assert len(messages) > 10
    undisturbed = run_all(Project(tiny_config(tmp_path, {"root": str(tmp_path / "roomy")})), SilentReporter())
    assert {name: artifact.version for name, artifact in built.items()} == {
        name: a.version for name, a in undisturbed.items()
    }
