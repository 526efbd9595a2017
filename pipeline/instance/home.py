"""Where Dagster keeps its history: a directory of the project, unless DAGSTER_HOME names another one.

The history is stored in the home's SQLite files, or in the Postgres database that DRIRL_POSTGRES_URL names.
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
"""Settings added to a home when the history is stored in Postgres."""

_DRIVER = "postgresql+psycopg2"
_UNUSABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def prepare_home(root: Path) -> Path:
    """Create the project's own Dagster home and update its settings.

    Args:
        root: directory of the project.

    Returns:
        Absolute path of `root/.drirl/dagster_home`, which holds the project's dagster.yaml, with the Postgres storage
        when DRIRL_POSTGRES_URL is set.

    Raises:
        ConfigError: the directory cannot be written, the project has no dagster.yaml, or the home's history is in
            Postgres and DRIRL_POSTGRES_URL is not set: writing SQLite there would hide the history from other users of
            the home.
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
                f"the history of {home} is in Postgres, but {POSTGRES_VARIABLE} is not set here; export the same "
                "value as the services that use "
                f"this home, or delete {target} to start a separate SQLite history"
            )
        if _text(target) != text:
            temporary = home / f".{INSTANCE_FILE}.{os.getpid()}"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(target)
    except OSError as error:
        raise ConfigError(
            f"the Dagster home {home} cannot be set up ({error}); correct its permissions, or set "
            f"{HOME_VARIABLE} to another absolute path"
        ) from error
    return home


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def chosen_home() -> Path:
    """Return the home that DAGSTER_HOME names, else the project's own; it is created if needed.

    Raises:
        ConfigError: DAGSTER_HOME is relative, which Dagster refuses, the home cannot be written, its settings ignore
            DRIRL_POSTGRES_URL, or dagster-postgres is not installed.
    """
    if os.environ.get(POSTGRES_VARIABLE) and importlib.util.find_spec("dagster_postgres") is None:
        raise ConfigError(
            f'{POSTGRES_VARIABLE} is set, but dagster-postgres is not installed; pip install -e ".[postgres]", '
            "or unset it"
        )
    named = os.environ.get(HOME_VARIABLE)
    if not named:
        return prepare_home(ROOT)
    home = Path(named)
    if not home.is_absolute():
        raise ConfigError(
            f"{HOME_VARIABLE} is {named!r}, but must be an absolute path; export "
            f"{HOME_VARIABLE}={home.absolute()} or unset it"
        )
    if home == ROOT / ".drirl" / "dagster_home":
        return prepare_home(ROOT)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{HOME_VARIABLE} names {home}, which cannot be created ({error}); choose another directory or unset it"
        ) from error
    if os.environ.get(POSTGRES_VARIABLE) and not has_storage(home / INSTANCE_FILE):
        raise ConfigError(
            f"{POSTGRES_VARIABLE} is set, but {home / INSTANCE_FILE} has no `storage` section, so the history "
            "would go to SQLite; add\n"
            f"{POSTGRES_SETTINGS}\nor unset {HOME_VARIABLE} for the project's own home, which gets the section "
            "automatically"
        )
    return home


def has_storage(file: Path) -> bool:
    """Return whether a home's settings say where the history is stored."""
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    return "storage" in (settings or {})


def with_driver(url: str) -> str:
    """Add the driver to the address of a Postgres database that names none.

    Args:
        url: such as `postgresql://user:password@host:5432/database`; `postgres://` is accepted too.

    Returns:
        The same address with the scheme `postgresql+psycopg2`.
    """
    scheme, separator, rest = url.partition("://")
    return f"{_DRIVER}{separator}{rest}" if scheme in ("postgresql", "postgres") else url


@contextlib.contextmanager
def home_errors_explained(home: Path) -> Iterator[None]:
    """Explain the error of a full or read-only home, or of a database that is down; other errors are not changed.

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
                f"the Dagster home {home} cannot be written ({cause}); free some space, correct its permissions, "
                f"or set {HOME_VARIABLE} to "
                "another absolute path"
            ) from error
        raise


def _origin(error: BaseException) -> BaseException:
    """Return the original error of the database driver, which SQLAlchemy and Dagster wrap."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
