"""`drirl doctor`: check everything that a run needs before the run starts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from drirl_core.config import Config
from drirl_core.errors import ConfigError, ModelError
from drirl_core.project import Project
from drirl_core.store.remote import is_uri
from pipeline.cli import doctor_checks as checks
from pipeline.cli import doctor_models as looks
from pipeline.cli.common import read_project
from pipeline.cli.doctor_checks import Check
from pipeline.cli.doctor_data import check_data
from pipeline.cli.doctor_database import check_postgres

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_ABSENT = ("has not been fetched yet", "cannot be fetched from the hub")


def examine(path: Path, fetch: bool, changes: Sequence[str] = ()) -> Iterator[Check]:
    """Run every check; checks that need the configuration are skipped when it cannot be read.

    Args:
        path: the configuration.
        fetch: whether missing models may be downloaded.
        changes: the `key=value` texts of `--set`.

    Yields:
        Each result as soon as it is known.
    """
    yield checks.check_python()
    yield from checks.check_packages()
    try:
        project = read_project(path, changes)
    except ConfigError as error:
        yield Check(
            "config", "fail", str(error), "fix the file; `drirl config --explain` prints every setting with its help"
        )
    else:
        yield Check("config", "ok", f"{path} ({project.config.name})")
        yield from _said_once(_with_config(project, fetch))
    yield checks.check_memory()
    yield checks.check_cpu()
    yield checks.check_dagster_home()
    yield check_postgres()
    yield checks.check_port()


def _said_once(found: Iterable[Check]) -> Iterator[Check]:
    """Leave out failed checks that say what a check before them said, such as a file that two of them cannot read."""
    told: set[str] = set()
    for check in found:
        if check.status != "fail" or check.detail not in told:
            yield check
        told.add(check.detail)


def _with_config(project: Project, fetch: bool) -> Iterator[Check]:
    config = project.config
    try:
        yield from checks.check_sources(project)
        yield from check_data(project)
    except ConfigError as error:
        yield Check("taxonomy", "fail", str(error), "")
    here: set[str] = set()
    for name, reference in _models(config).items():
        check = check_model(name, reference, config, fetch)
        here |= {name} if check.status == "ok" else set()
        yield check
    yield from looks.check_options(config)
    yield looks.check_sampler(config)
    yield from looks.check_quantization(config)
    if "policy model" in here:
        yield from looks.check_policy(project)
    if "sentence encoder" in here:
        yield looks.check_encoder(config)
    yield checks.check_disk(config)
    if is_uri(config.root):
        yield checks.check_object_store(project)
    yield checks.check_gpu(config)
    yield checks.check_executor(config)


def _models(config: Config) -> dict[str, str]:
    """Return the reference of every model that a run loads, by what it is for."""
    names = {
        "models.policy": "policy model",
        "models.encoder": "sentence encoder",
        "demonstrations.demonstrator.model": "demonstrator model",
    }
    return {names[setting]: reference for setting, reference in config.model_references.items()}


def check_model(name: str, reference: str, config: Config, fetch: bool) -> Check:
    """Find the files of a model without loading it.

    Args:
        name: what it is used for.
        reference: its reference.
        config: for the cache directory.
        fetch: whether it may be downloaded.

    Returns:
        `warn` when the first run would download it, `fail` when it is damaged or cannot be downloaded.
    """
    from drirl_core.models.references import resolve

    try:
        folder = resolve(reference, config.models, fetch=fetch)
    except ModelError as error:
        if not fetch and any(words in str(error) for words in _ABSENT):
            return Check(
                name,
                "warn",
                f"{reference} is not on this machine yet; the first run fetches it",
                "fetch it now: drirl doctor --fetch",
            )
        return Check(name, "fail", str(error), "")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Check(name, "ok", f"{reference} ({size / 1e6:,.0f} MB in {folder})")


def as_json(found: Iterator[Check]) -> tuple[bool, str]:
    """Write results as JSON.

    Args:
        found: the results.

    Returns:
        Whether no check failed, and JSON text of an object with `ok`, `counts` and `checks`.
    """
    checks = list(found)
    counts = {status: sum(check.status == status for check in checks) for status in _COLOURS}
    document = {"ok": not counts["fail"], "counts": counts, "checks": [dataclasses.asdict(check) for check in checks]}
    return not counts["fail"], json.dumps(document, indent=1)


def show(found: Iterator[Check], console: Console) -> bool:
    """Print results as they arrive.

    Args:
        found: the results.
        console: where to print.

    Returns:
        True when no check failed.
    """
    counts = {"ok": 0, "warn": 0, "fail": 0}
    for check in found:
        counts[check.status] += 1
        colour = _COLOURS[check.status]
        console.print(
            f"[{colour}]{check.status:<4}[/]  [bold]{escape(check.name)}[/]: {escape(check.detail)}",
            highlight=False,
            soft_wrap=True,
        )
        if check.fix:
            console.print(f"      -> {escape(check.fix)}", highlight=False, soft_wrap=True)
    console.print(f"\n{counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failed", highlight=False)
    return not counts["fail"]
