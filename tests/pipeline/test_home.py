"""The Dagster home: a dagster.yaml of the user that cannot be used, and paths with characters of all kinds."""

from pathlib import Path

import pytest
from dotenv import dotenv_values

from drirl_core.errors import ConfigError
from pipeline.cli.doctor_checks import check_dagster_home
from pipeline.instance.env_file import name_home
from pipeline.instance.home import chosen_home, prepare_home
from pipeline.instance.settings import ROOT, load
from pipeline.running.run import open_instance


@pytest.fixture
def at(tmp_path, monkeypatch):
    """Make a home with these settings, and name it in DAGSTER_HOME."""
    monkeypatch.delenv("DRIRL_POSTGRES_URL", raising=False)

    def make(settings=None, name="home"):
        home = tmp_path / name
        home.mkdir(parents=True, exist_ok=True)
        if settings is not None:
            (home / "dagster.yaml").write_bytes(settings if isinstance(settings, bytes) else settings.encode())
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        return home

    return make


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("telemetry: [", r"dagster\.yaml, line 1: it cannot be read as YAML"),
        (
            "telemetry: {enabled: true}\ntelemetry: {enabled: false}",
            r"line 2: the key 'telemetry' is already in line 1",
        ),
        ("telemetry:\n  enabled: no", r"line 2: `no` .*write false"),
        ("concurrency: {runs: {max_concurrent_runs: 010}}", r"line 1: `010` .*write 10 \(8 if"),
        ("- telemetry", "must hold keys and values, not list"),
        (b"\xff\xfe\x00", "save it as UTF-8"),
    ],
)
def test_settings_that_cannot_be_read_are_refused_at_once(at, settings, problem):
    home = at(settings)
    with pytest.raises(ConfigError, match=problem) as refused:
        chosen_home()
    assert str(home / "dagster.yaml") in str(refused.value)
    assert "set DAGSTER_HOME to another directory" in str(refused.value)
    found = check_dagster_home()
    assert (found.status, found.detail) == ("fail", str(refused.value))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("telemetri: {enabled: true}", 'unexpected config entry "telemetri"'),
        ("run_launcher: {module: not.there, class: X}", r"Couldn't import module not\.there"),
        ("run_launcher: {module: pipeline.running.launcher, class: X}", "Couldn't find class X"),
        ("storage: {sqlite: {base_dir: {env: NOT_SET_AT_ALL}}}", 'environment variable "NOT_SET_AT_ALL"'),
        (
            "run_coordinator: {module: dagster.core.run_coordinator, class: QueuedRunCoordinator, "
            "config: {max_concurrent_runs: many}}",
            'Value "many" of type',
        ),
    ],
)
def test_settings_that_dagster_refuses_are_named_before_anything_runs(at, settings, problem):
    home = at(settings)
    with pytest.raises(ConfigError, match=problem) as refused, open_instance():
        pass
    assert str(refused.value).startswith(f"Dagster refuses the settings in {home / 'dagster.yaml'}: ")
    assert len(str(refused.value)) < 700  # neither all settings there are, nor a traceback
    found = check_dagster_home()
    assert (found.status, found.detail) == ("fail", str(refused.value))


def test_a_folder_in_the_place_of_the_settings_is_refused(at):
    (at() / "dagster.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        chosen_home()


@pytest.mark.parametrize("settings", [None, "", "# nothing\n"])
def test_a_home_without_settings_is_fine(at, settings):
    home = at(settings)
    assert chosen_home() == home
    assert check_dagster_home().status == "ok"


@pytest.mark.parametrize("name", ["with blanks and 100% #1", "a@b:c&d=e", "größe", "it's"])
def test_odd_characters_in_the_path_of_a_home_work(at, name):
    home = at((ROOT / "dagster.yaml").read_text(encoding="utf-8"), name)
    with open_instance() as instance:
        assert type(instance.run_launcher).__name__ == "HealthCheckedLauncher"  # the settings of this home
    assert (home / "history" / "runs.db").is_file()
    assert check_dagster_home().status == "ok"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("what?", "has '\\?' in its path"),
        ("a*b", "has '\\*' in its path"),
        ("run[1]", "has '\\[' in its path"),
        ("a%20b", "would be read as .*/a b;"),
    ],
)
def test_a_path_that_dagster_takes_for_another_is_refused(at, name, problem):
    """SQLAlchemy decodes `%20` and ends the address at `?`; Dagster looks for the settings as for a pattern."""
    at("", name)
    with pytest.raises(ConfigError, match=problem):
        chosen_home()
    assert check_dagster_home().status == "fail"


def test_the_projects_own_home_is_held_to_the_same(tmp_path, monkeypatch):
    monkeypatch.delenv("DRIRL_POSTGRES_URL", raising=False)
    with pytest.raises(ConfigError, match="has '\\?' in its path"):
        prepare_home(tmp_path / "project?")
    (tmp_path / "dagster.yaml").write_text("a: 1\na: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/dagster\.yaml, line 2: the key 'a' is already in line 1"):
        prepare_home(tmp_path)
    (tmp_path / "dagster.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        prepare_home(tmp_path)


def test_a_tilde_in_the_environment_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("DRIRL_POSTGRES_URL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", "~/history")
    assert chosen_home() == tmp_path / "history"
    (tmp_path / "run.yaml").write_text("models: {policy: 'hf:a', encoder: 'hf:b'}\nname: mine\n", encoding="utf-8")
    assert load("~/run.yaml").config.name == "mine"


def test_env_names_a_home_that_dotenv_reads_back(tmp_path, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    odd = tmp_path / "100% #1 it's"
    assert name_home(tmp_path, odd)
    assert dotenv_values(tmp_path / ".env")["DAGSTER_HOME"] == str(odd)
    for name in ('quo"te', "bra}ce", "back\\slash"):
        with pytest.raises(ConfigError, match="cannot be written there; export DAGSTER_HOME instead"):
            name_home(tmp_path, Path(tmp_path / name))
