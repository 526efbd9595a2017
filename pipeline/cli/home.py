"""`drirl home`: where Dagster keeps its history, also when it is not drirl that starts it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pipeline.instance.env_file import ENV_FILE, name_home
from pipeline.instance.home import prepare_home


def show(root: Path, console: Console) -> None:
    """Make the project's home ready, name it in `.env`, and say so.

    Args:
        root: directory of the project.
        console: where to print.

    Raises:
        ConfigError: the home or the file cannot be written.
    """
    home = prepare_home(root)
    added = name_home(root, home)
    console.print(str(home), highlight=False, soft_wrap=True)
    said = "now names it" if added else "speaks of DAGSTER_HOME already and is left as it is"
    console.print(
        f"{root / ENV_FILE} {said}: dg and dagster, started in the project, read it there.",
        highlight=False,
        soft_wrap=True,
    )
