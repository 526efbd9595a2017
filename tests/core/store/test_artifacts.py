"""Artifacts: published completely or not at all, once per content, refused when damaged; disk errors are explained."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from drirl_core.errors import ArtifactError, ConfigError
from drirl_core.store import artifacts
from drirl_core.store.artifacts import Artifact, ArtifactStore, fingerprint

DETAILS = {"metadata": {"rows": 2}, "inputs": {}}


def _publish(
    store: ArtifactStore,
    files: dict[str, str],
    *,
    asset: str = "table",
    key: str = "aaaa",
    details: dict[str, Any] = DETAILS,
    volatile: frozenset[str] = frozenset(),
) -> Artifact:
    with store.building(asset, key) as workspace:
        for name, text in files.items():
            (workspace.out / name).parent.mkdir(parents=True, exist_ok=True)
            (workspace.out / name).write_text(text, encoding="utf-8")
        return store.publish(asset, key, workspace, details=details, volatile=volatile)


def _visible(store: ArtifactStore) -> list[str]:
    """Return every file below the root that a reader could take for an artifact or an index."""
    return sorted(
        str(p.relative_to(store.root))
        for p in store.root.rglob("*")
        if p.is_file() and not p.relative_to(store.root).parts[0].startswith(".")
    )


def test_publish_find_open(store: ArtifactStore) -> None:
    published = _publish(store, {"rows.txt": "one\ntwo\n", "deep/er/more.txt": "three"})
    assert published.path == store.root / "table" / published.version
    assert published.metadata == {"rows": 2}
    assert set(published.manifest["files"]) == {"rows.txt", "deep/er/more.txt"}
    assert published.manifest["files"]["rows.txt"]["bytes"] == 8
    found = store.find("table", "aaaa")
    assert found is not None
    assert (found.version, found.manifest) == (published.version, published.manifest)
    assert store.open("table", published.version).path.joinpath("deep/er/more.txt").read_text() == "three"
    store.verify(found)
    assert store.find("table", "bbbb") is None
    assert store.find("other", "aaaa") is None
    with pytest.raises(ArtifactError, match=r"other 0123 is not a published artifact .*; materialize other again"):
        store.open("other", "0123")


@pytest.mark.parametrize("name", ["what? #1", "100%", "a%20b", "größe [1]*", "~x"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_any_directory_can_be_the_root(tmp_path: Path, name: str, scheme: str) -> None:
    """A URI with `?` or `#` is refused, everything else is found where it was put."""
    root = f"{scheme}{tmp_path}/{name}"
    if scheme and "?" in name:
        with pytest.raises(ConfigError, match="has a query"):
            ArtifactStore(root, tmp_path / "mirror")
        return
    store = ArtifactStore(root, tmp_path / "mirror")
    published = _publish(store, {"rows.txt": "one"})
    assert (tmp_path / name / "table" / published.version / "manifest.json").is_file()
    found = ArtifactStore(root, tmp_path / "other").latest("table")
    assert found is not None
    assert found.path.joinpath("rows.txt").read_text() == "one"


def test_an_exception_leaves_nothing_visible(store: ArtifactStore) -> None:
    with pytest.raises(KeyError), store.building("table", "aaaa") as workspace:
        (workspace.out / "rows.txt").write_text("half")
        raise KeyError("boom")
    assert _visible(store) == []
    assert store.find("table", "aaaa") is None
    assert store.latest("table") is None
    with store.building("table", "aaaa") as workspace:  # what the failed attempt wrote is gone
        assert list(workspace.out.iterdir()) == []


def test_a_kill_between_writing_and_renaming_leaves_nothing_visible(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ArtifactStore, "_rename", killed)
    with pytest.raises(KeyboardInterrupt):
        _publish(store, {"rows.txt": "one"})
    assert _visible(store) == []
    monkeypatch.undo()
    assert _publish(store, {"rows.txt": "one"}).path.is_dir()


def test_equal_content_is_one_artifact(store: ArtifactStore) -> None:
    first = _publish(store, {"a": "1", "b": "2"}, key="aaaa")
    inode = first.path.joinpath("a").stat().st_ino
    second = _publish(store, {"b": "2", "a": "1"}, key="bbbb")
    assert second.version == first.version
    assert first.path.joinpath("a").stat().st_ino == inode  # the first copy was kept
    assert sorted(p.name for p in (store.root / "table").iterdir()) == sorted([first.version, "by-input"])
    for key in ("aaaa", "bbbb"):
        found = store.find("table", key)
        assert found is not None
        assert found.version == first.version


@pytest.mark.parametrize(
    "files", [{"a": "1", "b": "3"}, {"a": "1"}, {"a": "1", "c": "2"}, {"a": "1", "b": "2", "c": ""}]
)
def test_other_content_is_another_version(store: ArtifactStore, files: dict[str, str]) -> None:
    assert _publish(store, files).version != _publish(store, {"a": "1", "b": "2"}).version


def test_equal_content_of_another_asset_is_another_version(store: ArtifactStore) -> None:
    assert _publish(store, {"a": "1"}, asset="left").version != _publish(store, {"a": "1"}, asset="right").version


def test_volatile_files_do_not_enter_the_version(store: ArtifactStore) -> None:
    """Equal weights with other timings are the same version; other inputs are another one, whatever the files hold."""
    volatile = frozenset({"times.jsonl"})
    first = _publish(store, {"weights": "w", "times.jsonl": "3 s"}, volatile=volatile)
    second = _publish(store, {"weights": "w", "times.jsonl": "4 s"}, volatile=volatile)
    assert second.version == first.version
    assert (first.path / "times.jsonl").read_text() == "3 s"
    assert _publish(store, {"weights": "x", "times.jsonl": "3 s"}, volatile=volatile).version != first.version
    assert (
        _publish(store, {"weights": "w", "times.jsonl": "3 s"}, key="bbbb", volatile=volatile).version != first.version
    )


def test_an_empty_artifact_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match=r"table: the stage wrote no file; an artifact cannot be empty"):
        _publish(store, {})
    with pytest.raises(ArtifactError, match="wrote no file"), store.building("table", "aaaa") as workspace:
        (workspace.out / "folder").mkdir()
        store.publish("table", "aaaa", workspace, details=DETAILS)
    assert _visible(store) == []


def test_scratch_is_kept_after_a_failure_and_removed_after_publishing(store: ArtifactStore) -> None:
    with pytest.raises(RuntimeError), store.building("table", "aaaa") as workspace:
        (workspace.scratch / "checkpoint").write_text("step 3")
        raise RuntimeError("killed")
    with store.building("table", "bbbb") as workspace:  # other inputs do not see it
        assert list(workspace.scratch.iterdir()) == []
    with store.building("table", "aaaa") as workspace:
        assert (workspace.scratch / "checkpoint").read_text() == "step 3"
        (workspace.out / "rows.txt").write_text("one")
        store.publish("table", "aaaa", workspace, details=DETAILS)
    with store.building("table", "aaaa") as workspace:
        assert list(workspace.scratch.iterdir()) == []
    assert [p.name for p in (store.root / ".work").iterdir() if p.is_dir()] == []


def test_reuse_leaves_no_work_directory(store: ArtifactStore) -> None:
    with store.building("table", "aaaa"):
        pass
    assert [p.name for p in (store.root / ".work").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize(
    "damage",
    ["truncated", "grown", "removed", "no_manifest", "half_manifest", "list", "files_list", "no_bytes", "binary"],
)
def test_damaged_artifacts_are_refused_and_rebuilt(store: ArtifactStore, damage: str) -> None:
    artifact = _publish(store, {"rows.txt": "one\ntwo\n", "other": "x"})
    rows, manifest = artifact.path / "rows.txt", artifact.path / artifacts.MANIFEST
    plain = json.loads(manifest.read_text())
    {
        "truncated": lambda: rows.write_text("one\n"),
        "grown": lambda: rows.write_text("one\ntwo\nthree\n"),
        "removed": rows.unlink,
        "no_manifest": manifest.unlink,
        "half_manifest": lambda: manifest.write_text(manifest.read_text()[:40]),
        "list": lambda: manifest.write_text("[]"),
        "files_list": lambda: manifest.write_text(json.dumps({**plain, "files": ["rows.txt"]})),
        "no_bytes": lambda: manifest.write_text(json.dumps({**plain, "files": {"rows.txt": {}}})),
        "binary": lambda: manifest.write_bytes(b"\xff\xfe\x00"),
    }[damage]()
    with pytest.raises(ArtifactError, match="materialize table again"):
        store.open("table", artifact.version)
    assert store.find("table", "aaaa") is None
    assert store.latest("table") is None
    rebuilt = _publish(store, {"rows.txt": "one\ntwo\n", "other": "x"})
    assert rebuilt.version == artifact.version
    assert store.open("table", rebuilt.version).path.joinpath("rows.txt").read_text() == "one\ntwo\n"
    assert [p.name for p in (store.root / "table").iterdir() if p.name.startswith(".")] == []


def test_a_foreign_artifact_is_refused(store: ArtifactStore) -> None:
    artifact = _publish(store, {"rows.txt": "one"})
    stranger = store.root / "other" / artifact.version
    stranger.parent.mkdir()
    artifact.path.rename(stranger)
    with pytest.raises(ArtifactError, match=r"is a foreign artifact: its manifest names table"):
        store.open("other", artifact.version)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"version": 3}', b'{"used_at": 1}', b"\xff\xfe", b'{"version": "x", "used_at": "soon"}'],
)
def test_a_damaged_index_is_ignored(store: ArtifactStore, content: bytes) -> None:
    _publish(store, {"rows.txt": "one"})
    (store.root / "table" / "by-input" / "aaaa.json").write_bytes(content)
    assert store.find("table", "aaaa") is None
    assert store.latest("table") is None


def test_verify_detects_changes_of_equal_size(store: ArtifactStore) -> None:
    artifact = _publish(store, {"rows.txt": "one"})
    (artifact.path / "rows.txt").write_text("two")
    same_size = store.open("table", artifact.version)
    with pytest.raises(
        ArtifactError, match=r"rows\.txt differs from what was published; delete .* and materialize table again"
    ):
        store.verify(same_size)
    (artifact.path / "rows.txt").unlink()
    with pytest.raises(ArtifactError, match=r"rows\.txt cannot be read"):
        store.verify(same_size)


def test_latest_is_the_last_one_used(store: ArtifactStore) -> None:
    assert store.latest("table") is None
    first = _publish(store, {"a": "1"}, key="aaaa")
    second = _publish(store, {"a": "2"}, key="bbbb")
    latest = store.latest("table")
    assert latest is not None
    assert latest.version == second.version
    store.touch("table", "aaaa", first.version)
    latest = store.latest("table")
    assert latest is not None
    assert latest.version == first.version
    os.utime(second.path)  # times of directories do not count
    latest = store.latest("table")
    assert latest is not None
    assert latest.version == first.version


def _build_slowly(root: Path, started: Any, results: Any) -> None:
    store = ArtifactStore(root)
    waited: list[str] = []
    with store.building("table", "aaaa", waited.append) as workspace:
        found = store.find("table", "aaaa")
        if found is None:
            started.set()
            time.sleep(0.5)
            (workspace.out / "rows.txt").write_text("one")
            found = store.publish("table", "aaaa", workspace, details=DETAILS)
            results.put(("built", found.version, waited))
        else:
            results.put(("found", found.version, waited))


def test_two_processes_build_once(tmp_path: Path) -> None:
    """The second one reports that it waits, waits, and finds what the first one built."""
    context = multiprocessing.get_context("fork")
    started, results = context.Event(), context.Queue()
    first = context.Process(target=_build_slowly, args=(tmp_path, started, results))
    first.start()
    assert started.wait(10)
    second = context.Process(target=_build_slowly, args=(tmp_path, started, results))
    second.start()
    outcomes = [results.get(timeout=10), results.get(timeout=10)]
    first.join(10)
    second.join(10)
    assert (first.exitcode, second.exitcode) == (0, 0)
    by_kind = {kind: (version, waited) for kind, version, waited in outcomes}
    assert set(by_kind) == {"built", "found"}
    assert by_kind["built"][0] == by_kind["found"][0]
    assert by_kind["built"][1] == []
    assert by_kind["found"][1] == ["another process is building table from the same inputs; waiting for it"]


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    def die(root: Path) -> None:
        with ArtifactStore(root).building("table", "aaaa") as workspace:
            (workspace.scratch / "checkpoint").write_text("step 3")
            os._exit(9)

    process = multiprocessing.get_context("fork").Process(target=die, args=(tmp_path,))
    process.start()
    process.join(10)
    assert process.exitcode == 9
    waited: list[str] = []
    with ArtifactStore(tmp_path).building("table", "aaaa", waited.append) as workspace:
        assert (workspace.scratch / "checkpoint").read_text() == "step 3"
    assert waited == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained_while_publishing(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ArtifactError, match=r"the disk of .*table.* is full \(.* GB free\); free some space or set `root`"
    ):
        _publish(store, {"rows.txt": "one"})
    monkeypatch.undo()
    assert _visible(store) == []
    assert _publish(store, {"rows.txt": "one"}).path.is_dir()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 64 kB, where this account may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this account cannot mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    store = ArtifactStore(small_disk / "artifacts")
    kept = _publish(store, {"rows.txt": "one"}, key="bbbb")
    with pytest.raises(ArtifactError, match=r"is full \(0\.0 GB free\)"):
        _publish(store, {"rows.txt": "x" * 100_000})
    assert store.find("table", "aaaa") is None
    store.verify(kept)
    assert _publish(
        store, {"rows.txt": "x" * 10}
    ).path.is_dir()  # the half-written files are deleted, so there is space again


def test_a_read_only_disk_is_explained(small_disk: Path) -> None:
    store = ArtifactStore(small_disk / "artifacts")
    kept = _publish(store, {"rows.txt": "one"})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(
        ArtifactError, match=r"cannot be used \(Read-only file system\); fix its permissions or set `root`"
    ):
        _publish(store, {"rows.txt": "two"}, key="bbbb")
    found = store.find("table", "aaaa")  # reading still works
    assert found is not None
    assert found.version == kept.version


def test_a_refused_write_is_explained(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(ArtifactError, match=r"cannot be used \(Permission denied\)"), store.building("table", "aaaa"):
        pass


def test_other_errors_of_a_stage_stay_as_they_are(store: ArtifactStore) -> None:
    with pytest.raises(FileNotFoundError) as caught, store.building("table", "aaaa"):
        (store.root / "nowhere").read_text()
    assert caught.value.__cause__ is None


def test_fingerprints_depend_on_everything_but_the_order_of_inputs() -> None:
    key = fingerprint("a", "1-x", {"left": "1", "right": "2"})
    assert key == fingerprint("a", "1-x", {"right": "2", "left": "1"})
    assert len(key) == 16
    others = [
        ("b", "1-x", {"left": "1", "right": "2"}),
        ("a", "2-x", {"left": "1", "right": "2"}),
        ("a", "1-x", {"left": "2", "right": "1"}),
    ]
    assert len({key, *(fingerprint(*other) for other in others)}) == 4


def test_cache_files_are_stored_beside_the_artifacts(store: ArtifactStore) -> None:
    file = store.cache_path("completions")
    assert file == store.root / ".cache" / "completions.sqlite"
    assert file.parent.is_dir()


def test_the_cost_of_a_build_does_not_enter_its_version(store: ArtifactStore) -> None:
    first, second = (
        _publish(store, {"a": "1"}, key=key, details={**DETAILS, "metadata": {"seconds": seconds, "tokens": 9}})
        for key, seconds in (("aaaa", 1.0), ("bbbb", 7.0))
    )
    assert first.version == second.version


def test_each_build_has_a_record_even_if_the_content_is_the_same(store: ArtifactStore) -> None:
    """The manifest describes the first build only; the inputs of the last one must not be lost."""
    version = _publish(
        store, {"a": "1"}, key="aaaa", details={"metadata": {"seconds": 1.0}, "inputs": {"x": "1"}}
    ).version
    _publish(store, {"a": "1"}, key="bbbb", details={"metadata": {"seconds": 7.0}, "inputs": {"x": "2"}})
    assert store.open("table", version).manifest["inputs"] == {"x": "1"}
    assert [(record["inputs"]["x"], record["metadata"]["seconds"]) for record in store.records("table")] == [
        ("2", 7.0),
        ("1", 1.0),
    ]
    store.touch("table", "aaaa", version)
    assert [record["inputs"]["x"] for record in store.records("table")] == ["1", "2"]


def test_a_record_without_details_uses_those_of_its_manifest(store: ArtifactStore) -> None:
    """Older indexes hold version and time only."""
    version = _publish(store, {"a": "1"}, key="aaaa").version
    for key in ("aaaa", "bbbb"):
        (store.root / "table" / "by-input" / f"{key}.json").write_text(
            json.dumps({"version": version, "used_at": ord(key[0])})
        )
    newer, older = store.records("table")
    assert older["inputs"] == DETAILS["inputs"]
    assert "inputs" not in newer
    assert store.records("never_made") == []


def test_a_clock_jump_makes_no_older_result_the_latest(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days forward, then back before the first: the artifact used last is the latest, and stays the latest."""
    now = time.time()
    used = []
    for number, day in enumerate((0, 30, -30, -30, 1)):
        monkeypatch.setattr(time, "time", lambda day=day: now + day * 86400)
        used.append(_publish(store, {"a": str(number)}, key=f"{number:04}").version)
        latest = store.latest("table")
        assert latest is not None
        assert latest.version == used[-1]
    store.touch("table", "0000", used[0])
    latest = store.latest("table")
    assert latest is not None
    assert latest.version == used[0]
    found = store.find("table", "0002")
    assert found is not None
    assert found.version == used[2]


def test_a_clock_jump_during_a_build_does_no_harm(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.building("table", "aaaa") as workspace:
        (workspace.scratch / "checkpoint").write_text("step 3")
        monkeypatch.setattr(time, "time", lambda: 0.0)
    with store.building("table", "aaaa") as workspace:
        assert (workspace.scratch / "checkpoint").read_text() == "step 3"
        (workspace.out / "rows.txt").write_text("one")
        published = store.publish("table", "aaaa", workspace, details=DETAILS)
    latest = store.latest("table")
    assert latest is not None
    assert latest.version == published.version
