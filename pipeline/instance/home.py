"""Where Dagster keeps its history: a directory of the project, unless DAGSTER_HOME names another one.

The history is stored in the home's SQLite files, or in the Postgres database that DRIRL_POSTGRES_URL names.
"""

import contextlib
import errno
import importlib.util
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from drirl_core.config.reading import expanded
from drirl_core.config.strict_yaml import read_yaml
from drirl_core.errors import ConfigError
from drirl_core.store.disk import replace_text
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

_PATTERN = "?*["
"""Characters that Dagster takes for a pattern when it looks for the settings of a home; `?` also ends the address of an
SQLite file. Blanks and `#` are fine, and so is a `%` that does not begin an escape such as `%20`."""

_CUT = re.compile(r" Expected: \"\{| Stack Trace:")
"""What follows in an error of Dagster: every setting there is, or a traceback."""
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
            the home. The settings are no YAML, or unclear, or the path holds characters that Dagster cannot use.
    """
    home = root.absolute() / ".drirl" / "dagster_home"
    _require_plain(home)
    committed = root / INSTANCE_FILE if (root / INSTANCE_FILE).is_file() else ROOT / INSTANCE_FILE
    _settings(committed)  # the file to correct, rather than its copy
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
            replace_text(target, text)
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
        ConfigError: DAGSTER_HOME is relative, which Dagster refuses, or holds characters that Dagster cannot use; the
            home cannot be written; its settings cannot be read, are unclear or ignore DRIRL_POSTGRES_URL; or
            dagster-postgres is not installed.
    """
    if os.environ.get(POSTGRES_VARIABLE) and importlib.util.find_spec("dagster_postgres") is None:
        raise ConfigError(
            f'{POSTGRES_VARIABLE} is set, but dagster-postgres is not installed; pip install -e ".[postgres]", '
            "or unset it"
        )
    named = os.environ.get(HOME_VARIABLE)
    if not named:
        return prepare_home(ROOT)
    home = Path(expanded(named))
    if not home.is_absolute():
        raise ConfigError(
            f"{HOME_VARIABLE} is {named!r}, but must be an absolute path; export "
            f"{HOME_VARIABLE}={home.absolute()} or unset it"
        )
    if home == ROOT / ".drirl" / "dagster_home":
        return prepare_home(ROOT)
    _require_plain(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{HOME_VARIABLE} names {home}, which cannot be created ({error}); choose another directory or unset it"
        ) from error
    settings = instance_settings(home)
    if os.environ.get(POSTGRES_VARIABLE) and "storage" not in settings:
        raise ConfigError(
            f"{POSTGRES_VARIABLE} is set, but {home / INSTANCE_FILE} has no `storage` section, so the history "
            "would go to SQLite; add\n"
            f"{POSTGRES_SETTINGS}\nor unset {HOME_VARIABLE} for the project's own home, which gets the section "
            "automatically"
        )
    return home


def has_storage(file: Path) -> bool:
    """Return whether a home's settings say where the history is stored."""
    return "storage" in _settings(file)


def instance_settings(home: Path) -> dict[str, Any]:
    """Read the settings of a Dagster home, in the same strict way as all other settings.

    Args:
        home: the home.

    Returns:
        What its dagster.yaml says; empty without one.

    Raises:
        ConfigError: the file cannot be read, is no YAML, repeats a key or is unclear.
    """
    return _settings(home / INSTANCE_FILE)


def _settings(file: Path) -> dict[str, Any]:
    advice = f"Dagster reads its settings from this file: fix it, or set {HOME_VARIABLE} to another directory"
    try:
        if not file.exists():
            return {}
        loaded = read_yaml(file, "the file")
    except (ConfigError, OSError) as error:  # OSError: the home itself must not be looked into
        raise ConfigError(f"{error}. {advice}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"the file {file} must hold keys and values, not {type(loaded).__name__}. {advice}")
    return loaded or {}


@contextlib.contextmanager
def settings_explained(home: Path) -> Iterator[None]:
    """Explain what Dagster refuses in the settings of a home; other errors are not changed.

    Raises:
        ConfigError: a setting is unknown or wrong, or a class that it names does not exist.
    """
    try:
        yield
    except Exception as error:
        import dagster as dg
        from dagster_shared.check import CheckError

        refused = (dg.DagsterInvalidConfigError, dg.DagsterInvariantViolationError, CheckError, ImportError)
        if not isinstance(error, refused):
            raise
        said = getattr(error, "error_messages", None) or [str(error)]
        listed = "; ".join(_CUT.split(" ".join(text.split()))[0].rstrip(". ") for text in said)
        raise ConfigError(
            f"Dagster refuses the settings in {home / INSTANCE_FILE}: {listed}. Fix them, or set {HOME_VARIABLE} to "
            "another directory"
        ) from error


def _require_plain(home: Path) -> None:
    """Refuse a home in which Dagster would not find its settings or its history."""
    found = sorted({character for character in _PATTERN if character in str(home)})
    if found:
        raise ConfigError(
            f"the Dagster home {home} has {' and '.join(map(repr, found))} in its path, which Dagster takes for a "
            f"pattern, so that it would not find its files; set {HOME_VARIABLE} to a path without "
            f"{' '.join(_PATTERN)}, or move the project"
        )
    if unquote(str(home)) != str(home):
        raise ConfigError(
            f"the Dagster home {home} has a % before two digits in its path, and the address of its database would be "
            f"read as {unquote(str(home))}; set {HOME_VARIABLE} to a path without it, or move the project"
        )


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
