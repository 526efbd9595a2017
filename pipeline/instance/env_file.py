"""The project's `.env`, which `dg` and `dagster` read before they look for DAGSTER_HOME."""

import os
from pathlib import Path

from drirl_core.errors import ConfigError

ENV_FILE = ".env"
_VARIABLE = "DAGSTER_HOME"
_DEVELOPER_VARIABLE = "DAGSTER_IS_DEV_CLI"
"""Set by `dg` and by `dagster dev`, for themselves and for the processes they start."""


def name_home(root: Path, home: Path) -> bool:
    """Make `dg` and `dagster` keep their history in a home when they start in the project and DAGSTER_HOME is not set.

    Args:
        root: directory of the project.
        home: absolute path of the home.

    Returns:
        Whether a line was added; a file that already mentions DAGSTER_HOME is not changed.

    Raises:
        ConfigError: the file cannot be written, or cannot hold this path.
    """
    file = root / ENV_FILE
    unquotable = sorted({character for character in '"\\}\n' if character in str(home)})
    if unquotable:
        raise ConfigError(
            f"{file} cannot name the home {home}: a path with {' and '.join(map(repr, unquotable))} cannot be written "
            f"there; export {_VARIABLE} instead, or move the project"
        )
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if any(line.strip().removeprefix("export ").lstrip().startswith(_VARIABLE) for line in text.splitlines()):
            return False
        with file.open("a", encoding="utf-8") as lines:
            # A plain value would override an exported variable.
            lines.write(
                f'{"" if not text or text.endswith(chr(10)) else chr(10)}{_VARIABLE}="${{{_VARIABLE}:-{home}}}"\n'
            )
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written ({error}); correct its permissions, or export {_VARIABLE}"
        ) from error
    return True


def lost_history() -> str | None:
    """Return advice when the history of this process's instance will be deleted at its end; None when it is kept."""
    if not os.environ.get(_DEVELOPER_VARIABLE) or os.environ.get(_VARIABLE):
        return None
    return (
        f"{_VARIABLE} is not set, so the history of these runs is deleted when this process ends. After `drirl "
        "home`, dg and "
        "dagster keep the history in the project, together with that of `drirl run`; `drirl dev` always does."
    )
