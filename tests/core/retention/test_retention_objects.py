"""Retention in a shared object store: versions other machines need stay, and remaining versions are complete."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aged_store import DAY, HOUR, age, collect, promote, publish

from drirl_core.errors import ArtifactError
from drirl_core.retention import Decision, Key, decide, place_of
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.remote import Remote, UnreachableError

Host = Callable[[str], ArtifactStore]

with_s3 = pytest.mark.parametrize("uri", ["memory", "file", "s3"], indirect=True)

_hosts = count()


def _remote(host: Host) -> Remote:
    remote = host("any").remote
    assert remote is not None
    return remote


def _left(host: Host) -> set[Key]:
    """Return every version that a machine without copies finds, after verifying that each is complete to the bit."""
    manifests = [key.split("/") for key in _remote(host).sizes("") if key.endswith("/manifest.json")]
    store = host(f"fresh-{next(_hosts)}")
    for asset, version, _ in manifests:
        store.verify(store.open(asset, version))
    return {(asset, version) for asset, version, _ in manifests}


def _decide(store: ArtifactStore, keep_s: float = HOUR) -> Decision:
    newer_than = time.time() - keep_s
    return decide(place_of(store).take_stock(newer_than), (), newer_than)


def _three_models(store: ArtifactStore) -> list[dict[str, str]]:
    """Publish three models, each from its own pool; only the last model and pool are the latest."""
    made = []
    for number in range(3):
        pool = publish(store, "pool", f"{number}", {"source_x": "ab"}, (9 - number) * DAY)
        model = publish(store, "model", f"{number}", {"pool": pool.version}, (9 - number) * DAY)
        made.append({"pool": pool.version, "model": model.version})
    return made


@with_s3
def test_old_versions_are_deleted_with_their_copies_and_inputs_of_the_latest_stay(host: Host) -> None:
    a, b = host("a"), host("b")
    old = publish(a, "pool", "1", age_s=4 * DAY)
    kept = publish(a, "pool", "2", age_s=3 * DAY)
    model = publish(b, "model", "1", {"pool": kept.version}, age_s=3 * DAY)
    latest = publish(b, "pool", "3", age_s=2 * DAY)
    recent = publish(b, "pool", "4", age_s=0)
    age(b, latest, "pool3", 0)  # the latest, and one more that was used recently
    everything = _left(host)
    shown = _decide(b)
    assert {stored.key for stored in shown.removable} == {("pool", old.version)}
    assert _left(host) == everything, "deciding deletes nothing"
    b.open("pool", old.version)
    decision = collect(b)
    assert decision == shown
    assert _left(host) == {artifact_key for artifact_key in everything if artifact_key != ("pool", old.version)}
    assert {("pool", kept.version), ("pool", recent.version), ("model", model.version)} <= _left(host)
    assert [key for key in _remote(host).sizes("") if old.version in key or key.endswith("/pool1.json")] == []
    assert host("c").find("pool", "pool1") is None
    assert not (b.root / "pool" / old.version).exists()
    assert not list(b.root.rglob(".trash-*"))
    assert (b.root / "pool" / latest.version).is_dir()
    # The machine that made it still has its copy, and can restore it.
    found = a.find("pool", "pool1")
    assert found is not None
    a.touch("pool", "pool1", found.version)
    assert ("pool", old.version) in _left(host)


def test_the_size_is_that_of_the_stored_objects(host: Host) -> None:
    published = publish(host("a"), "pool", "1")
    (stored,) = _decide(host("b")).kept
    assert stored.bytes == sum(_remote(host).sizes("pool/" + published.version).values())


def test_promoted_policies_stay_with_all_their_inputs(host: Host) -> None:
    store = host("a")
    needed = promote(store, 4 * DAY) | promote(store, 3 * DAY)
    for asset in ("pool", "policy_checkpoint", "promotion_candidate"):
        publish(store, asset, "new", age_s=2 * DAY)
    assert not collect(host("b")).removable
    assert needed <= _left(host)


def test_unreadable_promotions_stop_the_deletion(host: Host, tmp_path: Path) -> None:
    store = host("a")
    promote(store, 3 * DAY)
    for content in "12":
        publish(store, "pool", content, age_s=2 * DAY)
    before = _left(host)
    (tmp_path / "damaged").write_text("{")
    ledger = [key for key in _remote(host).sizes("") if key.startswith("promotions")]
    assert ledger
    for key in ledger:
        _remote(host).put(tmp_path / "damaged", key)
    with pytest.raises(ArtifactError, match="not known which policies are promoted"):
        collect(store)
    assert _left(host) == before


def test_a_folder_of_promotions_is_not_an_asset(host: Host, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("{}")
    _remote(host).put(tmp_path / "note", "promotions/000001/note.json")
    newer_than = time.time() + HOUR
    decision = decide(place_of(host("a")).take_stock(newer_than), (), newer_than)
    assert decision == Decision((), ())


@pytest.mark.parametrize(
    ("uri", "steps"), [*((uri, n) for uri in ("memory", "file") for n in range(17)), ("s3", 6)], indirect=["uri"]
)
def test_an_interrupted_deletion_leaves_every_version_complete(
    host: Host, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four objects per version (index entry, manifest, two files), four versions."""
    store = host("a")
    made = _three_models(store)
    assert store.remote is not None
    done, remove = iter(range(steps)), store.remote._files.rm_file

    def breaking(path: str) -> None:
        if next(done, None) is None:
            raise ConnectionError("lost")
        remove(path)

    monkeypatch.setattr(store.remote._files, "rm_file", breaking)
    with suppress(UnreachableError):
        place_of(store).delete(_decide(store))
    monkeypatch.undo()
    left = _left(host)
    for old in made:
        assert ("model", old["model"]) not in left or ("pool", old["pool"]) in left, (
            "no version stays without its inputs"
        )
    collect(host("b"), keep_s=-HOUR)  # what the first deletion left looks old
    assert _left(host) == set(made[2].items())
    keys = _remote(host).sizes("")
    assert all(made[2][key.split("/")[0]] in key or key.endswith("2.json") for key in keys), keys


