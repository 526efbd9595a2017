"""A root that is a URI: published completely or not at all, found by other machines, refused when damaged."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import Config, ModelsConfig
from drirl_core.errors import ArtifactError, ConfigError
from drirl_core.store import remote as remote_module
from drirl_core.store.artifacts import Artifact, ArtifactStore
from drirl_core.store.remote import Remote, UnreachableError

DETAILS = {"metadata": {"rows": 2}, "inputs": {}}
FILES = {"rows.txt": "one\ntwo\n", "deep/more.txt": "three", "empty": ""}
Host = Callable[[str], ArtifactStore]


with_s3 = pytest.mark.parametrize("uri", ["memory", "file", "s3"], indirect=True)
"""For the most important tests; requests to the server are slow."""


def _publish(
    store: ArtifactStore, files: dict[str, str] = FILES, *, key: str = "aaaa", volatile: frozenset[str] = frozenset()
) -> Artifact:
    with store.building("table", key) as workspace:
        for name, text in files.items():
            (workspace.out / name).parent.mkdir(parents=True, exist_ok=True)
            (workspace.out / name).write_text(text, encoding="utf-8")
        return store.publish("table", key, workspace, details=DETAILS, volatile=volatile)


def _build(store: ArtifactStore, key: str = "aaaa") -> tuple[Artifact, bool]:
    """Do what a stage does: reuse the artifact of equal inputs, else build; return whether it was reused."""
    found = store.find("table", key)
    if found is None:
        return _publish(store, key=key), False
    store.touch("table", key, found.version)
    return found, True


class _Broken(Exception):
    """An error as a file system may raise it: not an OSError, and with a secret in it."""


def _break_puts(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let `after` more objects be written, then fail."""
    done, put = iter(range(after)), Remote.put

    def breaking(self: Remote, file: Path, key: str) -> None:
        if next(done, None) is None:
            with self._explained("written"):
                raise _Broken("connection to https://me:hunter2@host lost")
        put(self, file, key)

    monkeypatch.setattr(Remote, "put", breaking)


@with_s3
def test_an_artifact_published_by_one_machine_is_found_and_verified_by_another(host: Host, uri: str) -> None:
    published = _publish(host("a"))
    assert published.uri == f"{uri}/table/{published.version}"
    there = host("b")
    assert there.was_made("table")
    assert not there.was_made("other")
    found = there.find("table", "aaaa")
    assert found is not None
    assert (found.version, found.manifest) == (published.version, published.manifest)
    assert {name: (found.path / name).read_text() for name in FILES} == FILES
    assert found.path.is_relative_to(there.root)
    there.verify(found)
    latest = there.latest("table")
    assert latest is not None
    assert latest.version == published.version
    assert there.find("table", "bbbb") is None
    with pytest.raises(
        ArtifactError,
        match=rf"table 0123 is not a published artifact under {re.escape(uri)} .*; materialize table again",
    ):
        there.open("table", "0123")
    assert not any((there.root / ".work").glob("*/"))


def test_a_version_is_the_same_on_a_disk_and_at_a_uri(host: Host, store: ArtifactStore) -> None:
    assert _publish(host("a")).version == _publish(store).version


def test_a_lookup_copies_no_files(host: Host) -> None:
    published, there = _publish(host("a")), host("b")
    for found in (there.find("table", "aaaa", fetch=False), there.latest("table", fetch=False)):
        assert found is not None
        assert found.manifest == published.manifest
        assert not found.path.exists()
    assert there.manifest("table", published.version) == published.manifest
    assert there.manifest("table", "0123") is None


@with_s3
def test_use_on_one_machine_is_seen_by_the_others(host: Host) -> None:
    first, second = _publish(host("a"), {"a": "1"}, key="aaaa"), _publish(host("b"), {"a": "2"}, key="bbbb")
    a = host("a")
    assert a.latest("table").version == second.version  # type: ignore[union-attr]
    host("b").touch("table", "aaaa", first.version)
    assert a.latest("table").version == first.version  # type: ignore[union-attr]


