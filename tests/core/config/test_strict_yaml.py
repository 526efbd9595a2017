"""The reader of YAML: what is refused, in which line, and what it says to write instead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drirl_core.benchmarks.declared import FILE as SUITES
from drirl_core.benchmarks.suites import load_suite
from drirl_core.config import SuiteConfig, load_config
from drirl_core.config.strict_yaml import dump_yaml, load_yaml, read_yaml
from drirl_core.errors import ConfigError, DataError
from drirl_core.taxonomy import load_categories

MODELS = "models: {policy: 'hf:org/policy', encoder: 'hf:org/encoder'}\n"
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x, line 3: the key 'a' is already in line 1"),
        ("a:\n  b: 1\n  c: 2\n  b: 3", "x, line 4: the key 'b' is already in line 2"),
        ("- {a: 1,\n   a: 2}", "x, line 2: the key 'a' is already in line 1"),
        ("a: 1\n'a': 2", "x, line 2: the key 'a' is already in line 1"),
        ("<<: {a: 1}\n<<: {b: 1}", "x, line 2: the key '<<' is already in line 1"),
    ],
)
def test_a_repeated_key_is_refused_with_both_lines(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_yaml(text, "x")


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("010", "write 10 (8 if it is to base eight) for a number, '010' for a text"),
        ("0o10", "write 10 (8 if it is to base eight) for a number, '0o10' for a text"),
        ("-0644", "write -644 (-420 if it is to base eight) for a number, '-0644' for a text"),
        ("007", "write 7 for a number, '007' for a text"),
        ("09", "write 9 for a number, '09' for a text"),
        ("1:30", "write 90 for that number, '1:30' for a text"),
        ("-1:30", "write -90 for that number, '-1:30' for a text"),
        ("1:30:00", "write 5400 for that number, '1:30:00' for a text"),
        ("0:59.5", "write 59.5 for that number, '0:59.5' for a text"),
        ("yes", "write true for a switch, 'yes' for a text"),
        ("No", "write false for a switch, 'No' for a text"),
        ("ON", "write true for a switch, 'ON' for a text"),
        ("off", "write false for a switch, 'off' for a text"),
        ("~", "write null for nothing, '~' for a path"),
    ],
)
@pytest.mark.parametrize("place", ["seed: 1\nb: {}", "seed: 1\nb: [a, {}]", "seed: 1\n{}: b", "seed: 1\nb: {{c: {}}}"])
def test_an_unclear_value_is_refused_with_its_line_and_what_to_write(value: str, advice: str, place: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"x, line 2: `{value}` ") + ".*" + re.escape(advice)):
        load_yaml(place.format(value), "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: '010'", "010"),
        ('a: "no"', "no"),
        ("a: north", "north"),
        ("a: 2001:db8::1", "2001:db8::1"),
        ("a: 127.0.0.1:8000", "127.0.0.1:8000"),
        ("a: 2024-01-31", "2024-01-31"),  # not a date
        ("a: 1.10", 1.1),
        ("a: 0.5", 0.5),
        ("a: 0", 0),
        ("a: true", True),
        ("a: ~/data", "~/data"),
        ("a: null", None),
        ("a:", None),
        ("a: 1e5", "1e5"),
        ("a: |\n  010\n  no\n", "010\nno\n"),
        ("base: &b {a: 1}\na: {<<: *b, a: 2}", {"a": 2}),  # what is merged in may be replaced
        ("\ufeffa: 1", 1),
    ],
)
def test_clear_values_are_read_as_they_are(text: str, value: Any) -> None:
    assert load_yaml(text, "x")["a"] == value


@pytest.mark.parametrize("text", ["1: a", "true: a", "1.5: a", "? [a]\n: b", "null: a"])
def test_a_key_that_is_no_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"x, line 1: the key .*is no text"):
        load_yaml(text, "x")


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "--- 1\n--- 2", "a: !!python/object:os.system x", "a: 0b_", "[" * 5000, "a: &b [*b]"]
)
def test_what_is_no_yaml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"x.*cannot be read as YAML"):
        load_yaml(text, "x")


_TEXTS = st.sampled_from(
    ["010", "0o7", "1:30", "no", "Yes", "on", "09", "2024-01-31", "~", "1e5", "a: b", "# c", "", "null"]
)
_SCALARS = _TEXTS | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(_TEXTS, inner), max_leaves=10))
def test_what_is_written_is_read_back(data: Any) -> None:
    assert load_yaml(dump_yaml(data), "x") == data
    assert load_yaml(dump_yaml(data, default_flow_style=True), "x") == data


def test_a_run_configuration_with_a_section_twice_is_refused(tmp_path: Path) -> None:
    """The second `policy` used to replace the first one, steps and all."""
    base, file = tmp_path / "base.yaml", tmp_path / "run.yaml"
    base.write_text(MODELS, encoding="utf-8")
    file.write_text("extends: base.yaml\npolicy:\n  steps: 40\nseed: 1\npolicy:\n  kl: 0.2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.yaml, line 5: the key 'policy' is already in line 2"):
        load_config(file)
    base.write_text(f"{MODELS}policy: {{steps: 4}}\npolicy: {{kl: 0.1}}\n", encoding="utf-8")
    file.write_text("extends: base.yaml\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"base\.yaml, line 3: the key 'policy' is already in line 2"):
        load_config(file)


def test_numbers_of_a_run_configuration_are_not_read_to_base_eight_or_sixty(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    for value in ("010", "1:30"):
        file.write_text(f"{MODELS}policy:\n  steps: {value}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"run\.yaml, line 3: `{value}` "):
            load_config(file)


def test_a_suite_with_a_group_twice_is_refused(tmp_path: Path) -> None:
    """The unsafe group used to become the safe file."""
    (tmp_path / "suite.yaml").write_text(
        'version: "1"\nlicence: CC0-1.0\nhome: mine\ngroups:\n'
        "  unsafe: {file: unsafe.csv, prompt: prompt}\n"
        "  unsafe: {file: safe.csv, prompt: prompt}\n",
        encoding="utf-8",
    )
    with pytest.raises(DataError, match=r"suite\.yaml, line 6: the key 'unsafe' is already in line 5"):
        load_suite(SuiteConfig("mine", str(tmp_path)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("version: 1.10", r"version of the suite 'mine' is 1\.1, not a text; put it in quotes"),
        ("version: 010", r"line 1: `010` starts with a zero"),
        ("version: null", r"version of the suite 'mine' is None, not a text"),
    ],
)
def test_a_version_of_a_suite_is_kept_as_written(tmp_path: Path, line: str, message: str) -> None:
    rest = "licence: CC0-1.0\nhome: mine\ngroups: {unsafe: {file: a.csv, prompt: prompt}}\n"
    (tmp_path / "suite.yaml").write_text(f"{line}\n{rest}", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_suite(SuiteConfig("mine", str(tmp_path)))


def test_columns_of_a_suite_are_names(tmp_path: Path) -> None:
    declaration = "version: '1'\nlicence: l\nhome: h\ngroups: {unsafe: {file: a.csv, prompt: 1}}\n"
    (tmp_path / "suite.yaml").write_text(declaration, encoding="utf-8")
    with pytest.raises(DataError, match="prompt in the group 'unsafe' of 'mine' is 1; give a name"):
        load_suite(SuiteConfig("mine", str(tmp_path)))


def test_a_taxonomy_with_its_list_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "taxonomy.yaml"
    file.write_text("categories: [privacy]\ncategories: [fraud]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"taxonomy\.yaml, line 2: the key 'categories' is already in line 1"):
        load_categories(file)
    file.write_text("categories:\n  - privacy\n  - no\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"taxonomy\.yaml, line 3: `no` "):
        load_categories(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"file .*nowhere\.yaml cannot be read \(No such file"):
        read_yaml(tmp_path / "nowhere.yaml", "file")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfea")
    with pytest.raises(ConfigError, match=r"bytes\.yaml cannot be read as YAML.*save it as UTF-8"):
        read_yaml(tmp_path / "bytes.yaml", "file")


def test_no_other_reader_of_yaml_is_used() -> None:
    """Dagster's own settings, which are written for Dagster alone, are the one use of `yaml` beside the strict one."""
    found = {
        str(file.relative_to(ROOT))
        for package in ("drirl_core", "pipeline")
        for file in (ROOT / package).rglob("*.py")
        if re.search(r"yaml\.(?:safe_|full_|unsafe_)?load", file.read_text(encoding="utf-8"))
    }
    assert found == {"drirl_core/config/strict_yaml.py"}


def test_the_files_of_the_package_are_clear() -> None:
    files = [
        *(ROOT / "configs").glob("*.yaml"),
        ROOT / "dagster.yaml",
        ROOT / "drirl_core/prompts/sources.yaml",
        SUITES,
    ]
    assert all(read_yaml(file, "file") for file in files)