def test_a_refused_deletion_is_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it counted as done, files would be deleted whose manifest stays."""
    store = host("a")
    _three_models(store)
    before = _left(host)

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("AccessDenied")

    decision = _decide(store)
    assert store.remote is not None
    monkeypatch.setattr(store.remote._files, "rm_file", refused)
    with pytest.raises(
        UnreachableError, match=r"cannot be deleted from \(PermissionError: AccessDenied\); check .* credentials"
    ):
        place_of(store).delete(decision)
    monkeypatch.undo()
    assert _left(host) == before


def _half_upload(host: Host, monkeypatch: pytest.MonkeyPatch) -> str:
    """Interrupt an upload of another machine before its manifest; return its location."""
    put = Remote.put

    def breaking(self: Remote, file: Path, key: str) -> None:
        if key.endswith("manifest.json"):
            with self._explained("written"):
                raise ConnectionError("lost")
        put(self, file, key)

    monkeypatch.setattr(Remote, "put", breaking)
    with pytest.raises(UnreachableError):
        publish(host("other"), "pool", "under way")
    monkeypatch.undo()
    (version,) = {key.split("/")[1] for key in _remote(host).sizes("pool")}
    return f"pool/{version}"


@with_s3
def test_an_upload_in_progress_stays_and_an_abandoned_one_is_deleted(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = _half_upload(host, monkeypatch)
    before = _remote(host).sizes(half)
    assert before
    assert collect(host("a")) == Decision((), ())
    assert _remote(host).sizes(half) == before
    (leftover,) = collect(host("a"), keep_s=-HOUR).leftovers
    assert (leftover.key, leftover.bytes) == (half, sum(before.values()))
    assert _remote(host).sizes("pool") == {}
    other = host("other")
    found = other.find("pool", "poolunder-way")
    assert found is not None
    other.touch("pool", "poolunder-way", found.version)
    assert _left(host) == {("pool", found.version)}


def test_an_upload_resumed_after_the_decision_stays(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    half = _half_upload(host, monkeypatch)
    decision = _decide(host("a"), keep_s=-HOUR)
    assert [one.key for one in decision.leftovers] == [half]
    other = host("other")
    other.touch("pool", "poolunder-way", half.partition("/")[2])
    assert place_of(host("a")).delete(decision).leftovers == ()
    assert _left(host) == {("pool", half.partition("/")[2])}


@with_s3
@pytest.mark.parametrize("fingerprint", ["model0", "other-code"])
def test_versions_that_another_machine_reuses_meanwhile_stay_with_their_inputs(host: Host, fingerprint: str) -> None:
    """Reuse with the same inputs, or by other code that gave the same content."""
    made = _three_models(host("a"))
    decision = _decide(host("a"))
    assert {stored.key for stored in decision.removable} == set(made[0].items()) | set(made[1].items())
    other = host("b")
    other.open("model", made[0]["model"])
    other.touch("model", fingerprint, made[0]["model"])
    deleted = place_of(host("a")).delete(decision)
    assert {stored.key for stored in deleted.versions} == set(made[1].items())
    assert _left(host) == set(made[0].items()) | set(made[2].items())
    assert (host("a").root / "model" / made[0]["model"]).is_dir()


def test_a_new_index_entry_counts_independently_of_its_time(host: Host, tmp_path: Path) -> None:
    made = _three_models(host("a"))
    decision = _decide(host("a"))
    (tmp_path / "entry").write_text(json.dumps({"version": made[0]["pool"], "used_at": 1.0}))
    _remote(host).put(tmp_path / "entry", "pool/by-input/new.json")
    assert {stored.key for stored in place_of(host("a")).delete(decision).versions} == {
        ("model", made[0]["model"]),
        *made[1].items(),
    }


def test_index_files_without_a_version_are_deleted_when_they_are_old(host: Host, tmp_path: Path) -> None:
    published = publish(host("a"), "pool", "1", age_s=DAY)
    for name, text in (
        ("half.json", "{"),
        ("gone.json", '{"version": "0123", "used_at": 1.0}'),
        ("pool1.json.7.tmp", "{"),
    ):
        (tmp_path / name).write_text(text)
        _remote(host).put(tmp_path / name, f"pool/by-input/{name}")
    assert collect(host("b")).leftovers == ()
    assert len(collect(host("b"), keep_s=-HOUR).leftovers) == 3
    assert sorted(_remote(host).names("pool/by-input")) == ["pool1.json"]
    assert _left(host) == {("pool", published.version)}


def test_a_version_with_an_unreadable_manifest_stays(host: Host, tmp_path: Path) -> None:
    broken = publish(host("a"), "table", "1", age_s=3 * DAY)
    publish(host("a"), "table", "2", age_s=2 * DAY)
    (tmp_path / "half").write_text("{")
    _remote(host).put(tmp_path / "half", f"table/{broken.version}/manifest.json")
    decision = collect(host("b"))
    assert decision.unreadable == (("table", broken.version),)
    assert _remote(host).read(f"table/{broken.version}/manifest.json") == b"{"


def test_versions_used_recently_by_this_machine_stay_without_an_upload(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, store = _three_models(host("a")), host("a")

    def down(*_: Any) -> None:
        raise UnreachableError("no network")

    monkeypatch.setattr(Remote, "put", down)
    with suppress(UnreachableError):
        store.touch("model", "model0", made[0]["model"])
    monkeypatch.undo()
    assert {stored.key for stored in collect(store).removable} == set(made[1].items())
    assert set(made[0].items()) <= _left(host)


def test_leftovers_in_the_mirror_are_deleted(host: Host) -> None:
    store = host("a")
    published = publish(store, "pool", "1")
    entry = store.root / "pool" / "by-input" / "elsewhere.json"
    entry.write_text(json.dumps({"version": "0123", "used_at": 1.0}))
    for name, age_s in (("old", 2 * DAY), ("new", 0.0)):
        (store.root / ".work" / f"pool-{name}").mkdir()
        os.utime(store.root / ".work" / f"pool-{name}", (time.time() - age_s,) * 2)
    (store.root / "pool" / ".trash-0123-1").mkdir()
    assert {one.key for one in collect(store).leftovers} == {".work/pool-old", "pool/.trash-0123-1"}
    assert [path.name for path in (store.root / ".work").iterdir() if path.is_dir()] == ["pool-new"]
    assert not (store.root / "pool" / ".trash-0123-1").exists()
    assert entry.is_file(), "it may name a version that is only in the object store"
    assert _left(host) == {("pool", published.version)}


def test_an_unreachable_store_is_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    store = host("a")
    _three_models(store)

    def down(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    assert store.remote is not None
    for names in (["ls", "find"], ["cat_ranges"]):
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(store.remote._files, name, down)
            with pytest.raises(UnreachableError, match=r"no route to host\); check the network"):
                collect(store)
    assert len(_left(host)) == 6


@pytest.mark.parametrize("uri", ["file"], indirect=True)
def test_a_folder_that_cannot_be_listed_is_an_error_and_not_an_empty_one(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its index entries a recently used version looks like an old one."""
    store = host("a")
    _three_models(store)
    assert store.remote is not None
    ls = store.remote._files.ls

    def partly(path: str, *words: Any, **options: Any) -> Any:
        if path.endswith("/model/by-input"):
            raise PermissionError("not yours")
        return ls(path, *words, **options)

    monkeypatch.setattr(store.remote._files, "ls", partly)
    with pytest.raises(UnreachableError, match="not yours"):
        _decide(store)
