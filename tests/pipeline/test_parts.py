"""Small parts: message lines, display, home, owner of a run, health check of the launcher."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from drirl_core.checks.verdicts import Rule, Verdict
from drirl_core.errors import ConfigError
from drirl_core.reporting import Plot, Table
from drirl_core.store.artifacts import ArtifactStore
from pipeline.instance import home as home_module
from pipeline.instance.home import chosen_home, prepare_home
from pipeline.running.launcher import HealthCheckedLauncher
from pipeline.running.messages import LineReader
from pipeline.running.origin import LOCATION, MODULE
from pipeline.running.owner import OWNER_TAG, owner_is_gone, owner_tag
from pipeline.wiring.display import check_metadata, finite, markdown_table, pipes_metadata


class Handler:
    """Collects what the reader passes on."""

    def __init__(self):
        self.messages, self.errors = [], []

    def handle_message(self, message):
        if message == "refuse":
            raise ValueError("no")
        self.messages.append(message)

    def report_pipes_framework_exception(self, origin, exc_info):
        self.errors.append(exc_info[1])


def test_a_line_that_is_still_being_written_is_waited_for():
    handler = Handler()
    with LineReader().read_messages(handler) as params, open(params["path"], "a") as file:
        text = json.dumps({"picture": "x" * 50_000})
        for part in (text[:10], text[10:30_000], text[30_000:] + "\n", '"next"\n'):
            file.write(part)
            file.flush()
            time.sleep(0.25)

    assert handler.messages == [json.loads(text), "next"]
    assert handler.errors == []


def test_a_bad_message_does_not_stop_the_next_one():
    handler = Handler()
    with LineReader().read_messages(handler) as params, open(params["path"], "a") as file:
        file.write('not json\n"refuse"\n"good"\n')

    assert handler.messages == ["good"]
    assert len(handler.errors) == 2


def _artifact(tmp_path, files):
    store = ArtifactStore(tmp_path)
    with store.building("asset", "f") as workspace:
        for name, data in files.items():
            (workspace.out / name).write_bytes(data)
        return store.publish("asset", "f", workspace, details={"metadata": {"loss": 0.25, "rows": 3}})


def test_values_are_typed_so_that_numbers_are_plotted(tmp_path):
    artifact = _artifact(tmp_path, {"a.txt": b"a"})
    shown = {"loss": 0.5, "rows": 2, "ok": True, "bad": float("nan"), "name": "x", "parts": {"a": 1}}
    metadata = pipes_metadata("report", artifact, shown, reused=False)

    assert {name: metadata[name]["type"] for name in shown} == {
        "loss": "float", "rows": "int", "ok": "bool", "bad": "text", "name": "text", "parts": "json",
    }  # fmt: skip
    assert metadata["bad"]["raw_value"] == "nan"
    assert metadata["version"]["raw_value"] == artifact.version


def test_a_reused_artifact_shows_its_stored_numbers_and_pictures(tmp_path):
    artifact = _artifact(tmp_path, {"loss_curve.png": b"png"})
    metadata = pipes_metadata("report", artifact, {}, reused=True)

    assert metadata["loss"] == {"type": "float", "raw_value": 0.25}
    assert metadata["loss_curve"]["raw_value"] == "![loss curve](data:image/png;base64,cG5n)\n\nloss curve"


def test_key_figures_pictures_and_tables_come_before_the_raw_numbers(tmp_path):
    """Dagster keeps the order and shows Markdown of fewer than 1000 characters at once."""
    artifact = _artifact(tmp_path, {"curves.png": b"png"})
    shown = {
        "first_reward": 0.5, "last_reward": 1.23456, "kl": 0.0815, "entropy": 2.0, "rows": Table([{"a": 1}]),
        "curves": Plot(artifact.path / "curves.png", "Curves"),
    }  # fmt: skip
    metadata = pipes_metadata("report", artifact, shown, reused=False)

    assert list(metadata) == [
        "key figures", "curves", "rows", "version", "path", "reused", "first_reward", "last_reward", "kl", "entropy",
    ]  # fmt: skip
    figures = metadata["key figures"]
    assert figures["type"] == "md"
    assert len(figures["raw_value"]) < 1000
    assert "| **1.23** | mean reward in the last fifth of the steps |" in figures["raw_value"].splitlines()
    assert metadata["last_reward"] == {"type": "float", "raw_value": 1.23456}


def test_a_reused_artifact_shows_pictures_under_the_names_and_captions_of_its_stage(tmp_path):
    """A picture file called like a number, which earlier manifests do not list, does not hide the number."""
    store = ArtifactStore(tmp_path)
    with store.building("asset", "f") as workspace:
        (workspace.out / "accuracy.png").write_bytes(b"png")
        details = {"metadata": {"accuracy": 0.9}, "plots": {"accuracy_plot": ["accuracy.png", "Pairs won"]}}
        listed = store.publish("asset", "f", workspace, details=details)
    metadata = pipes_metadata("report", listed, {}, reused=True)
    assert metadata["accuracy"]["raw_value"] == 0.9
    assert metadata["accuracy_plot"]["raw_value"].endswith("Pairs won")

    with store.building("other", "f") as workspace:
        (workspace.out / "accuracy.png").write_bytes(b"png")
        older = store.publish("other", "f", workspace, details={"metadata": {"accuracy": 0.9}})
    metadata = pipes_metadata("report", older, {}, reused=True)
    assert metadata["accuracy"]["raw_value"] == 0.9
    assert metadata["accuracy_picture"]["type"] == "md"


def test_of_a_check_only_what_it_measures_is_a_number():
    """Numbers are plotted over time; a bound or a count that is always 0 would be one straight line."""
    rule = Rule("r", "", lambda *_: None, bounds=("checks.max_kl",), measures=("kl", "refusal"))
    found = {"max_kl": 0.0012345, "kl": 0.5, "not_finite": 0, "suite/refusal": 0.9, "share": 0.123456, "why": "x"}

    assert check_metadata(rule, Verdict(True, "", found)) == {
        "kl": 0.5, "suite/refusal": 0.9, "max_kl": "0.0012345", "not_finite": "0", "share": "0.123", "why": "x",
    }  # fmt: skip
    assert check_metadata(rule, Verdict(True, "", {"kl": float("nan")})) == {"kl": "nan"}


def test_a_picture_that_is_too_large_or_gone_is_named_instead(tmp_path):
    artifact = _artifact(tmp_path, {"big.png": bytes(2_000_000)})
    shown = {"big": Plot(artifact.path / "big.png", "Big"), "gone": Plot(artifact.path / "gone.png", "Gone")}
    metadata = pipes_metadata("report", artifact, shown, reused=False)

    assert metadata["big"]["raw_value"].startswith("Big: see ")
    assert metadata["gone"]["raw_value"].endswith("cannot be read")


def test_tables_become_markdown_with_every_column(tmp_path):
    """0.123456 to four digits is 0.1235; a bar would end the cell, a line feed the row."""
    assert markdown_table([{"a": 0.123456, "b": "x|y"}, {"c": "two\nlines"}]) == (
        "| a | b | c |\n| --- | --- | --- |\n| 0.1235 | x\\|y |  |\n|  |  | two lines |"
    )
    assert markdown_table(Table([]).rows) == "(no rows)"


@given(
    st.lists(
        st.dictionaries(st.text(max_size=4), st.one_of(st.text(), st.floats(), st.integers()), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_any_table_keeps_its_shape(rows):
    columns = {key for row in rows for key in row}
    lines = markdown_table(rows).split("\n")

    assert len(lines) == len(rows) + 2
    assert all(line.replace("\\|", "").count("|") == len(columns) + 1 for line in lines)


@given(st.floats())
def test_no_number_reaches_dagster_that_it_cannot_plot(value):
    assert isinstance(finite(value), str) or finite(value) - finite(value) == 0


def test_the_projects_home_follows_its_settings_file(tmp_path):
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    home = prepare_home(tmp_path)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: true}\n")

    assert home == tmp_path / ".drirl" / "dagster_home"
    assert prepare_home(tmp_path) == home
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: true}\n"
    assert [file.name for file in home.iterdir()] == ["dagster.yaml"]


def test_a_home_chosen_by_the_user_must_be_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "own"))
    assert chosen_home() == tmp_path / "own"
    monkeypatch.setenv("DAGSTER_HOME", "own")
    with pytest.raises(ConfigError, match="DAGSTER_HOME is 'own', but must be an absolute path"):
        chosen_home()
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.setattr(home_module, "ROOT", tmp_path)
    (tmp_path / "dagster.yaml").write_text("{}\n")
    assert chosen_home() == tmp_path / ".drirl" / "dagster_home"


def test_a_home_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "dagster.yaml").write_text("{}\n")
    (tmp_path / ".drirl").write_text("a file")

    with pytest.raises(ConfigError, match="cannot be set up"):
        prepare_home(tmp_path)


def test_the_owner_of_a_run_is_gone_only_when_that_is_certain():
    """Alive; dead; the same process id with another start time; another host, of which nothing is known."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = json.loads(owner_tag())

    assert not owner_is_gone(json.dumps(mine))
    assert owner_is_gone(json.dumps({**mine, "pid": ended.pid}))
    assert owner_is_gone(json.dumps({**mine, "started": "1"}))
    assert not owner_is_gone(json.dumps({**mine, "pid": ended.pid, "host": "elsewhere"}))
    assert not owner_is_gone(None)


