"""`drirl gc`: what the command shows, refuses and deletes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import dagster as dg
import pytest
import stub_stages
from filelock import FileLock
from typer.testing import CliRunner, Result

from drirl_core.runs.record import Result as Recorded
from drirl_core.runs.record import Results
from drirl_core.store.artifacts import Artifact, ArtifactStore
from pipeline.cli.main import app
from pipeline.running.run import LOCK_FILE
from pipeline.wiring.resolve import VERSION_TAG

WEEK_S = 7 * 86400.0


@pytest.fixture
def settings(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "160")
    return stub_stages.write_settings(tmp_path)


@pytest.fixture
def pools(settings: Path, tmp_path: Path) -> list[Artifact]:
    """Three versions of the prompt pool, none of them used recently; the last one is the latest."""
    store = ArtifactStore(tmp_path / "artifacts")
    return [_publish(store, str(number), time.time() - WEEK_S + number) for number in range(3)]


def _publish(store: ArtifactStore, content: str, at: float) -> Artifact:
    with store.building("prompt_pool", content) as workspace:
        (workspace.out / "rows").write_text(content * 100_000)
        made = store.publish(
            "prompt_pool", content, workspace, details={"metadata": {}, "inputs": {"source_unsafe": "ab"}}
        )
    (store.root / "prompt_pool" / "by-input" / f"{content}.json").write_text(
        json.dumps({"version": made.version, "used_at": at})
    )
    manifest = made.path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "created_at": at}))
    if store.remote:
        for key in (f"prompt_pool/by-input/{content}.json", f"prompt_pool/{made.version}/manifest.json"):
            store.remote.put(store.root / key, key)
    return made


def _gc(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["gc", *map(str, words)])


def _there(pools: list[Artifact]) -> list[bool]:
    return [pool.path.is_dir() for pool in pools]


def test_without_delete_it_only_shows(settings: Path, pools: list[Artifact]) -> None:
    shown = _gc(settings, "--keep-hours", "12")
    assert shown.exit_code == 0, shown.output
    assert [line.split() for line in shown.output.splitlines() if line.startswith("prompt_pool")] == [
        ["prompt_pool", "1", "2", "0.2"]
    ]
    assert f"To delete: drirl gc {settings} --delete --keep-hours 12" in shown.output
    assert _there(pools) == [True, True, True]


def test_json_lists_what_would_be_and_what_was_deleted(settings: Path, pools: list[Artifact]) -> None:
    shown = json.loads(_gc(settings, "--json").stdout)
    assert shown["deleted"] is None
    assert {row["version"] for row in shown["removable"]} == {pool.version for pool in pools[:2]}
    assert [row["version"] for row in shown["kept"]] == [pools[2].version]
    assert _there(pools) == [True, True, True]
    deleted = json.loads(_gc(settings, "--json", "--delete").stdout)["deleted"]
    assert {row["version"] for row in deleted["versions"]} == {pool.version for pool in pools[:2]}
    assert deleted["bytes"] > 0
    assert _there(pools) == [False, False, True]


def test_named_results_are_kept_until_the_name_is_forgotten(settings: Path, pools: list[Artifact]) -> None:
    results = Results(ArtifactStore(pools[0].path.parents[1]))
    results.record(Recorded("run", "placebo", versions={"prompt_pool": pools[0].version}))
    results.record(Recorded("run", "", versions={"prompt_pool": pools[1].version}))  # without a name
    assert _gc(settings, "--delete").exit_code == 0
    assert _there(pools) == [True, False, True]
    results.forget("placebo")
    assert _gc(settings, "--delete").exit_code == 0
    assert _there(pools) == [False, False, True]


def test_unreadable_names_stop_it(settings: Path, pools: list[Artifact], tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "runs").mkdir()
    (tmp_path / "artifacts" / "runs" / "000001.json").write_text("{")
    refused = _gc(settings, "--delete")
    assert refused.exit_code == 1
    assert "not known which results have a name" in refused.stderr
    assert _there(pools) == [True, True, True]


def test_delete_keeps_the_latest_and_what_dagster_recorded(settings: Path, pools: list[Artifact], home: Path) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.report_runless_asset_event(
            dg.AssetMaterialization("prompt_pool", tags={VERSION_TAG: pools[0].version})
        )
    deleted = _gc(settings, "--delete")
    assert deleted.exit_code == 0, deleted.output
    assert "Deleted 1 versions and 0 leftovers, 0.1 MB." in deleted.output
    assert _there(pools) == [True, False, True]
    assert "0 removable" in _gc(settings).output


def test_versions_used_within_the_hours_are_kept(settings: Path, pools: list[Artifact]) -> None:
    assert _gc(settings, "--delete", "--keep-hours", "200").exit_code == 0
    assert _there(pools) == [True, True, True]


def test_it_deletes_nothing_during_a_run_or_a_build(
    settings: Path, pools: list[Artifact], home: Path, tmp_path: Path
) -> None:
    with FileLock(home / LOCK_FILE):
        refused = _gc(settings, "--delete")
    assert refused.exit_code == 1
    assert "a run is in progress in" in refused.stderr
    with FileLock(tmp_path / "artifacts" / ".work" / "report-abcd.lock"):
        refused = _gc(settings, "--delete")
    assert refused.exit_code == 1
    assert "report-abcd" in refused.stderr
    assert "is being built" in refused.stderr
    assert _there(pools) == [True, True, True]


def test_unreadable_promotions_stop_it(settings: Path, pools: list[Artifact], tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "promotions").mkdir()
    for name in ("promotions.json", "promotions/000001.json"):
        (tmp_path / "artifacts" / name).write_text("{")
    for words in ((), ("--delete",)):
        refused = _gc(settings, *words)
        assert refused.exit_code == 1
        assert "not known which policies are promoted" in refused.stderr
    assert _there(pools) == [True, True, True]


def test_at_a_uri_it_deletes_there_and_the_copies_here(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    uri = f"file://{tmp_path}/shared"
    settings = stub_stages.write_settings(tmp_path, root=uri, mirror=str(tmp_path / "mirror"))
    store = ArtifactStore(uri, tmp_path / "mirror")
    pools = [_publish(store, str(number), time.time() - WEEK_S + number) for number in range(3)]
    shown = _gc(settings)
    assert shown.exit_code == 0, shown.output
    assert f"{uri}: 1 versions kept (0.1 MB), 2 removable (0.2 MB), 0 leftovers" in shown.output
    assert f"To delete: drirl gc {settings} --delete --keep-hours 24" in shown.output
    assert _there(pools) == [True, True, True]
    with FileLock(store.root / ".work" / "report-abcd.lock"):
        assert "is being built" in _gc(settings, "--delete").stderr
    deleted = _gc(settings, "--delete")
    assert deleted.exit_code == 0, deleted.output
    assert "Deleted 2 versions and 0 leftovers, 0.2 MB." in deleted.output
    assert _there(pools) == [False, False, True]
    assert sorted(path.name for path in (tmp_path / "shared" / "prompt_pool").iterdir()) == sorted(
        ["by-input", pools[2].version]
    )
    assert "0 removable" in _gc(settings).output


def test_a_store_that_cannot_be_reached_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").write_text("no directory")
    refused = _gc(
        stub_stages.write_settings(tmp_path, root=f"file://{tmp_path}/shared", mirror=str(tmp_path / "mirror"))
    )
    assert refused.exit_code == 1
    assert f"file://{tmp_path}/shared cannot be listed" in refused.stderr
