"""A root that other machines share, through Dagster and its worker processes."""

import shutil

import pytest
import stub_stages

from drirl_core.errors import ArtifactError
from drirl_core.graph.plan import plan
from pipeline.cli import doctor_checks as checks
from pipeline.instance.settings import load
from pipeline.running.run import run_pipeline


@pytest.mark.slow  # several runs, each of which starts worker processes
def test_another_machine_reuses_what_one_machine_built(stubbed, home, empty_home, tmp_path, monkeypatch):
    root = f"file://{tmp_path}/shared"
    settings = stub_stages.write_settings(tmp_path, root=root, mirror=str(tmp_path / "a"))
    here, there = load(settings), load(settings, {"mirror": str(tmp_path / "b")})
    outcome = run_pipeline(here, select=["balance_report"], on_event=lambda _: None)
    assert outcome.success, outcome.failures
    assert len(outcome.built) == len(outcome.plan.assets)
    versions = {name: asset.version for name, asset in plan(here, ["balance_report"]).assets.items()}

    assert plan(there, ["balance_report"]).up_to_date, "planning reads the shared root"
    assert not list(there.store.root.glob("*/*/manifest.json")), "and copies nothing"
    other_home = tmp_path / "other_home"
    shutil.copytree(empty_home, other_home)
    monkeypatch.setenv("DAGSTER_HOME", str(other_home))
    found = run_pipeline(there, select=["balance_report"], on_event=lambda _: None)
    assert found.success, found.failures
    assert not found.built
    assert sorted(found.reused) == sorted(versions)
    assert {name: asset.version for name, asset in found.plan.assets.items()} == versions
    for name, version in versions.items():
        store = there.store
        store.verify(store.open(name, version))


def test_a_root_that_cannot_be_used_stops_the_run_before_it_starts(stubbed, home, tmp_path):
    (tmp_path / "shared").write_text("a file where the directory should be")
    project = load(stub_stages.write_settings(tmp_path, root=f"file://{tmp_path}/shared", mirror=str(tmp_path / "a")))
    with pytest.raises(ArtifactError, match=r"shared cannot be listed \(NotADirectoryError"):
        run_pipeline(project, on_event=lambda _: None)


def test_a_uri_stays_as_it_is_and_the_mirror_is_anchored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project = load(stub_stages.write_settings(tmp_path, root="memory://somewhere"))
    assert project.config.root == "memory://somewhere"
    assert project.config.mirror.endswith("/.drirl/mirror")
    assert not project.config.mirror.startswith(str(tmp_path))


def test_doctor_looks_at_the_store_and_at_the_disk_of_the_mirror(tmp_path):
    works = load(stub_stages.write_settings(tmp_path, root=f"file://{tmp_path}/shared", mirror=str(tmp_path / "a")))
    assert checks.check_object_store(works).status == "ok"
    assert str(tmp_path / "a") in checks.check_disk(works.config).detail
    (tmp_path / "taken").write_text("")
    broken = load(stub_stages.write_settings(tmp_path, root=f"file://{tmp_path}/taken"))
    found = checks.check_object_store(broken)
    assert found.status == "fail"
    assert "taken cannot be written" in found.detail
