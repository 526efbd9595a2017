"""Where Dagster keeps its history: a directory of the project, unless DAGSTER_HOME names another one."""

import os
from pathlib import Path

from drirl_core.errors import ConfigError
from pipeline.lib.settings import ROOT

INSTANCE_FILE = "dagster.yaml"
HOME_VARIABLE = "DAGSTER_HOME"


def prepare_home(root: Path) -> Path:
    """Make the project's own Dagster home and bring its settings up to date.

    Args:
        root: directory of the project.

    Returns:
        Absolute path of `root/.drirl/dagster_home`, which holds the project's dagster.yaml.

    Raises:
        ConfigError: the directory cannot be written, or the project has no dagster.yaml.
    """
    home = root.absolute() / ".drirl" / "dagster_home"
    committed = root / INSTANCE_FILE if (root / INSTANCE_FILE).is_file() else ROOT / INSTANCE_FILE
    try:
        home.mkdir(parents=True, exist_ok=True)
        text, target = committed.read_bytes(), home / INSTANCE_FILE
        if not target.is_file() or target.read_bytes() != text:
            temporary = home / f".{INSTANCE_FILE}.{os.getpid()}"
            temporary.write_bytes(text)
            temporary.replace(target)
    except OSError as error:
        raise ConfigError(
            f"the Dagster home {home} cannot be set up ({error}); mend its permissions, or set {HOME_VARIABLE} to another absolute path"
        ) from error
    return home


def chosen_home() -> Path:
    """Return the home that DAGSTER_HOME names, else the project's own, made ready.

    Raises:
        ConfigError: DAGSTER_HOME is relative, which Dagster refuses, or the home cannot be written.
    """
    named = os.environ.get(HOME_VARIABLE)
    if not named:
        return prepare_home(ROOT)
    home = Path(named)
    if not home.is_absolute():
        raise ConfigError(
            f"{HOME_VARIABLE} is {named!r}, but must be an absolute path; export {HOME_VARIABLE}={home.absolute()} or unset it"
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{HOME_VARIABLE} names {home}, which cannot be made ({error}); choose another directory or unset it") from error
    return home
