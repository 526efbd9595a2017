"""The sensor of the drop folder: what it observes, tells and raises, and what automation makes of it."""

import dataclasses

import dagster as dg
import pytest
import stub_stages
from filelock import FileLock

from drirl_core.graph.versions import source_version
from drirl_core.project import Project
from drirl_core.prompts import inbox
from pipeline.instance.settings import load
from pipeline.wiring.factories import group_assets
from pipeline.wiring.ingest import inbox_sensor
from pipeline.wiring.resolve import VERSION_TAG, observed_version

GOOD = "prompt,category\nMock the baker in four rude lines.,insult\n"


class Inbox:
    """A drop folder, its sensor on an instance, and the alerts it raised."""

    def __init__(self, instance, folder):
        self.instance, self.drop, self.alerts, self.cursor = instance, folder / "drop", [], None
        self.drop.mkdir()
        settings = {"inbox": {"folder": "drop", "settle_s": 0.0}, "alerts": {"hooks": []}}
        self.project = load(stub_stages.write_settings(folder, operations=settings))
        self.sensor = inbox_sensor(self.project, [self.alerts.append])

    def put(self, name, text):
        (self.drop / name).write_text(text)

    def tick(self):
        """Evaluate the sensor once and keep what the daemon would keep."""
        data = self.sensor.evaluate_tick(dg.build_sensor_context(instance=self.instance, cursor=self.cursor))
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        self.cursor = data.cursor
        assert not data.run_requests
        return data

    @property
    def version(self):
        return source_version(self.project.graph.sources["source_inbox"])


@pytest.fixture
def dropbox(instance, tmp_path):
    return Inbox(instance, tmp_path)


def test_an_accepted_file_is_observed_once_and_no_run_is_asked_for(dropbox):
    dropbox.tick()
    empty = observed_version(dropbox.instance, "source_inbox")
    dropbox.put("a.csv", GOOD)
    data = dropbox.tick()
    (event,) = data.asset_events

    assert event.asset_key == dg.AssetKey("source_inbox")
    assert event.tags == {VERSION_TAG: dropbox.version}
    assert dropbox.version != empty
    assert event.metadata["files"].value == 1
    assert event.metadata["accepted"].value == "a.csv"
    assert data.skip_message == "1 accepted (a.csv)"
    assert dropbox.tick().asset_events == []
    assert dropbox.tick().skip_message == "nothing was dropped"
    assert dropbox.alerts == []


def test_a_rejected_file_raises_one_alert_and_changes_nothing(dropbox):
    dropbox.tick()
    dropbox.put("b.csv", "text\nMock the baker\n")
    dropbox.put("c.xlsx", "PK")
    data = dropbox.tick()

    assert data.asset_events == []
    assert data.skip_message == "2 rejected (b.csv, c.xlsx)"
    assert [alert.title for alert in dropbox.alerts] == [
        f"the dropped file {name} was not taken in" for name in ("b.csv", "c.xlsx")
    ]
    assert {alert.kind for alert in dropbox.alerts} == {"file_rejected"}
    assert "has no column 'prompt'" in dropbox.alerts[0].text
    assert dropbox.alerts[0].facts["stored"].startswith("rejected/")
    dropbox.tick()
    assert len(dropbox.alerts) == 2


def test_what_was_taken_in_without_the_sensor_is_observed_by_the_next_tick(dropbox):
    """By `drirl ingest`, by a hand, or by a tick that died between the move and the observation."""
    dropbox.tick()
    dropbox.put("a.csv", GOOD)
    assert len(inbox.sweep(dropbox.project).accepted) == 1
    assert [event.tags[VERSION_TAG] for event in dropbox.tick().asset_events] == [dropbox.version]

    next((dropbox.drop / "accepted").iterdir()).unlink()
    assert [event.tags[VERSION_TAG] for event in dropbox.tick().asset_events] == [dropbox.version]
    dropbox.cursor = None
    assert dropbox.tick().asset_events == []


def test_the_content_is_hashed_only_when_the_folder_changed(dropbox, monkeypatch):
    dropbox.tick()
    dropbox.put("a.csv", GOOD)
    dropbox.tick()
    monkeypatch.setattr("pipeline.wiring.ingest.source_version", lambda path: pytest.fail("hashed for nothing"))

    assert dropbox.tick().asset_events == []


def test_a_sweep_that_is_going_on_elsewhere_is_waited_for(dropbox):
    dropbox.tick()
    before = dropbox.cursor
    dropbox.put("a.csv", GOOD)
    with FileLock(dropbox.drop / inbox.LOCK_FILE):
        assert "another process is sweeping" in dropbox.tick().skip_message
    assert dropbox.cursor == before
    assert len(dropbox.tick().asset_events) == 1


def test_files_being_written_are_named_and_left_alone(dropbox, tmp_path):
    config = dataclasses.replace(
        dropbox.project.config,
        operations=dataclasses.replace(
            dropbox.project.config.operations,
            inbox=dataclasses.replace(dropbox.project.config.operations.inbox, settle_s=60.0),
        ),
    )
    dropbox.sensor = inbox_sensor(Project(config))
    dropbox.put("a.csv", GOOD)

    assert dropbox.tick().skip_message == "1 waiting (a.csv)"
    assert (dropbox.drop / "a.csv").exists()


def test_a_failing_hook_does_not_keep_a_file_from_being_observed(dropbox):
    def broken(alert):
        raise RuntimeError("no")

    dropbox.sensor = inbox_sensor(dropbox.project, [broken])
    dropbox.put("a.csv", GOOD)
    dropbox.put("b.csv", "")

    assert len(dropbox.tick().asset_events) == 1


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_automation_makes_the_pool_anew_after_a_drop_and_only_then(stubbed, dropbox):
    defs = dg.Definitions(assets=group_assets("prompts", dropbox.project))
    job = defs.resolve_implicit_global_asset_job_def()
    cursor = None

    def asked():
        nonlocal cursor
        result = dg.evaluate_automation_conditions(defs, dropbox.instance, cursor=cursor)
        cursor = result.cursor
        return {s.key.to_user_string() for s in result.results if not s.true_subset.is_empty}

    dropbox.tick()
    sources = [dg.AssetKey(name) for name in dropbox.project.graph.nodes["prompt_pool"].inputs]
    assert job.execute_in_process(instance=dropbox.instance, asset_selection=sources).success
    assert job.execute_in_process(instance=dropbox.instance, asset_selection=[dg.AssetKey("prompt_pool")]).success
    assert [asked(), asked()] == [set(), set()]
    dropbox.put("bad.csv", "text\nx\n")
    dropbox.tick()
    assert asked() == set()
    dropbox.put("a.csv", GOOD)
    dropbox.tick()
    assert asked() == {"prompt_pool"}


def test_the_source_can_be_observed_before_anything_was_swept(dropbox):
    job = dg.Definitions(assets=group_assets("prompts", dropbox.project)).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=dropbox.instance, asset_selection=[dg.AssetKey("source_inbox")])
    (event,) = result.get_asset_observation_events()

    assert event.asset_observation_data.asset_observation.metadata["bytes"].value == 0
    assert dropbox.tick().asset_events == []  # it is the version that is recorded already
