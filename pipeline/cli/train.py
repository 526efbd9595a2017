"""`drirl train`: one training in processes that torchrun, `accelerate launch` or a cluster started."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.text import Text

from pipeline.cli import completion
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    ConsoleReporter,
    DebugOption,
    SetOption,
    output,
    read_project,
)


def train(
    config: ConfigArgument = DEFAULT_CONFIG,
    asset: Annotated[
        str,
        typer.Option(
            "--asset",
            metavar="NAME",
            help="The training: sft_checkpoint, policy_checkpoint, or that of a baseline.",
            autocompletion=completion.assets,
        ),
    ] = "policy_checkpoint",
    changes: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Build one training in processes that were started together, on one machine or on several.

    What it is made from must be built already (`drirl run --only`). The result is the one that `drirl run` would build,
    and is reused by it.
    """
    from drirl_core.graph.launched import build_launched, place_of_mpi

    os.environ.update(place_of_mpi(os.environ))  # libraries read it too
    made = build_launched(asset, read_project(config, changes), os.environ, ConsoleReporter())
    if made is not None:
        output().print(Text(f"{made.asset}: version {made.version} in {made.path}"), soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Examples:\n\n"
        "`torchrun --standalone --nproc-per-node 8 --no-python drirl train mine.yaml` trains the policy on the eight "
        "GPUs of this machine.\n\n"
        "`accelerate launch --multi_gpu --num_processes 8 --no_python drirl train mine.yaml --asset sft_checkpoint` "
        "does the same for the start, by accelerate.\n\n"
        "`torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 --no-python drirl "
        "train mine.yaml`, run on each of two machines, trains the policy on both."
    )(train)
