"""`drirl push`: the policy of a configuration as a model repository on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from drirl_core.errors import ConfigError
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
from pipeline.cli.export import GgufOption, GgufTypesOption, LicenceOption, gguf_types


def push(
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="Repository on the hub, as OWNER/NAME; it is made if there is none.")
    ],
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    run: RunOption = None,
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who may read a new repository: you, or everybody.")
    ] = True,
    gguf: GgufOption = False,
    types: GgufTypesOption = None,
    licence: LicenceOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Publish even if gates fail; needs --why, which the card shows.")
    ] = False,
    why: Annotated[str, typer.Option("--why", "-w", help="The reason, for the card.")] = "",
    debug: DebugOption = False,
) -> None:
    """Publish the policy of a configuration on the Hugging Face hub: what `drirl export` writes, in one commit.

    Everything is checked before anything is uploaded: the name, the login, the licence, and that every gate passes. The
    token comes from `hf auth login` or HF_TOKEN.
    """
    if force and not why.strip():
        raise ConfigError("--force overrules gates, and the card must say why; add --why TEXT")
    from drirl_core.config.place import PROJECT
    from drirl_core.export.folder import Wanted
    from drirl_core.export.folder import export as write
    from drirl_core.export.hub import Hub, require_publishable
    from drirl_core.export.licences import licence_of
    from drirl_core.export.material import gather
    from pipeline.cli.export import FOLDER

    named = Given.of(config, changes, run=run).named()
    terms = licence_of(named.project.config, licence)
    require_publishable(repository, not private, terms, (), "")
    material = gather(named)
    reason = why if force and material.failed else ""
    require_publishable(repository, not private, terms, material.gates, reason)
    hub = Hub()
    user = hub.require_login()
    hub.require_own_place(repository, private)
    console, reporter = output(), ConsoleReporter()
    reporter.log(f"push: logged in as {user}")
    place = PROJECT / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".push-", dir=place) as temporary:
        folder = write(
            material, Path(temporary) / material.slug, terms, Wanted(gguf_types(gguf, types), reason=reason), reporter
        )
        reporter.log(f"push: uploading to {repository}")
        message = f"{material.config.name}: policy {material.checkpoint.version}"
        address = hub.upload(folder, repository, private, message)
    console.print(Text(f"Published: {address}"), soft_wrap=True)
    console.print(
        Text(f"Load it: AutoModelForCausalLM.from_pretrained({repository!r}); drirl eval hf:{repository}"),
        soft_wrap=True,
    )


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Examples:\n\n"
        "`drirl push me/my-policy` publishes the policy of the demo, readable for you alone, if every gate passes.\n\n"
        "`drirl push my-org/my-policy mine.yaml --public --gguf` publishes that of your own file for everybody, with a "
        "GGUF file.\n\n"
        '`drirl push me/my-policy --force --why "red team only"` publishes although gates fail; the card says so.'
    )(push)
