"""Where Dagster keeps its history: a directory of the project, unless DAGSTER_HOME names another one.

The history itself lies in the home's SQLite files, or in the Postgres database that DRIRL_POSTGRES_URL names.
"""

import contextlib
import errno
import importlib.util
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import yaml

from drirl_core.errors import ConfigError
from pipeline.instance.settings import ROOT

INSTANCE_FILE = "dagster.yaml"
HOME_VARIABLE = "DAGSTER_HOME"
POSTGRES_VARIABLE = "DRIRL_POSTGRES_URL"
POSTGRES_SETTINGS = f"""
storage:
  custom:
    module: pipeline.instance.postgres
    class: PostgresStorage
    config:
      postgres_url: {{env: {POSTGRES_VARIABLE}}}
"""
"""What a home's settings say besides the project's own, when the history lies in Postgres."""

_DRIVER = "postgresql+psycopg2"
_UNUSABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def prepare_home(root: Path) -> Path:
    """Make the project's own Dagster home and bring its settings up to date.

    Args:
        root: directory of the project.

    Returns:
        Absolute path of `root/.drirl/dagster_home`, which holds the project's dagster.yaml, with the Postgres storage when
        DRIRL_POSTGRES_URL is set.

    Raises:
        ConfigError: the directory cannot be written, the project has no dagster.yaml, or the home's history lies in Postgres and
            DRIRL_POSTGRES_URL is not set: to write SQLite there would hide it from whoever uses the home.
    """
    home = root.absolute() / ".drirl" / "dagster_home"
    committed = root / INSTANCE_FILE if (root / INSTANCE_FILE).is_file() else ROOT / INSTANCE_FILE
    try:
        home.mkdir(parents=True, exist_ok=True)
        text, target = committed.read_text(encoding="utf-8"), home / INSTANCE_FILE
        if os.environ.get(POSTGRES_VARIABLE) and not has_storage(committed):
            text += POSTGRES_SETTINGS
        elif POSTGRES_SETTINGS in _text(target):
            raise ConfigError(
                f"the history of {home} lies in Postgres, but {POSTGRES_VARIABLE} is not set here; export it as for the services that use "
                f"this home, or delete {target} to go on with an SQLite history of its own"
            )
        if _text(target) != text:
            temporary = home / f".{INSTANCE_FILE}.{os.getpid()}"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(target)
    except OSError as error:
        raise ConfigError(
            f"the Dagster home {home} cannot be set up ({error}); mend its permissions, or set {HOME_VARIABLE} to another absolute path"
        ) from error
    return home


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def chosen_home() -> Path:
    """Return the home that DAGSTER_HOME names, else the project's own, made ready.

    Raises:
        ConfigError: DAGSTER_HOME is relative, which Dagster refuses, the home cannot be written, it does not know that
            DRIRL_POSTGRES_URL shall hold the history, or dagster-postgres is not installed.
    """
    if os.environ.get(POSTGRES_VARIABLE) and importlib.util.find_spec("dagster_postgres") is None:
        raise ConfigError(
            f'{POSTGRES_VARIABLE} is set, but dagster-postgres is not installed; pip install -e ".[postgres]", or unset it'
        )
    named = os.environ.get(HOME_VARIABLE)
    if not named:
        return prepare_home(ROOT)
    home = Path(named)
    if not home.is_absolute():
        raise ConfigError(
            f"{HOME_VARIABLE} is {named!r}, but must be an absolute path; export {HOME_VARIABLE}={home.absolute()} or unset it"
        )
    if home == ROOT / ".drirl" / "dagster_home":
        return prepare_home(ROOT)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{HOME_VARIABLE} names {home}, which cannot be made ({error}); choose another directory or unset it"
        ) from error
    if os.environ.get(POSTGRES_VARIABLE) and not has_storage(home / INSTANCE_FILE):
        raise ConfigError(
            f"{POSTGRES_VARIABLE} is set, but {home / INSTANCE_FILE} has no `storage` section, so the history would go to SQLite; add\n"
            f"{POSTGRES_SETTINGS}\nor unset {HOME_VARIABLE} for the project's own home, which gets it by itself"
        )
    return home


def has_storage(file: Path) -> bool:
    """Tell whether a home's settings say where the history lies."""
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    return "storage" in (settings or {})


def with_driver(url: str) -> str:
    """Name the driver in the address of a Postgres database, unless it names one.

    Args:
        url: such as `postgresql://user:password@host:5432/database`; `postgres://` is understood as well.

    Returns:
        The same address with the scheme `postgresql+psycopg2`.
    """
    scheme, separator, rest = url.partition("://")
    return f"{_DRIVER}{separator}{rest}" if scheme in ("postgresql", "postgres") else url


@contextlib.contextmanager
def home_errors_explained(home: Path) -> Iterator[None]:
    """Put a home that is full or read-only, and a database that is away, into words; leave other errors as they are.

    Raises:
        ConfigError: the history cannot be written.
    """
    try:
        yield
    except Exception as error:
        cause = _origin(error)
        if type(cause).__module__.startswith("psycopg2"):
            said = " ".join(str(cause).split())
            raise ConfigError(
                f"the database that {POSTGRES_VARIABLE} names cannot be used ({said}); `drirl doctor` says what to do"
            ) from error
        if isinstance(cause, sqlite3.OperationalError) or (isinstance(cause, OSError) and cause.errno in _UNUSABLE):
            raise ConfigError(
                f"the Dagster home {home} cannot be written ({cause}); free some space, mend its permissions, or set {HOME_VARIABLE} to "
                "another absolute path"
            ) from error
        raise


def _origin(error: BaseException) -> BaseException:
    """Return what a database's driver said; SQLAlchemy and Dagster wrap it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
