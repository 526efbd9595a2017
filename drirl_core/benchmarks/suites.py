"""Benchmark suites: declared in `suites.yaml`, read from the user's files.

The loader feeds both the benchmarks and the decontamination of the training data, so a row it cannot read is an error
and never skipped: a lost row would be a benchmark prompt in the training set.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drirl_core.benchmarks.declared import FILE, OWN_SUITE, declarations, declares_itself
from drirl_core.config import EMBEDDED, SuiteConfig
from drirl_core.config.strict_yaml import read_yaml
from drirl_core.errors import ConfigError, DataError, nearest
from drirl_core.files.chat import text_of
from drirl_core.files.reading import find_file, read_strictly
from drirl_core.files.records import Record, column_names
from drirl_core.files.values import UnreadableError, label, matches, shown
from drirl_core.graph.layout import SHIPPED_SUITES, suite_folder
from drirl_core.store.tables import prompt_id
from drirl_core.taxonomy import ALL
from drirl_core.text.readable import unreadable

GROUPS = ("unsafe", "safe_look_alike", "helpful")
"""Groups in the order tables show them."""

PAIRED = ("unsafe", "safe_look_alike")
"""Groups whose rows a suite may link in pairs."""

_COLUMN_SETTINGS = {"prompt", "category", "context", "accept", "pair"}
_GROUP_KEYS = _COLUMN_SETTINGS | {"file", "where"}


@dataclass(frozen=True)
class BenchmarkRow:
    """One prompt of a suite.

    Args:
        suite: name of the suite.
        group: `unsafe`, `safe_look_alike` or `helpful`.
        category: what the suite reports by.
        prompt_id: content hash of the prompt.
        prompt: the text given to the policy.
        accept: regular expressions, one of which a correct reply matches; empty without ground truth.
        pair: what links an unsafe prompt and its safe twin; empty for a row without one.
    """

    suite: str
    group: Literal["unsafe", "safe_look_alike", "helpful"]
    category: str
    prompt_id: str
    prompt: str
    accept: tuple[str, ...] = ()
    pair: str = ""


@dataclass(frozen=True)
class Suite:
    """Declaration of a suite.

    Args:
        name: its name.
        version: raised when its rows or their meaning change.
        licence: licence of the prompts.
        home: where to get the files.
        groups: file and columns of each group.
        prefill: words that every reply is made to begin with; empty for none.
    """

    name: str
    version: str
    licence: str
    home: str
    groups: Mapping[str, Mapping[str, Any]]
    prefill: str = ""


def find_suite(config: SuiteConfig) -> Suite:
    """Return the declaration of a suite, under the name that the configuration gives it.

    Args:
        config: name and path of the suite, whose rows it has, and how replies begin.

    Raises:
        DataError: the name is not declared and the path has no `suite.yaml`, or the declaration is malformed.
    """
    known, own = _declared(), Path(config.path) / OWN_SUITE
    if declares_itself(config):
        if config.of:
            raise DataError(
                f"benchmark suite {config.name!r} has `of: {config.of}`, but {own} declares its rows; remove one"
            )
        found = _parse(config.name, _read_yaml(own), own)
    elif config.declared in known:
        found = known[config.declared]
    else:
        raise DataError(
            f"benchmark suite {config.declared!r} is not declared; {nearest(config.declared, known)}. "
            f"For a suite of your own set its path to a directory with a {OWN_SUITE}; to list a declared one under "
            "another name, set `of` to its own"
        )
    return dataclasses.replace(found, name=config.name, prefill=config.prefill)


def load_suite(config: SuiteConfig) -> list[BenchmarkRow]:
    """Read a suite.

    Args:
        config: name, path (`embedded`, a file or a directory) and limit.

    Returns:
        Rows by group, in the files' order; with a limit, the first ones of each group by `prompt_id`, or by a hash of
        their pair, so that twins stay together.

    Raises:
        DataError: a file or column is missing, a file cannot be read, a row has no prompt, or a pair is not one unsafe
            and one safe prompt; the message says what to do.
    """
    suite = find_suite(config)
    groups = {group: [row for row, _ in _read_group(suite, config, group)] for group in GROUPS if group in suite.groups}
    _require_pairs(config, groups)
    rows: list[BenchmarkRow] = []
    for read in groups.values():
        if config.limit:
            kept = {id(row) for row in sorted(read, key=_place_under_a_limit)[: config.limit]}
            read = [row for row in read if id(row) in kept]
        rows += read
    return rows


def _place_under_a_limit(row: BenchmarkRow) -> tuple[bool, str]:
    return (False, prompt_id(row.pair)) if row.pair else (True, row.prompt_id)


def _require_pairs(config: SuiteConfig, groups: Mapping[str, Sequence[BenchmarkRow]]) -> None:
    """Check that a pair is one unsafe prompt and one safe prompt."""
    counts = {group: Counter(row.pair for row in groups.get(group, ()) if row.pair) for group in PAIRED}
    for group, found in counts.items():
        other = next(name for name in PAIRED if name != group)
        wrong = [pair for pair, n in found.items() if n > 1 or pair not in counts[other]]
        if wrong:
            raise DataError(
                f"suite {config.name!r}: the pair {wrong[0]!r} links {found[wrong[0]]} prompts of {group} and "
                f"{counts[other][wrong[0]]} of {other}; give each pair one of both, or leave the pair empty"
            )


def benchmark_prompts(suites: Sequence[SuiteConfig]) -> list[str]:
    """Return the prompts of all suites, which no training row may repeat.

    Raises:
        DataError: as `load_suite`.
    """
    # A suite that is listed twice, once with a prefill, is read once: what is left out depends on its prompts alone.
    different: dict[tuple[str, str], SuiteConfig] = {}
    for suite in suites:
        different.setdefault((suite.declared, suite.path), suite)
    return [prompt for suite in different.values() for prompt in suite_prompts(suite)]


def suite_prompts(config: SuiteConfig) -> list[str]:
    """Return every prompt of a suite, for decontamination: all rows whatever the limit.

    Args:
        config: name and path of the suite.

    Returns:
        Different texts in order; a prompt with a context comes with and without it.

    Raises:
        DataError: as `load_suite`.
    """
    suite = find_suite(config)
    texts: dict[str, None] = {}
    for group in (name for name in GROUPS if name in suite.groups):
        for row, bare in _read_group(suite, config, group):
            texts[row.prompt] = texts[bare] = None
    return list(texts)


def _read_group(suite: Suite, config: SuiteConfig, group: str) -> list[tuple[BenchmarkRow, str]]:
    """Return each row with its prompt as the file has it, without the context."""
    layout = suite.groups[group]
    path = _locate(suite, config, group)
    records = read_strictly(path)
    found = column_names(records)
    columns = {key: _column(layout[key], found, suite, path) for key in _COLUMN_SETTINGS if key in layout}
    where = {_column(name, found, suite, path): values for name, values in _where(layout).items()}
    rows = []
    for record in records:
        place = f"{path}, {record.place}"
        if all(_passes(record, name, values, place) for name, values in where.items()):
            rows.append(_row(suite, group, record, columns, place))
    if not rows:
        raise DataError(
            f"{path}: no row of the group {group!r} ({_where(layout)}); get the file again from {suite.home}"
        )
    return rows


def _row(suite: Suite, group: str, record: Record, columns: Mapping[str, str], place: str) -> tuple[BenchmarkRow, str]:
    bare = _text(record, columns["prompt"], place)
    context = _label(record, columns.get("context"), place)
    prompt = f"{context}\n\n{bare}" if context else bare
    category = _label(record, columns["category"], place, needed=True) if "category" in columns else group
    if category == ALL:
        raise DataError(f"{place}: the category is {ALL!r}, the name of the sum of all rows in every table; rename it")
    accept = _patterns(record.values.get(columns["accept"]), place) if "accept" in columns else ()
    pair = _label(record, columns.get("pair"), place)
    return BenchmarkRow(suite.name, group, category, prompt_id(prompt), prompt, accept, pair), bare  # type: ignore[arg-type]


def _where(layout: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the wanted values by column; a single one may stand without its list."""
    return {name: values if isinstance(values, list) else [values] for name, values in layout.get("where", {}).items()}


