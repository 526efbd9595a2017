"""`dg` and `dagster` keep their history in the project's home, or the user is warned."""

import logging
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from drirl_core.errors import ConfigError
from pipeline import definitions
from pipeline.cli.main import app
from pipeline.instance import settings
from pipeline.instance.env_file import lost_history, name_home
from pipeline.instance.home import prepare_home


@pytest.fixture
def project(tmp_path):
    """The directory of a project, whose name contains a space and a character with a meaning in such files."""
    folder = tmp_path / "my #1 project"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return folder


def _home_of_dagster(project, **variables: str) -> str:
    """Return the home that Dagster itself uses in a directory."""
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "instance", "info"],
        cwd=project,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return next(line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("$DAGSTER_HOME"))


@pytest.mark.long
def test_dagster_finds_the_home_unless_another_is_exported(project, tmp_path):
    home = prepare_home(project)
    assert name_home(project, home)
    (tmp_path / "other").mkdir()

    assert _home_of_dagster(project) == str(home)
    assert _home_of_dagster(project, DAGSTER_HOME=str(tmp_path / "other")) == str(tmp_path / "other")


@pytest.mark.parametrize("before", ["", "TOKEN=1\n", "TOKEN=1", "# DAGSTER_HOME=/a\n"])
def test_the_content_of_the_file_is_kept(project, before):
    (project / ".env").write_text(before)

    assert name_home(project, project / "home")
    added = f'DAGSTER_HOME="${{DAGSTER_HOME:-{project}/home}}"'
    assert (project / ".env").read_text().splitlines() == [*before.splitlines(), added]


@pytest.mark.parametrize("line", ["DAGSTER_HOME=/a", "export DAGSTER_HOME=/a", "  DAGSTER_HOME = /a"])
def test_a_home_chosen_by_the_user_is_not_changed(project, line):
    (project / ".env").write_text(line)

    assert not name_home(project, project / "home")
    assert (project / ".env").read_text() == line


def test_a_file_that_cannot_be_written_is_named(project):
    (project / ".env").mkdir()

    with pytest.raises(ConfigError, match=r"\.env cannot be written"):
        name_home(project, project / "home")


def test_the_command_creates_the_home_and_names_it_once(project, monkeypatch):
    monkeypatch.setattr(settings, "ROOT", project)
    monkeypatch.setenv("COLUMNS", "400")
    first, second = (CliRunner().invoke(app, ["home"]) for _ in range(2))

    assert (project / ".drirl" / "dagster_home" / "dagster.yaml").is_file()
    assert str(project / ".drirl" / "dagster_home") in first.output
    assert "now names it" in first.output
    assert "was not changed" in second.output
    assert (project / ".env").read_text().count("DAGSTER_HOME=") == 1


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"DAGSTER_IS_DEV_CLI": "1"}, True),
        ({"DAGSTER_IS_DEV_CLI": "1", "DAGSTER_HOME": "/a"}, False),
        ({}, False),  # a script, a test, a step of drirl run
    ],
)
def test_loading_warns_when_the_history_will_be_lost(monkeypatch, caplog, variables, told):
    for name in ("DAGSTER_IS_DEV_CLI", "DAGSTER_HOME", "DRIRL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(logging.getLogger("dagster"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        definitions.defs()

    assert (lost_history() is not None) is told
    assert ("`drirl home`" in caplog.text) is told
