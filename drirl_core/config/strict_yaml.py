"""The one reader of YAML: what YAML would take silently for something else is refused, with its line.

YAML keeps the last of two equal keys, reads `010` as 8, `1:30` as 90, `no` as false and `~` as nothing, and other
readers of YAML disagree with it. None of that is ever meant, so each is an error that says what to write instead.
Dates stay texts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from drirl_core.errors import ConfigError

_UNCLEAR = "!unclear"
_OCTAL = re.compile(r"[-+]?0[0-9_]+|[-+]?0[oO][0-7_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_SWITCH = re.compile(r"(?:yes|no|on|off)", re.IGNORECASE)
_UNCLEAR_WORDS = re.compile(rf"(?:~|{_OCTAL.pattern}|{_SEXAGESIMAL.pattern}|{_SWITCH.pattern})\Z", re.IGNORECASE)
_MARKS = str.maketrans("", "", "+-_oO")
_FIRST = list("~-+0123456789yYnNoO")
_TIMESTAMP, _MERGE, _TEXT = (f"tag:yaml.org,2002:{name}" for name in ("timestamp", "merge", "str"))


class _Unreadable(ValueError):
    """Say what is wrong, and in which line."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the parser in C where there is one
    """Builds plain data; refuses repeated keys, keys that are no text, and unclear values."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse repeated keys before `<<` is resolved: a key may replace one that is merged in."""
        self._check_keys(node)
        return super().construct_mapping(node, deep=deep)

    def _check_keys(self, node: yaml.Node) -> None:
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key.start_mark.line + 1
            if key.tag == _UNCLEAR:
                raise _refusal(key)
            if key.tag not in (_TEXT, _MERGE):
                named = isinstance(key, yaml.ScalarNode) and key.value
                advice = f"`{key.value}` is no text; put it in quotes: '{key.value}'" if named else "is no text"
                raise _Unreadable(line, f"the key {advice}")
            if key.value in lines:
                raise _Unreadable(
                    line,
                    f"the key {key.value!r} is already in line {lines[key.value]}, and only one of them would count; "
                    "keep one, and move what is under the other to it",
                )
            lines[key.value] = line


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back unchanged."""


def _refusal(node: yaml.Node) -> _Unreadable:
    text = str(node.value)
    if _SWITCH.fullmatch(text):
        means = "true" if text.casefold() in ("yes", "on") else "false"
        advice = f"is read as {means} by some and as a text by others; write {means} for a switch, '{text}' for a text"
    elif text == "~":
        advice = (
            "is read as nothing, although a path means the home directory by it; write null for nothing, '~' for a path"
        )
    elif _OCTAL.fullmatch(text):
        sign, digits = "-" if text.startswith("-") else "", text.translate(_MARKS).lstrip("0") or "0"
        octal = not set(digits) & {"8", "9"} and int(digits, 8) != int(digits)
        eight = f" ({sign}{int(digits, 8)} if it is to base eight)" if octal else ""
        advice = (
            f"starts with a zero, which some read as a number to base eight; write {sign}{digits}{eight} for a number, "
            f"'{text}' for a text"
        )
    else:
        number = 0.0
        for part in text.strip("+-").replace("_", "").split(":"):
            number = 60 * number + float(part)
        advice = (
            f"is read as a number to base sixty by some; write {'-' * text.startswith('-')}{number:g} for that number, "
            f"'{text}' for a text"
        )
    return _Unreadable(node.start_mark.line + 1, f"`{text}` {advice}")


def _refuse_circles(node: Any, above: tuple[int, ...]) -> None:
    """Refuse an anchor that holds itself, which no setting means and no other code expects."""
    if isinstance(node, dict | list):
        if id(node) in above:
            raise yaml.YAMLError("an anchor (&) holds itself (*)")
        for part in node.values() if isinstance(node, dict) else node:
            _refuse_circles(part, (*above, id(node)))


def _refuse(loader: _Loader, node: yaml.Node) -> Any:
    raise _refusal(node)


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(_UNCLEAR, _UNCLEAR_WORDS, _FIRST)  # gives the class resolvers of its own
    for _resolvers in _class.yaml_implicit_resolvers.values():
        _resolvers.sort(key=lambda entry: entry[0] != _UNCLEAR)  # the first that matches decides
for _resolvers in _Loader.yaml_implicit_resolvers.values():
    _resolvers[:] = [entry for entry in _resolvers if entry[0] != _TIMESTAMP]
_Loader.add_constructor(_UNCLEAR, _refuse)


def load_yaml(text: str, where: str, *, lines: bool = True) -> Any:
    """Read YAML from a text.

    Args:
        text: the YAML.
        where: what it is, for messages, such as `config file /home/me/run.yaml`.
        lines: whether messages name the line; not for a text of one line from elsewhere.

    Returns:
        Plain data; None for an empty text.

    Raises:
        ConfigError: it is no YAML, repeats a key, or holds a value that readers of YAML understand differently; the
            message names the line, and for a repeated key both lines.
    """

    def at(line: int) -> str:
        return f"{where}, line {line}" if lines else where

    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
        _refuse_circles(loaded, ())
        return loaded
    except _Unreadable as error:
        raise ConfigError(f"{at(error.line)}: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(filter(None, (error.problem, error.context)))
        place = at(min(mark.line + 1, len(text.splitlines()))) if mark else where  # not the line after the last one
        raise ConfigError(f"{place}: it cannot be read as YAML ({said}); fix it there or just above") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{where}: it cannot be read as YAML ({said})") from error


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file.

    Args:
        path: a UTF-8 file.
        what: what kind of file it is, for messages, such as `config file`.

    Returns:
        Plain data; None for an empty file.

    Raises:
        ConfigError: it is missing, cannot be read, or as `load_yaml`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{what} {path} cannot be read as YAML, which is text in UTF-8 ({error}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{what} {path} cannot be read ({error.strerror or error}); check its name and its permissions"
        ) from error
    return load_yaml(text, f"{what} {path}")


def dump_yaml(data: Any, **options: Any) -> str:
    """Write plain data as YAML that `load_yaml` reads back unchanged.

    Args:
        data: plain data.
        options: of `yaml.dump`, such as `width`.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options)