def _passes(record: Record, column: str, wanted: Sequence[Any], place: str) -> bool:
    try:
        return matches(record.values.get(column), wanted)
    except UnreadableError as error:
        raise DataError(
            f"{place}: column {column!r} is {error}; the suite keeps rows where it is one of {wanted}: fix the row or "
            "remove it from the file"
        ) from error


def _locate(suite: Suite, config: SuiteConfig, group: str) -> Path:
    names = _as_list(suite.groups[group]["file"])
    if config.path == EMBEDDED and config.declared not in SHIPPED_SUITES:
        raise DataError(
            f"benchmark suite {suite.name!r} is not shipped; get {names[0]} from {suite.home} "
            f"(licence {suite.licence}) and set the suite's `path` to the file or its directory"
        )
    folder = suite_folder(config.declared, config.path)
    if folder.is_file():
        files = {tuple(_as_list(layout["file"])) for layout in suite.groups.values()}
        if len(files) > 1:
            raise DataError(
                f"suite {suite.name!r} has several files, but its path {folder} is one file; "
                "give the directory that contains them"
            )
        return folder
    found = next(filter(None, (find_file(folder, name) for name in names)), None)
    if found is None:
        problem = "has none" if folder.is_dir() else "does not exist"
        raise DataError(
            f"suite {suite.name!r} needs {' or '.join(names)}, and {folder} {problem}; "
            f"get it from {suite.home} or fix the suite's `path`"
        )
    return found


