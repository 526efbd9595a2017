"""TRL's arguments: the fields that we set, each with the setting that decides it, and the user's own options.

A field is ours when one of the functions that make arguments sets it; there is no second list of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from drirl_core.errors import ConfigError


class Ours(NamedTuple):
    """A field of TRL that we set.

    Args:
        value: its value.
        setting: what a user changes instead, in words; empty where nothing may be changed.
    """

    value: Any
    setting: str = ""


def arguments_of(cls: type, section: str, ours: Mapping[str, Ours], options: Mapping[str, Any]) -> Any:
    """Make TRL's arguments from our fields and the user's options.

    Args:
        cls: one of TRL's dataclasses, such as `GRPOConfig`.
        section: dotted name of the options, such as `policy.trl`.
        ours: the fields that we set, by name.
        options: the user's fields, by name.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigError: an option is unknown, ours or of the wrong type, or TRL refuses it.
    """
    wrong = list(_problems(cls, section, ours, options))
    if wrong:
        raise ConfigError("; ".join(wrong))
    hints = typing.get_type_hints(cls)
    own = {name: _converted(hints[name], value) for name, value in options.items()}
    values = {name: field.value for name, field in ours.items()}
    if not own:
        return _on_one_gpu(cls(**values))
    try:
        return _on_one_gpu(cls(**values, **own))
    except (ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{section} ({', '.join(sorted(own))}): TRL's {cls.__name__} refuses it: {reason}") from error


def _on_one_gpu(arguments: Any) -> Any:
    """Return the arguments for one GPU: transformers would put a batch on each GPU that it sees (DataParallel)."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _problems(cls: type, section: str, ours: Mapping[str, Ours], options: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with options, each by itself."""
    hints = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    for name, value in options.items():
        if name in ours:
            yield f"{section}.{name} {_instead(ours[name])}"
        elif name not in fields:
            close = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
            advice = f"did you mean {close[0]!r}?" if close else "TRL's documentation lists them"
            yield f"{section}.{name} is no field of TRL's {cls.__name__}; {advice}"
        else:
            try:
                _converted(hints[name], value)
            except ValueError:
                yield f"{section}.{name} is {value!r}; TRL's {cls.__name__} takes {_said(hints[name])} there"


def _instead(field: Ours) -> str:
    if field.setting:
        return f"is decided by {field.setting}; take it out, and change that instead"
    return f"is always {field.value!r} here, and no setting changes it; take it out"


def _converted(kind: Any, value: Any) -> Any:
    """Return a value of the configuration as a field of this type takes it.

    Raises:
        ValueError: it has another type.
    """
    taken = TypeAdapter(kind, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    try:
        return taken.validate_json(json.dumps(value))  # of JSON, strict still takes a list for a tuple, and 1 for 1.0
    except ValidationError:
        if not isinstance(value, str):
            raise
        number = float(value)  # YAML 1.1 reads 5e-4 as a text
        if not math.isfinite(number):
            raise ValueError(f"{value} is not finite") from None
        return taken.validate_python(number)


def _said(kind: Any) -> str:
    """Return a type as Python writes it, without the modules of its names."""
    text = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", text)
