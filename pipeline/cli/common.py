"""What the commands share: the console, the options, and the group that turns an error into one clear message."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from typer.core import TyperGroup

from drirl_core.config import load_config, place
from drirl_core.config.strict_yaml import load_yaml
from drirl_core.errors import ConfigError, DrirlError
from drirl_core.models.threads import choose_waiting
from drirl_core.project import Project
from drirl_core.reporting import LogReporter
from drirl_core.reporting import duration as duration
from pipeline.cli import completion
from pipeline.instance.settings import anchored

if TYPE_CHECKING:
    from drirl_core.graph.planned import Named

DEFAULT_CONFIG = Path("configs/demo.yaml")
_DEBUG = "drirl.debug"


def _remember_debug(context: typer.Context, value: bool) -> bool:
    context.meta[_DEBUG] = value or context.meta.get(_DEBUG, False)
    return value


ConfigArgument = Annotated[
    Path,
    typer.Argument(
        help="YAML file with the settings. With `extends: demo.yaml` it needs only the settings that differ.",
        show_default=True,
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model reference (hf:org/name, path:DIRECTORY, pypi:...), a directory, a policy of the "
        "configuration (base, sft, a baseline, dr_irl), `promoted`, or the name of a recorded result.",
    ),
]
OldConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", hidden=True, help="The file, as older versions were given it.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting by its dotted name, for example `--set policy.steps=4`. Can be given several times.",
        autocompletion=completion.settings,
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="NAME",
        help="Limit the run to this asset and everything it needs; `*` and `?` match several, as in "
        "'reward_model_*'. The name "
        "`stale` stands for assets that were built before and are out of date now, with everything that depends "
        "on them; "
        "assets that were never built are left out. Can be given several times.",
        autocompletion=completion.assets,
    ),
]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="NAME",
        help="Use a recorded result instead of a configuration: its name or id, as `drirl runs` lists them.",
        autocompletion=completion.results,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the full traceback when a command fails.", callback=_remember_debug)
]


class Guarded(TyperGroup):
    """A command group that reports an error as one message and exit code 1; with `--debug` it shows the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command.

        Raises:
            typer.Exit: code 1 after a `DrirlError`, code 130 after Ctrl-C.
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


class ConsoleReporter(LogReporter):
    """Print progress to the console for messages, so that standard output holds results alone."""

    def emit(self, line: str) -> None:
        """Write one finished line."""
        errors().print(Text(line, style="dim"), soft_wrap=True)


@dataclass(frozen=True)
class Given:
    """What the user named: a configuration and changes to it, or a recorded result.

    Args:
        file: the configuration as it was given.
        changes: the `key=value` texts of `--set`.
        run: name or id of a recorded result; None for the configuration.
    """

    file: Path = DEFAULT_CONFIG
    changes: tuple[str, ...] = ()
    run: str | None = None

    @classmethod
    def of(
        cls, file: Path, changes: Sequence[str] | None = None, old: Path | None = None, run: str | None = None
    ) -> Given:
        """Gather what was given; the file may be given as an argument or, as in older versions, by `--config`.

        Raises:
            ConfigError: two different files are given, or settings are changed of a recorded result.
        """
        if old is not None and file not in (DEFAULT_CONFIG, old):
            raise ConfigError(f"two configuration files are given, {file} and --config {old}; give one")
        if run is not None and changes:
            raise ConfigError(f"--run {run} is a result with its own settings; leave out --set, or leave out --run")
        return cls(old or file, tuple(changes or ()), run)

    def command(self, *words: str) -> str:
        """Return a `drirl` command for the same configuration and changes, ready to be pasted.

        Args:
            words: the command, and the options that follow the configuration.
        """
        changes = [word for change in self.changes for word in ("--set", change)]
        return shlex.join(["drirl", words[0], *self.file_words, *changes, *words[1:]])

    @property
    def file_words(self) -> list[str]:
        """The configuration file as a word of a command; none for the default."""
        return [str(self.file)] if self.file != DEFAULT_CONFIG else []

    @cached_property
    def project(self) -> Project:
        """The project of the configuration with its changes.

        Raises:
            ConfigError: the file or a change is not valid.
        """
        return read_project(self.file, self.changes)

    def before_models(self) -> Given:
        """Choose how CPU threads wait, by the load of the machine, before a command loads models; return itself.

        Raises:
            ConfigError: the file or a change is not valid.
        """
        chosen = choose_waiting(self.project.config.models)
        if chosen:
            errors().print(chosen, style="dim", highlight=False, soft_wrap=True)
        return self

    def named(self) -> Named:
        """Return the artifacts that were asked for: what the configuration plans, or what the result holds.

        Raises:
            ConfigError: the file or a change is not valid.
            ArtifactError: there is no such result.
        """
        from drirl_core.graph.planned import Named

        build = self.command("run")
        if self.run is None:
            return Named(self.project, build)
        from drirl_core.runs.record import Results

        result = Results(self.project.store).find(self.run)
        return Named(result.project(self.project), build, result.versions)


def read_project(path: Path, changes: Sequence[str] | None = None) -> Project:
    """Make the project from a configuration file and the changes given on the command line.

    Args:
        path: the YAML file.
        changes: `key=value` texts; the value is read as YAML, so `3` is a number, `true` a boolean and `[a, b]` a list.

    Returns:
        The project. A relative path is resolved from the working directory, else from the project. The artifacts
        are stored in the same place as those of Dagster runs.

    Raises:
        ConfigError: the file or a change is not valid.
    """
    return Project(anchored(load_config(find_config(path), parse_changes(changes or ()))))


def find_config(path: Path) -> Path:
    """Return the file in the working directory, else in the project; the path as given when it is in neither."""
    return place.find_config(path)


def parse_changes(changes: Sequence[str]) -> Mapping[str, Any]:
    """Turn `key=value` texts into a mapping of dotted keys.

    Raises:
        ConfigError: a text has no key, no `=`, or a value that is not YAML or unclear in it.
    """
    parsed: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {change!r}: write it as key=value, such as --set policy.steps=4")
        try:
            parsed[key.strip()] = load_yaml(value, f"--set {change!r}", lines=False)
        except ConfigError as error:
            advice = "; put quotes around special characters" if "cannot be read" in str(error) else ""
            raise ConfigError(f"{error}{advice}") from error
    return parsed