def _column(names: str | list[str], known: Sequence[str], suite: Suite, path: Path) -> str:
    wanted = _as_list(names)
    found = next((name for name in wanted if name in known), None)
    if found is None:
        raise DataError(
            f"{path} has no column {' or '.join(map(repr, wanted))}, which the suite {suite.name!r} needs; "
            f"{nearest(wanted[0], known)}. Use the file from {suite.home}"
        )
    return found


def _text(record: Record, column: str, place: str) -> str:
    """Return the prompt of a row; in chat format, the first turn of the user."""
    value = record.values.get(column)
    try:
        value = text_of(value, "user")
    except UnreadableError as error:
        raise DataError(f"{place}: column {column!r} is {error}; fix the row or remove it from the file") from error
    if not isinstance(value, str) or not value.strip():
        what = repr(value) if value is None or isinstance(value, str) else shown(value)
        raise DataError(f"{place}: column {column!r} is {what}, not text; fix the row or remove it from the file")
    return _readable(value.strip(), column, place)


def _label(record: Record, column: str | None, place: str, *, needed: bool = False) -> str:
    """Return what a column says, as text; an empty text where there is no column or nothing in it."""
    if column is None:
        return ""
    try:
        text = label(record.values.get(column))
    except UnreadableError as error:
        raise DataError(f"{place}: column {column!r} is {error}; fix the row or remove it from the file") from error
    if needed and not text:
        raise DataError(f"{place}: column {column!r} is empty; fix the row or remove it from the file")
    return _readable(text, column, place)


def _readable(text: str, column: str, place: str) -> str:
    if problem := unreadable(text):
        raise DataError(f"{place}: column {column!r} holds {problem}; fix the row or remove it from the file")
    return text


def _patterns(value: Any, place: str) -> tuple[str, ...]:
    patterns = tuple(value) if isinstance(value, list) else (value,)
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise DataError(f"{place}: `accept` is {value!r}; give a list of regular expressions")
    for pattern in patterns:
        _readable(pattern, "accept", place)
        try:
            re.compile(pattern)
        except re.error as error:
            raise DataError(f"{place}: `accept` holds {pattern!r}, which is no regular expression ({error})") from error
    return patterns


@functools.cache
def _declared() -> dict[str, Suite]:
    return {name: _parse(name, dict(record), FILE) for name, record in declarations().items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = read_yaml(path, "suite declaration")
    except ConfigError as error:
        raise DataError(str(error)) from error
    if not isinstance(loaded, dict):
        raise DataError(f"suite declaration {path} must hold keys and values, not {type(loaded).__name__}")
    return loaded


def _parse(name: str, record: Any, path: Path) -> Suite:
    keys = ("version", "licence", "home", "groups")
    if (
        not isinstance(record, dict)
        or set(record) != set(keys)
        or not isinstance(record["groups"], dict)
        or not record["groups"]
    ):
        raise DataError(f"{path}: suite {name!r} needs exactly the keys {', '.join(keys)}, with at least one group")
    for key in keys[:3]:
        value = record[key]
        if not isinstance(value, str) and not (key == "version" and type(value) is int):  # 1.10 would become 1.1
            raise DataError(f"{path}: {key} of the suite {name!r} is {value!r}, not a text; put it in quotes")
    for group, layout in record["groups"].items():
        if group not in GROUPS:
            raise DataError(f"{path}: suite {name!r} has a group {group!r}; {nearest(str(group), GROUPS)}")
        if not isinstance(layout, dict) or not {"file", "prompt"} <= set(layout) or not set(layout) <= _GROUP_KEYS:
            raise DataError(
                f"{path}: group {group!r} of {name!r} needs file and prompt, and may have category, context, accept, "
                "pair and where"
            )
        for key in sorted({*layout} - {"where"}):
            texts = layout[key] if isinstance(layout[key], list) else [layout[key]]
            if not texts or not all(isinstance(text, str) and text for text in texts):
                raise DataError(
                    f"{path}: {key} in the group {group!r} of {name!r} is {layout[key]!r}; give a name, or a list of "
                    "names of which the first that is there counts, with quotes around a number"
                )
        _check_where(path, f"group {group!r} of {name!r}", layout.get("where", {}))
    linked = [group for group, layout in record["groups"].items() if "pair" in layout]
    if linked and sorted(linked) != sorted(PAIRED):
        raise DataError(
            f"{path}: suite {name!r} has a `pair` column in {', '.join(linked)}; pairs link {' and '.join(PAIRED)}, so "
            "give it in both"
        )
    return Suite(name, str(record["version"]), str(record["licence"]), str(record["home"]), record["groups"])


def _check_where(path: Path, group: str, where: Any) -> None:
    """Refuse a filter that says nothing, or whose values no row can be compared with."""
    listed = _where({"where": where}).values() if isinstance(where, dict) else [[]]
    if not all(values and all(isinstance(value, str | int | float) for value in values) for values in listed):
        raise DataError(
            f"{path}: {group}: `where` maps a column to a list of values (texts, numbers, true or false), not {where!r}"
        )


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