def _health(**tags: str) -> str:
    run = dg.DagsterRun(
        job_name="job", run_id="r", tags={name.replace("__", "/"): value for name, value in tags.items()}
    )
    return HealthCheckedLauncher().check_run_worker_health(run).status.value


def test_the_launcher_notices_a_dead_code_server(tmp_path):
    path = tmp_path / "socket"
    tag = json.dumps({"host": "localhost", "socket": str(path)})
    assert _health(**{".dagster__grpc_info": tag}) == "FAILED"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert _health(**{".dagster__grpc_info": tag}) == "RUNNING"
    assert _health(**{".dagster__grpc_info": tag}) == "FAILED"  # the file is there, nobody listens


def test_the_launcher_does_not_touch_runs_it_knows_nothing_about():
    assert _health() == "RUNNING"
    assert _health(**{".dagster__grpc_info": json.dumps({"host": "pod", "port": 4000})}) == "RUNNING"


def test_the_launcher_notices_a_dead_command_line_run():
    dead = json.dumps({**json.loads(owner_tag()), "started": "1"})

    assert _health(**{OWNER_TAG.replace("/", "__"): owner_tag()}) == "RUNNING"
    assert _health(**{OWNER_TAG.replace("/", "__"): dead}) == "FAILED"


def test_a_run_that_took_over_the_tags_of_a_dead_one_counts_as_running():
    """Started again from the web page, it has the tags of the first run and another process."""
    dead = {**json.loads(owner_tag()), "started": "1"}

    assert _health(drirl__owner=json.dumps({**dead, "run": "r"})) == "FAILED"  # _health's own run is called r
    assert _health(drirl__owner=json.dumps({**dead, "run": "another"})) == "RUNNING"


def test_the_committed_instance_settings_load_with_the_launcher(home):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert type(instance.run_launcher).__name__ == "HealthCheckedLauncher"
        assert instance.run_launcher.supports_check_run_worker_health
        assert instance.run_monitoring_enabled
        assert instance.telemetry_enabled is False
        assert instance.nux_enabled is False


def test_the_workspace_names_the_code_location_as_pyproject_does():
    import tomllib

    import yaml

    entry = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text()).get("tool", {}).get("dg", {}).get("project", {})

    assert (entry["location_name"], entry["module_name"]) == (LOCATION, MODULE) == ("drirl", "pipeline.definitions")
    assert entry["location_name"] == project.get("code_location_name", entry["location_name"])


def test_reading_messages_leaves_no_thread_and_no_file():
    before = threading.active_count()
    with LineReader().read_messages(Handler()) as params:
        folder = os.path.dirname(params["path"])

    assert threading.active_count() == before
    assert not os.path.exists(folder)
