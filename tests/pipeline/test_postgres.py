"""History in Postgres, chosen by one variable; tested with a server that is started for these tests."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
import stub_stages

from drirl_core.errors import ConfigError
from pipeline.cli.doctor_database import check_postgres
from pipeline.instance import home as homes
from pipeline.instance.home import POSTGRES_SETTINGS, POSTGRES_VARIABLE, with_driver
from pipeline.running.run import run_pipeline

PASSWORD = "sesame%2Fopen"  # a slash, percent-encoded
PLAIN_PASSWORD = "sesame/open"

pytest.importorskip("dagster_postgres")
psycopg2 = pytest.importorskip("psycopg2")


def _programs() -> Path | None:
    found = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    on_path = shutil.which("initdb")
    return found[-1] if found else Path(on_path).parent if on_path else None


class Server:
    """A Postgres server on a free port of this machine, its files in a temporary directory."""

    def __init__(self, programs: Path) -> None:
        self._programs, self._folder = programs, Path(tempfile.mkdtemp(prefix="drirl-postgres-"))
        self._as: list[str] = []
        if os.geteuid() == 0:  # the server refuses to run as root
            account = pwd.getpwnam("postgres")
            os.chown(self._folder, account.pw_uid, account.pw_gid)
            self._as = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (self._folder / "password").write_text(PLAIN_PASSWORD)
        os.chmod(self._folder / "password", 0o644)
        self._run(
            "initdb",
            "-D",
            f"{self._folder}/data",
            "-U",
            "drirl",
            "-A",
            "scram-sha-256",
            "--pwfile",
            f"{self._folder}/password",
            "-N",
        )
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} -c fsync=off"
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-w", "-l", f"{self._folder}/log", "-o", options, "start")

    def url(self, database: str = "dagster", password: str = PASSWORD) -> str:
        return f"postgresql://drirl:{password}@127.0.0.1:{self.port}/{database}"

    def ask(self, statement: str, database: str = "dagster") -> list[tuple]:
        connection = psycopg2.connect(self.url(database))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows

    def stop(self) -> None:
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> None:
        line = [*self._as, str(self._programs / program), *arguments]
        subprocess.run(
            line, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd=self._folder, timeout=60
        )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    programs = _programs()
    if programs is None:
        pytest.skip("no Postgres server is installed")
    try:
        made = Server(programs)
    except KeyError:
        pytest.skip("this account is root, and there is no account `postgres` to run the server")
    yield made
    made.stop()


@pytest.fixture
def switched(server, home, monkeypatch) -> Server:
    """The variable set, an empty database, and a home that uses it."""
    server.ask("DROP DATABASE IF EXISTS dagster WITH (FORCE)", "postgres")
    server.ask("CREATE DATABASE dagster", "postgres")
    monkeypatch.setenv(POSTGRES_VARIABLE, server.url())
    shutil.rmtree(home / "history", ignore_errors=True)
    with (home / "dagster.yaml").open("a") as file:
        file.write(POSTGRES_SETTINGS)
    return server


@pytest.mark.slow  # several runs, each of which starts worker processes
def test_a_run_is_recorded_in_postgres_and_nowhere_else(switched, home, stubbed, tmp_path):
    settings = stub_stages.write_settings(tmp_path)
    first = run_pipeline(settings, select=["sft_checkpoint"], on_event=lambda event: None)
    second = run_pipeline(settings, select=["sft_checkpoint"], on_event=lambda event: None)

    assert (first.success, "sft_checkpoint" in first.built) == (True, True)
    assert (second.success, second.run_id) == (True, None)
    assert switched.ask("SELECT run_id, status FROM runs") == [(first.run_id, "SUCCESS")]
    made = switched.ask("SELECT asset_key FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'")
    assert {name for (name,) in made} == {f'["{name}"]' for name in first.built}
    assert not (home / "history").exists()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        pool = instance.event_log_storage.get_concurrency_info("gpu")
    assert (pool.slot_count, pool.claimed_slots, pool.pending_steps) == (1, [], [])
    texts = [file.read_bytes() for file in [*home.rglob("*"), *(tmp_path / "artifacts").rglob("*")] if file.is_file()]
    assert not [text for text in texts if PASSWORD.encode() in text or PLAIN_PASSWORD.encode() in text]


@pytest.mark.slow  # thirteen instances are opened
def test_the_pool_has_one_slot_and_many_writers_do_not_lock(switched, home):
    @dg.job
    def job():
        pass

    def write(number: int) -> str:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            run = instance.create_run_for_job(job)
            for line in range(20):
                instance.report_engine_event(f"writer {number} line {line}", run)
            return run.run_id

    write(12)  # creates the tables
    with ThreadPoolExecutor(12) as writers:
        runs = list(writers.map(write, range(12)))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default("gpu")
        claims = [storage.claim_concurrency_slot("gpu", run, "step").is_claimed for run in runs[:2]]
        storage.free_concurrency_slots_for_run(runs[0])
        after = storage.claim_concurrency_slot("gpu", runs[1], "step").is_claimed

    assert switched.ask("SELECT count(*), count(DISTINCT run_id) FROM event_logs WHERE event LIKE '%writer%'") == [
        (260, 13)
    ]
    assert (claims, after) == ([True, False], True)  # the waiting step gets the released slot


@pytest.mark.parametrize(
    ("change", "said", "advice"),
    [
        ({"password": "wrong"}, "password authentication failed", "correct user and password"),
        ({"database": "elsewhere"}, 'database "elsewhere" does not exist', "createdb DATABASE"),
    ],
)
def test_doctor_says_what_is_wrong_and_never_the_password(switched, monkeypatch, change, said, advice):
    monkeypatch.setenv(POSTGRES_VARIABLE, switched.url(**change))
    check = check_postgres()
    assert (check.status, said in check.detail, advice in check.fix) == ("fail", True, True), check
    assert not {"wrong", PASSWORD, PLAIN_PASSWORD} & set(f"{check.detail} {check.fix}".replace(":", " ").split())


def test_doctor_finds_a_database_that_works(switched):
    check = check_postgres()
    assert check.status == "ok"
    assert check.detail.endswith(f"at 127.0.0.1:{switched.port}/dagster holds the history")


def test_doctor_says_that_the_server_is_down(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv(POSTGRES_VARIABLE, f"postgresql://drirl:{PASSWORD}@127.0.0.1:{port}/dagster")
    check = check_postgres()
    assert (check.status, "refused" in check.detail) == ("fail", True)
    assert check.fix == "start the server, or correct host and port"
    assert PASSWORD not in check.detail


@pytest.mark.parametrize("url", ["sesame", "postgresql://drirl:sesame@host:port/db", "mysql://drirl:sesame@host/db"])
def test_doctor_does_not_repeat_an_address_that_it_cannot_read(monkeypatch, url):
    monkeypatch.setenv(POSTGRES_VARIABLE, url)
    check = check_postgres()
    assert check.status == "fail"
    assert "sesame" not in check.detail + check.fix
    assert check.fix.startswith("write it as postgresql://USER:PASSWORD@HOST:5432/DATABASE")


@pytest.mark.long
def test_a_run_without_its_server_is_one_message(home, stubbed, tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv(
            POSTGRES_VARIABLE, f"postgresql://drirl:{PASSWORD}@127.0.0.1:{probe.getsockname()[1]}/dagster"
        )
    with (home / "dagster.yaml").open("a") as file:
        file.write(POSTGRES_SETTINGS)
    expected = (
        rf"the database that {POSTGRES_VARIABLE} names cannot be used \(.*refused.*\); `drirl doctor` says what to do"
    )
    with pytest.raises(ConfigError, match=expected) as raised:
        run_pipeline(stub_stages.write_settings(tmp_path), select=["prompt_pool"], on_event=lambda event: None)
    assert PASSWORD not in str(raised.value)


def test_the_projects_own_home_gets_the_storage_when_it_is_named(tmp_path, monkeypatch):
    own = tmp_path / ".drirl" / "dagster_home"
    monkeypatch.setattr(homes, "ROOT", tmp_path)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(own))
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://drirl:sesame@127.0.0.1/dagster")
    assert homes.chosen_home() == own
    assert homes.has_storage(own / "dagster.yaml")


def test_without_the_variable_nothing_changes(monkeypatch, tmp_path):
    monkeypatch.delenv(POSTGRES_VARIABLE, raising=False)
    settings = homes.prepare_home(tmp_path) / "dagster.yaml"
    assert settings.read_text() == (homes.ROOT / "dagster.yaml").read_text()
    assert check_postgres().status == "ok"

    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://drirl:sesame@127.0.0.1/dagster")
    assert homes.prepare_home(tmp_path) == settings.parent
    assert settings.read_text().endswith(f"postgres_url: {{env: {POSTGRES_VARIABLE}}}\n")
    assert "sesame" not in settings.read_text()


def test_a_shell_without_the_variable_does_not_hide_the_history_from_others(monkeypatch, tmp_path):
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://drirl:sesame@127.0.0.1/dagster")
    settings = homes.prepare_home(tmp_path) / "dagster.yaml"
    before = settings.read_text()

    monkeypatch.delenv(POSTGRES_VARIABLE)
    with pytest.raises(
        ConfigError,
        match=rf"is in Postgres, but {POSTGRES_VARIABLE} is not set here; export the same value .* or delete",
    ):
        homes.prepare_home(tmp_path)
    assert settings.read_text() == before

    settings.unlink()
    homes.prepare_home(tmp_path)
    assert not homes.has_storage(settings)


def test_a_home_of_the_user_that_ignores_the_variable_is_refused(home, monkeypatch):
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://drirl:sesame@127.0.0.1/dagster")
    with pytest.raises(
        ConfigError, match=r"has no `storage` section, so the history would go to SQLite; add"
    ) as raised:
        homes.chosen_home()
    assert "sesame" not in str(raised.value)
    with (home / "dagster.yaml").open("a") as file:
        file.write(POSTGRES_SETTINGS)
    assert homes.chosen_home() == home


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgresql://u:p@h:1/d", "postgresql+psycopg2://u:p@h:1/d"),
        ("postgres://u:p@h/d?sslmode=require", "postgresql+psycopg2://u:p@h/d?sslmode=require"),
        ("postgresql+psycopg2://u@h/d", "postgresql+psycopg2://u@h/d"),
        ("no address", "no address"),
    ],
)
def test_the_driver_is_added_to_the_address(given, expected):
    assert with_driver(given) == expected
