"""`drirl export`: the policy of a configuration as a folder that is complete by itself."""

from __future__ import annotations

import enum
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    ConsoleReporter,
    DebugOption,
    Given,
    RunOption,
    SetOption,
    output,
)

if TYPE_CHECKING:
    from drirl_core.export.material import Material

FOLDER = Path(".drirl") / "exports"
"""Where exports are written unless another place is given, below the project."""


class GgufType(enum.StrEnum):
    """Number types of a GGUF file's matrices."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"


LicenceOption = Annotated[
    Path | None,
    typer.Option(
        "--licence",
        metavar="FILE",
        help="File with the licence of the base model. Default: the one beside the base model, or the known one.",
    ),
]
GgufOption = Annotated[
    bool, typer.Option("--gguf", help="Write a GGUF file too, in float16, for llama.cpp and programs built on it.")
]
GgufTypesOption = Annotated[
    list[GgufType] | None,
    typer.Option("--gguf-type", help="Number type of a GGUF file; writes one. Can be given several times."),
]


def gguf_types(wanted: bool, types: list[GgufType] | None) -> tuple[str, ...]:
    """Return the number types of the GGUF files that were asked for; without a type float16."""
    return tuple(dict.fromkeys(kind.value for kind in types)) if types else ("f16",) if wanted else ()


def export(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    run: RunOption = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Folder to make. Default: .drirl/exports/NAME in the project."),
    ] = None,
    gguf: GgufOption = False,
    types: GgufTypesOption = None,
    show: Annotated[
        str,
        typer.Option(
            "--show",
            metavar="POLICY",
            help="Policy to export: `dr_irl`, `sft` (the policy before reinforcement learning), or a baseline "
            "with weights of its own.",
        ),
    ] = "dr_irl",
    licence: LicenceOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export at the same place.")] = False,
    debug: DebugOption = False,
) -> None:
    """Write the policy of a configuration as a folder that anybody can load, complete or not at all.

    It holds the weights, tokenizer, chat template, the adapter by itself, a model card with the measured figures, and
    the licence.
    """
    from drirl_core.config.place import PROJECT
    from drirl_core.export.folder import Wanted, require_free
    from drirl_core.export.folder import export as write
    from drirl_core.export.licences import licence_of
    from drirl_core.export.material import gather

    given = Given.of(config, changes, run=run)
    named = given.named()
    terms = licence_of(named.project.config, licence)
    if to is not None:
        require_free(to.expanduser().absolute(), force)
    material = gather(named, show)
    target = to or PROJECT / FOLDER / material.slug
    wanted = Wanted(gguf_types(gguf, types), force)
    _show(write(material, target, terms, wanted, ConsoleReporter()), material, given, output())


def _show(folder: Path, material: Material, given: Given, console: Console) -> None:
    """Print what was written, and the next steps."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    console.print(Text(f"{folder}: {size / 1e6:,.0f} MB"), soft_wrap=True)
    if material.failed:
        said = f"{len(material.failed)} of {len(material.gates)} gates fail for this policy; the card lists them."
        console.print(Text(said, style="yellow"), soft_wrap=True)
    console.print(
        Text(
            "Load it:\n"
            f"  from transformers import AutoModelForCausalLM, AutoTokenizer\n"
            f"  model = AutoModelForCausalLM.from_pretrained({str(folder)!r})\n"
            f"  tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})"
        ),
        soft_wrap=True,
    )
    for file in sorted(folder.glob("*.gguf")):
        console.print(Text(f"llama.cpp: llama-cli -m {file} --jinja"), soft_wrap=True)
    console.print(Text(f"Measure it elsewhere: drirl eval path:{folder} --suite SUITE"), soft_wrap=True)
    if material.policy == "dr_irl":
        changes = [word for change in given.changes for word in ("--set", change)]
        recorded = ["--run", given.run] if given.run else []
        words = ["drirl", "push", "OWNER/NAME", *given.file_words, *changes, *recorded]
        console.print(Text(f"Publish it: {shlex.join(words)}"), soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Examples:\n\n"
        "`drirl export` writes the policy of the demo to .drirl/exports/demo.\n\n"
        "`drirl export mine.yaml --to ~/models/mine --gguf` writes that of your own file, and a GGUF file.\n\n"
        "`drirl export --gguf-type q8_0 --gguf-type bf16` writes two GGUF files.\n\n"
        "`drirl export --show sft` writes the policy before reinforcement learning."
    )(export)
