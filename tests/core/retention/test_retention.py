"""Retention: inputs of kept versions stay, and every remaining version is complete at any moment."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aged_store import DAY, HOUR, collect, promote, publish
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drirl_core.errors import ArtifactError
from drirl_core.promotion import Ledger
from drirl_core.retention import Decision, Directory, Key, Stock, Stored, decide, promoted
from drirl_core.store.artifacts import Artifact, ArtifactStore


def _left(store: ArtifactStore) -> set[Key]:
    """Return every version, after verifying that each is complete to the bit."""
    found = {(p.parent.name, p.name) for p in store.root.glob("[!.]*/[!.]*") if p.is_dir() and p.name != "by-input"}
    for asset, version in found:
        store.verify(store.open(asset, version))
    return found


def test_old_versions_are_deleted_and_inputs_of_the_latest_stay(store: ArtifactStore) -> None:
    old_pool = publish(store, "pool", "1", age_s=3 * DAY)
    old_model = publish(store, "model", "1", {"pool": old_pool.version}, age_s=3 * DAY)
    kept_pool = publish(store, "pool", "2", {"source_x": "abc"}, age_s=2 * DAY)
    publish(store, "model", "2", {"pool": kept_pool.version}, age_s=2 * DAY)
    newest_pool = publish(store, "pool", "3", age_s=DAY)
    decision = collect(store)
    assert {(s.asset, s.version) for s in decision.removable} == {
        ("pool", old_pool.version),
        ("model", old_model.version),
    }
    assert all(s.bytes > 0 for s in decision.removable)
    assert _left(store) == {(s.asset, s.version) for s in decision.kept}
    assert {("pool", kept_pool.version), ("pool", newest_pool.version)} <= _left(store)
    assert store.find("pool", "pool1") is None
    assert decision.missing == ()
    assert not list(store.root.rglob(".trash-*"))
    assert sorted(p.name for p in (store.root / "pool" / "by-input").iterdir()) == ["pool2.json", "pool3.json"]


def test_recently_reused_versions_stay_with_their_inputs(store: ArtifactStore) -> None:
    pool = publish(store, "pool", "1", age_s=3 * DAY)
    model = publish(store, "model", "1", {"pool": pool.version}, age_s=3 * DAY)
    for asset in ("pool", "model"):
        publish(store, asset, "2", age_s=2 * DAY)
    store.touch("model", "model1", model.version)
    publish(store, "model", "3")
    collect(store)
    assert {("pool", pool.version), ("model", model.version)} <= _left(store)


def test_promoted_policies_stay_with_all_their_inputs(store: ArtifactStore) -> None:
    needed = promote(store, 4 * DAY) | promote(store, 3 * DAY)
    for asset in ("pool", "policy_checkpoint", "promotion_candidate"):
        publish(store, asset, "new", age_s=2 * DAY)
    assert not collect(store).removable
    for path in store.root.glob("promotions*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert {stored.key for stored in collect(store).removable} == needed


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_unreadable_promotions_stop_the_deletion(store: ArtifactStore, text: str) -> None:
    promote(store, 3 * DAY)
    for content in "12":
        publish(store, "pool", content, age_s=2 * DAY)
    before = _left(store)
    for file in [p for place in store.root.glob("promotions*") for p in (place, *place.rglob("*")) if p.is_file()]:
        file.write_text(text)
    with pytest.raises(
        ArtifactError, match=r"nothing is deleted, because it is not known which policies are promoted: .*promotions"
    ):
        collect(store)
    assert _left(store) == before


@pytest.mark.parametrize("version", [3, "", None])
def test_promotions_that_name_no_version_stop_the_deletion(store: ArtifactStore, version: object) -> None:
    promote(store, 3 * DAY)
    policy = Ledger(store).history()[0].policy
    for file in [p for place in store.root.glob("promotions*") for p in (place, *place.rglob("*")) if p.is_file()]:
        file.write_text(file.read_text().replace(json.dumps(policy), json.dumps(version)))
    with pytest.raises(ArtifactError, match="not known which policies are promoted"):
        promoted(store)


def test_the_folder_of_promotions_is_not_an_asset(store: ArtifactStore) -> None:
    (store.root / "promotions" / "000001").mkdir(parents=True)
    assert collect(store) == Decision((), ())
    assert (store.root / "promotions" / "000001").is_dir()


def test_missing_inputs_are_reported_and_unreadable_manifests_keep_their_artifact(store: ArtifactStore) -> None:
    model = publish(store, "model", "1", {"pool": "0123456789abcdef", "source_x": "f"}, age_s=3 * DAY)
    broken = publish(store, "table", "1", age_s=3 * DAY)
    publish(store, "table", "2", age_s=2 * DAY)
    (broken.path / "manifest.json").write_text("{")
    decision = collect(store)
    assert decision.missing == (("pool", "0123456789abcdef"),)
    assert decision.unreadable == (("table", broken.version),)
    assert broken.path.is_dir()
    assert model.path.is_dir()


def test_leftovers_are_deleted_and_work_that_may_be_resumed_stays(store: ArtifactStore) -> None:
    published = publish(store, "table", "1")
    folder, work = store.root / "table", store.root / ".work"
    for name in (".trash-a-1", ".damaged-b-2"):
        (folder / name).mkdir()
        (folder / name / "rows").write_text("x")
    (folder / "by-input" / "aaaa.77.tmp").write_text("half")
    (folder / "by-input" / "gone.json").write_text(json.dumps({"version": "0123", "used_at": time.time()}))
    (folder / "by-input" / "half.json").write_text("{")
    for name, age_s in (("table-old", 2 * DAY), ("table-new", 0.0)):
        (work / name / "scratch").mkdir(parents=True)
        (work / name / "scratch" / "checkpoint").write_text("x")
        for path in (work / name / "scratch" / "checkpoint", work / name / "scratch", work / name):
            os.utime(path, (time.time() - age_s,) * 2)
    decision = collect(store)
    names = [".damaged-b-2", ".trash-a-1", "aaaa.77.tmp", "gone.json", "half.json", "table-old"]
    assert sorted(Path(one.key).name for one in decision.leftovers) == names
    assert not any((store.root / one.key).exists() for one in decision.leftovers)
    assert (work / "table-new" / "scratch" / "checkpoint").is_file()
    assert _left(store) == {("table", published.version)}


def test_nothing_is_deleted_while_something_is_built(store: ArtifactStore) -> None:
    for content in "12":
        publish(store, "pool", content, age_s=3 * DAY)
    with (
        FileLock(store.root / ".work" / "policy-abcd.lock"),
        pytest.raises(ArtifactError, match=r"policy-abcd under .* is being built"),
    ):
        collect(store)
    assert len(_left(store)) == 2
    collect(store)
    assert len(_left(store)) == 1


def test_an_empty_store_has_nothing_to_delete(tmp_path: Path) -> None:
    assert collect(ArtifactStore(tmp_path / "nowhere")) == Decision((), ())


@st.composite
def _stores(draw: Callable[..., Any]) -> tuple[list[tuple[str, float, list[int]]], list[int]]:
    """Draw artifacts as (asset, age in hours, inputs among earlier ones), and which of them are roots."""
    count = draw(st.integers(1, 9))
    rows = [
        (
            draw(st.sampled_from("abc")),
            draw(st.sampled_from([0.0, 0.5, 30.0, 40.0])),
            draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)) if number else [],
        )
        for number in range(count)
    ]
    return rows, draw(st.lists(st.integers(0, count - 1), max_size=2, unique=True))


def _ancestors(number: int, rows: list[tuple[str, float, list[int]]]) -> set[int]:
    return {number}.union(*(_ancestors(made_from, rows) for made_from in rows[number][2]))


@given(_stores())
def test_exactly_the_unneeded_versions_are_deleted(drawn: tuple[list[tuple[str, float, list[int]]], list[int]]) -> None:
    """Compare with a reference that walks the graph from every root."""
    rows, roots = drawn
    keys = [(asset, f"v{number}") for number, (asset, _, _) in enumerate(rows)]
    # A manifest has one input per asset; the last one counts.
    inputs = [{keys[i][0]: keys[i][1] for i in made_from} for _, _, made_from in rows]
    rows = [(asset, age, [int(v[1:]) for v in inputs[n].values()]) for n, (asset, age, _) in enumerate(rows)]
    stored = {
        key: Stored(*key, 1, -age, inputs[n]) for n, (key, (_, age, _)) in enumerate(zip(keys, rows, strict=True))
    }
    latest = {
        asset: max((-age, f"v{n}") for n, (other, age, _) in enumerate(rows) if other == asset)[1]
        for asset, _, _ in rows
    }
    decision = decide(Stock(stored, latest), {keys[n] for n in roots}, -24.0)
    needed = {n for n, (asset, age, _) in enumerate(rows) if n in roots or age <= 24 or latest[asset] == f"v{n}"}
    expected = {keys[n] for start in needed for n in _ancestors(start, rows)}
    assert {(s.asset, s.version) for s in decision.kept} == expected
    assert {(s.asset, s.version) for s in decision.removable} == set(keys) - expected
    assert decision.missing == ()
    place = {stored.key: number for number, stored in enumerate(decision.removable)}
    for stored in decision.removable:
        assert all(place.get(made, len(place)) > place[stored.key] for made in (stored.inputs or {}).items())


class _Killed(BaseException):
    """Stand for a kill of the process."""


@contextmanager
def _killed_at(call: int) -> Iterator[None]:
    """Stop at the given call that changes a directory."""
    count = 0
    names = ("unlink", "rename", "rmdir")
    real = {name: getattr(os, name) for name in names}

    def counting(name: str) -> Callable[..., Any]:
        def act(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > call:
                raise _Killed
            return real[name](*args, **kwargs)

        return act

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, counting(name))
        yield


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(_stores(), st.integers(0, 30))
def test_a_kill_at_any_moment_leaves_every_artifact_complete(
    drawn: tuple[list[tuple[str, float, list[int]]], list[int]], call: int
) -> None:
    rows, roots = drawn
    folder = Path(tempfile.mkdtemp())
    try:
        store = ArtifactStore(folder)
        made: list[Artifact] = []
        for number, (asset, age, inputs) in enumerate(rows):
            upstream = {made[i].asset: made[i].version for i in inputs}
            made.append(publish(store, asset, f"{number}", upstream, age * HOUR))
        wanted = {(made[n].asset, made[n].version) for n in roots}
        newer_than = time.time() - 24 * HOUR
        decision = decide(Directory(folder).take_stock(newer_than), wanted, newer_than)
        kept = {(s.asset, s.version) for s in decision.kept}
        with _killed_at(call), suppress(_Killed):
            Directory(folder).delete(decision)
        assert kept <= _left(store)
        second = collect(store, wanted, 24 * HOUR)
        assert _left(store) == kept == {(s.asset, s.version) for s in second.kept}
        assert not list(folder.rglob(".trash-*"))
    finally:
        shutil.rmtree(folder)
