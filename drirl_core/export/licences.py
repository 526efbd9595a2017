"""The licence of exported weights, which is that of their base model, and what has to be said about their origin."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from drirl_core import __version__
from drirl_core.config import Config
from drirl_core.errors import ConfigError, ModelError
from drirl_core.models.naming import base_model
from drirl_core.models.references import resolve

LICENCE, NOTICE = "LICENSE", "NOTICE"
_SHIPPED = Path(__file__).with_name("licences")
_TEXTS = ("LICENSE*", "LICENCE*", "USE_POLICY*")
_LLAMA = (
    "Built with Llama. Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. "
    "All Rights Reserved."
)


@dataclass(frozen=True)
class Licence:
    """The licence of exported weights.

    Args:
        name: as model hubs write it; `other` where it is not known.
        texts: files with its text; none where it was not found.
    """

    name: str
    texts: tuple[Path, ...]


def licence_of(config: Config, given: Path | None = None) -> Licence:
    """Find the licence of a policy: given by the user, beside its base model, or known by its name.

    Args:
        config: names the base model.
        given: a file with the text.

    Raises:
        ConfigError: the given file does not exist.
    """
    name = base_model(config.models.policy)[1]
    if given is not None:
        if not given.is_file():
            raise ConfigError(f"--licence {given} is no file; give the file that holds the licence of the base model")
        return Licence(name, (given,))
    try:
        folder = resolve(config.models.policy, config.models, fetch=False)
    except ModelError:  # the base model is gone from this machine; its weights are not needed
        folder = None
    beside = sorted({file for pattern in _TEXTS for file in folder.glob(pattern)}) if folder else []
    shipped = _SHIPPED / f"{name}.txt"
    return Licence(name, tuple(beside) or ((shipped,) if shipped.is_file() else ()))


def write_licence(folder: Path, config: Config, licence: Licence, data: Iterable[tuple[str, str]]) -> None:
    """Write `LICENSE` and `NOTICE`, and further texts under their own names.

    Args:
        folder: of the export.
        config: names the base model.
        licence: of the weights.
        data: name and licence of each source of the training data.
    """
    base = base_model(config.models.policy)[0]
    for number, text in enumerate(licence.texts):
        shutil.copyfile(text, folder / (LICENCE if number == 0 else text.name))
    if not licence.texts:
        (folder / LICENCE).write_text(
            f"These weights are derived from {base}, and its licence holds for them. The text was not found beside the "
            "base model when this folder was made.\n",
            encoding="utf-8",
        )
    (folder / NOTICE).write_text("\n".join(_notice(base, licence, sorted(set(data)))) + "\n", encoding="utf-8")


def _notice(base: str, licence: Licence, data: Sequence[tuple[str, str]]) -> list[str]:
    known = licence.name if licence.name != "other" else "its own licence"
    lines = [f"These weights are derived from {base} ({known}; see {LICENCE})."]
    if licence.name == "llama3.1":
        lines.append(_LLAMA)
    lines.append(f"They were trained with drirl {__version__} (Apache-2.0), an implementation of arXiv:2503.18991.")
    lines.append("Training data:")
    return lines + [f"- {name}: {terms}" for name, terms in data]