def test_a_machine_whose_clock_is_behind_still_publishes_the_latest(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    _publish(host("a"), {"a": "1"}, key="aaaa")
    monkeypatch.setattr(time, "time", lambda: now - 600)
    behind = _publish(host("b"), {"a": "2"}, key="bbbb")
    for name in "abc":
        latest = host(name).latest("table")
        assert latest is not None
        assert latest.version == behind.version


@pytest.mark.parametrize(
    ("uri", "uploaded"),
    [*((uri, n) for uri in ("memory", "file") for n in range(5)), ("s3", 1), ("s3", 3), ("s3", 4)],
    indirect=["uri"],
)
def test_an_interrupted_upload_shows_nothing_and_is_completed(
    host: Host, monkeypatch: pytest.MonkeyPatch, uploaded: int
) -> None:
    """Three files, the manifest, the index entry: the upload is interrupted before each of them in turn."""
    _break_puts(monkeypatch, uploaded)
    with pytest.raises(UnreachableError, match=r"cannot be written.*finished work is kept") as caught:
        _publish(host("a"))
    assert "hunter2" not in str(caught.value)
    assert host("b").find("table", "aaaa") is None
    assert host("b").latest("table") is None
    monkeypatch.undo()
    artifact, found = _build(host("a"))
    assert found, "a built artifact is not built again"
    seen = host("b").find("table", "aaaa")
    assert seen is not None
    assert seen.version == artifact.version
    host("b").verify(seen)


def test_only_what_is_missing_is_uploaded_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    _break_puts(monkeypatch, 2)
    with pytest.raises(UnreachableError):
        _publish(host("a"))
    monkeypatch.undo()
    written: list[str] = []
    put = Remote.put
    monkeypatch.setattr(
        Remote, "put", lambda self, file, key: (written.append(key.rpartition("/")[2]), put(self, file, key))
    )
    _build(host("a"))
    assert written == ["rows.txt", "manifest.json", "aaaa.json"]


@pytest.mark.parametrize(
    ("uri", "damage"),
    [
        *((uri, how) for uri in ("memory", "file") for how in ("truncated", "changed", "removed", "manifest")),
        ("s3", "truncated"),
    ],
    indirect=["uri"],
)
def test_a_damaged_object_is_refused_and_replaced(host: Host, damage: str) -> None:
    published, there = _publish(host("a")), host("b")
    remote = there.remote
    assert remote is not None
    rows = next(key for key in remote.sizes("table") if key.endswith("rows.txt"))
    key = f"table/{published.version}/manifest.json" if damage == "manifest" else rows
    content = remote.read(key)
    assert content is not None
    new = {"truncated": content[:3], "changed": b"x" * len(content), "removed": b"", "manifest": content[:40]}[damage]
    remote._files.rm_file(remote._key(key))
    if damage != "removed":
        file = there.root.parent / "new"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(new)
        remote.put(file, key)
    with pytest.raises(ArtifactError, match="materialize table again"):
        there.open("table", published.version)
    assert there.find("table", "aaaa") is None
    assert not (there.root / "table" / published.version).exists()
    if damage == "changed":  # of the right size, so it is replaced only after deleting it, as the message says
        remote._files.rm_file(remote._key(key))
    assert _build(host("a"))[1]
    there.verify(there.open("table", published.version))


def test_a_damaged_copy_is_fetched_again(host: Host) -> None:
    _publish(host("a"))
    found = host("b").find("table", "aaaa")
    assert found is not None
    (found.path / "rows.txt").write_text("on")
    restored = host("b").open("table", found.version)
    host("b").verify(restored)


@with_s3
def test_equal_content_published_twice_is_one_artifact(host: Host) -> None:
    first, second = _publish(host("a"), key="aaaa"), _publish(host("b"), key="bbbb")
    assert first.version == second.version
    remote = host("c").remote
    assert remote is not None
    assert sum(key.endswith("rows.txt") for key in remote.sizes("table")) == 1
    for key in ("aaaa", "bbbb"):
        found = host("c").find("table", key)
        assert found is not None
        host("c").verify(found)


@with_s3
def test_removing_deletes_all_objects_below_a_key_and_no_others(host: Host, tmp_path: Path) -> None:
    remote = host("a").remote
    assert remote is not None
    (tmp_path / "note").write_text("x")
    for key in ("t/ab/1", "t/ab/deep/2", "t/ab/deep/3", "t/abc/1", "t/ab.json"):
        remote.put(tmp_path / "note", key)
    written_at = remote.modified_at("t/ab/1")
    assert written_at is not None
    assert abs(written_at - time.time()) < 600
    remote.remove("t/ab/1")
    assert remote.modified_at("t/ab/1") is None
    remote.remove("t/ab")
    assert sorted(remote.sizes("")) == ["t/ab.json", "t/abc/1"]
    assert remote.names("t") == ["ab.json", "abc"]
    for gone in ("t/ab", "t/ab/1", "nowhere/at/all"):
        remote.remove(gone)
    assert remote.names("t") == ["ab.json", "abc"]


def test_two_machines_that_publish_at_the_same_time_do_not_mix_their_files(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal weights, different timings: whichever manifest wins finds its own files."""
    volatile, put = frozenset({"times"}), Remote.put
    entered: list[str] = []

    def interrupted(self: Remote, file: Path, key: str) -> None:
        if key.endswith("manifest.json") and not entered:  # b publishes completely between a's files and a's manifest
            entered.append(key)
            _publish(host("b"), {"weights": "w", "times": "4 seconds"}, volatile=volatile)
        put(self, file, key)

    monkeypatch.setattr(Remote, "put", interrupted)
    _publish(host("a"), {"weights": "w", "times": "3 s"}, volatile=volatile)
    assert entered
    found = host("c").find("table", "aaaa")
    assert found is not None
    host("c").verify(found)


def test_no_network_is_an_error_and_not_an_empty_store(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it were taken for empty, a finished training would be repeated."""
    store = host("a")
    published = _publish(store)

    def down(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    assert store.remote is not None
    for name in ("cat_file", "ls", "put_file"):
        monkeypatch.setattr(store.remote._files, name, down)
    for ask in (
        lambda: store.find("table", "aaaa"),
        lambda: store.latest("table"),
        store.require_writable,
        lambda: store.touch("table", "aaaa", published.version),
    ):
        with pytest.raises(
            UnreachableError,
            match=r"no route to host\); check the network, that the bucket exists, and the credentials",
        ):
            ask()
    assert store.open("table", published.version).manifest == published.manifest  # a complete copy needs no network


def test_a_foreign_manifest_cannot_write_outside_its_directory(host: Host, tmp_path: Path) -> None:
    published, there = _publish(host("a")), host("b")
    manifest = json.loads((published.path / "manifest.json").read_text())
    manifest["files"]["../../escaped"] = manifest["files"]["rows.txt"]
    (tmp_path / "manifest").write_text(json.dumps(manifest))
    assert there.remote is not None
    there.remote.put(tmp_path / "manifest", f"table/{published.version}/manifest.json")
    with pytest.raises(ArtifactError, match=r"names \.\./\.\./escaped, which is outside"):
        there.open("table", published.version)


def test_a_bucket_that_does_not_exist_is_detected_before_the_work(s3: str, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"cannot be written.*that the bucket exists"):
        ArtifactStore("s3://nobody-made-this/prefix", tmp_path).require_writable()


def test_credentials_from_the_environment_are_written_to_no_file(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(f"{s3}/{uuid.uuid4().hex}", tmp_path)
    _publish(store)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"testing" in p.read_bytes()]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("s3://me:hunter2@bucket/prefix", r"a user name and a password for s3://bucket; .*put credentials where"),
        ("s3://bucket/prefix?key=hunter2", r"has a query"),
        ("simplecache::s3://bucket/prefix", r"chains file systems"),
        ("s3:///", r"names no bucket"),
    ],
)
def test_uris_that_cannot_be_used(root: str, message: str) -> None:
    models = ModelsConfig(policy="path:/none", encoder="path:/none")
    with pytest.raises(ConfigError, match=message) as caught:
        Config(models=models, root=root)
    assert "hunter2" not in str(caught.value)


def test_a_user_name_alone_is_no_secret() -> None:
    remote_module.check_uri("sftp://me@host/prefix")
    remote_module.check_uri("abfs://container@account.dfs.core.windows.net/prefix")
    remote_module.check_uri("/a/directory?with#anything")


def test_a_missing_package_and_a_misspelled_protocol_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'needs the package s3fs; install it: pip install "drirl\[s3\]"'):
        ArtifactStore("s3://bucket/prefix")
    with pytest.raises(ConfigError, match="needs the package gcsfs; install it: pip install gcsfs"):
        ArtifactStore("gs://bucket/prefix")
    with pytest.raises(ConfigError, match="the protocol 's33' is not known; did you mean 's3'"):
        ArtifactStore("s33://bucket/prefix")


def test_each_uri_has_its_own_mirror(tmp_path: Path) -> None:
    roots = [ArtifactStore(uri, tmp_path).root for uri in ("memory://a/b", "memory://a-b", "memory://a/b/")]
    assert roots[0] != roots[1]
    assert roots[0] == roots[2]
    assert ArtifactStore("memory://a/b", tmp_path).place == "memory://a/b"


def test_every_store_in_the_code_gets_its_mirror() -> None:
    """`ArtifactStore(config.root)` would mirror a URI below whatever directory the process was started in."""
    project = Path(remote_module.__file__).parents[2]
    files = [file for folder in ("drirl_core", "pipeline", "benchmarks") for file in (project / folder).rglob("*.py")]
    assert len(files) > 50
    assert [
        file.name
        for file in files
        if re.search(r"ArtifactStore\((?:\w+\.)*config\.root\)", file.read_text(encoding="utf-8"))
    ] == []
