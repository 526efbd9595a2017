"""The project's `.env`, which `dg` and `dagster` read before they look for DAGSTER_HOME."""

import os
from pathlib import Path

from drirl_core.errors import ConfigError

ENV_FILE = ".env"
_VARIABLE = "DAGSTER_HOME"
_DEVELOPER_VARIABLE = "DAGSTER_IS_DEV_CLI"
"""Set by `dg` and by `dagster dev`, for themselves and for what they start."""


def name_home(root: Path, home: Path) -> bool:
    """Let `dg` and `dagster`, started in the project, keep their history in a home unless DAGSTER_HOME names another.

    Args:
        root: directory of the project.
        home: absolute path of the home.

    Returns:
        Whether a line was added; a file that speaks of DAGSTER_HOME already is left alone.

    Raises:
        ConfigError: the file cannot be written.
    """
    file = root / ENV_FILE
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if any(line.strip().removeprefix("export ").lstrip().startswith(_VARIABLE) for line in text.splitlines()):
            return False
        with file.open("a", encoding="utf-8") as lines:
            # A plain value would win over the variable of whoever exported it.
            lines.write(
                f'{"" if not text or text.endswith(chr(10)) else chr(10)}{_VARIABLE}="${{{_VARIABLE}:-{home}}}"\n'
            )
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written ({error}); correct its permissions, or export {_VARIABLE}"
        ) from error
    return True


def lost_history() -> str | None:
    """Say what to do when the history of this process's instance will be deleted at its end; None when it is kept."""
    if not os.environ.get(_DEVELOPER_VARIABLE) or os.environ.get(_VARIABLE):
        return None
    return (
        f"{_VARIABLE} is not set, so what runs from here is forgotten when it ends. `drirl home` makes dg and dagster "
        "keep the history in the project, beside that of drirl run; `drirl dev` does so by itself."
    )
