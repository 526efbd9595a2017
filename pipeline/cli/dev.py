"""`drirl dev`: start the Dagster web page for one configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from drirl_core.errors import ConfigError
from pipeline.cli.doctor_checks import check_port
from pipeline.instance.home import HOME_VARIABLE, chosen_home
from pipeline.instance.settings import CONFIG_VARIABLE, ROOT


def command(path: Path, host: str, port: int) -> tuple[list[str], Mapping[str, str]]:
    """Return the command line to start, and the environment variables it needs.

    Args:
        path: the configuration to show.
        host: address to listen on.
        port: port to listen on.

    Raises:
        ConfigError: the port is taken, or the Dagster home cannot be used.
    """
    probe = check_port(port)
    if probe.status != "ok":
        raise ConfigError(f"port {port} is {probe.detail}; {probe.fix}")
    line = [sys.executable, "-m", "dagster", "dev", "-w", str(ROOT / "workspace.yaml"), "-h", host, "-p", str(port)]
    return line, {CONFIG_VARIABLE: str(path.absolute()), HOME_VARIABLE: str(chosen_home())}


def serve(path: Path, host: str, port: int) -> None:
    """Replace this process with `dagster dev`, so that Ctrl-C reaches Dagster, which then stops its own processes."""
    line, variables = command(path, host, port)
    os.chdir(ROOT)
    os.execve(line[0], line, {**os.environ, **variables})  # noqa: S606
