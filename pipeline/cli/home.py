"""`drirl home`: choose where Dagster keeps its history, also when it is started without drirl."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pipeline.instance.env_file import ENV_FILE, name_home
from pipeline.instance.home import prepare_home


def show(root: Path, console: Console) -> None:
    """Prepare the project's Dagster home, write it to `.env`, and print both.

    Args:
        root: directory of the project.
        console: where to print.

    Raises:
        ConfigError: the home or the file cannot be written.
    """
    home = prepare_home(root)
    added = name_home(root, home)
    console.print(str(home), highlight=False, soft_wrap=True)
    said = "now names it" if added else "mentions DAGSTER_HOME already and was not changed"
    console.print(
        f"{root / ENV_FILE} {said}. dg and dagster read this file when they are started in the project.",
        highlight=False,
        soft_wrap=True,
    )
