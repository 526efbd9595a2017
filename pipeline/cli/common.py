"""What the commands share: the console, the options, the guard that turns errors into one clear message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import click
import typer
import yaml
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from drirl_core.config import load_config, place
from drirl_core.errors import ConfigError, DrirlError
from drirl_core.project import Project
from drirl_core.reporting import duration as duration
from pipeline.instance.settings import anchored

DEFAULT_CONFIG = Path("configs/demo.yaml")
_DEBUG = "drirl.debug"


def _remember_debug(context: typer.Context, value: bool) -> bool:
    context.meta[_DEBUG] = value or context.meta.get(_DEBUG, False)
    return value


ConfigArgument = Annotated[
    Path,
    typer.Argument(
        help="YAML file with the settings; it may hold only its differences from another one.", show_default=True
    ),
]
ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="YAML file with the settings of the run to look at.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, by its dotted name. May be repeated."),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="NAME",
        help="Only this asset and what it needs, such as 'reward_model_*'; or `stale`: only what was made before and would come out "
        "differently now, with what follows from it, and nothing that was never made. May be repeated.",
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the whole traceback when something goes wrong.", callback=_remember_debug)
]


class Guarded(TyperGroup):
    """A command group whose failures are one message and exit code 1, unless `--debug` asks for the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command.

        Raises:
            typer.Exit: with code 1 after a `DrirlError`, with code 130 after Ctrl-C.
        """
        try:
            return super().invoke(ctx)
        except DrirlError as error:
            if ctx.meta.get(_DEBUG):
                raise
            errors().print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            errors().print("Stopped.")
            raise typer.Exit(130) from error


def output() -> Console:
    """Return the console for results."""
    return Console()


def errors() -> Console:
    """Return the console for messages that are not results."""
    return Console(stderr=True)


def read_project(path: Path, changes: Sequence[str] | None = None) -> Project:
    """Make the project of a configuration with the changes of the command line.

    Args:
        path: the YAML file.
        changes: `key=value` texts; the value is read as YAML, so `3`, `true` and `[a, b]` mean what they look like.

    Returns:
        The project; a relative path is taken from the working directory, else from the project, and the artifacts
        lie where Dagster puts them.

    Raises:
        ConfigError: the file or a change cannot be used.
    """
    return Project(anchored(load_config(find_config(path), parse_changes(changes or ()))))


def find_config(path: Path) -> Path:
    """Return the file a user means: in the working directory, else in the project; as given when it is in neither."""
    return place.find_config(path)


def parse_changes(changes: Sequence[str]) -> Mapping[str, Any]:
    """Turn `key=value` texts into a mapping of dotted keys.

    Raises:
        ConfigError: a text has no key, no `=`, or a value that is not YAML.
    """
    parsed: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {change!r}: write it as key=value, such as --set policy.steps=4")
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"--set {change!r}: the value cannot be read ({error}); put quotes around special characters"
            ) from error
    return parsed
