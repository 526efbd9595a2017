"""Labels, booleans and filters mean the same whatever type a file gives them."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from drirl_core.files.values import UnreadableError, label, matches, truth

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a b ", "a b"),
        (3, "3"),
        (3.0, "3"),
        (2.5, "2.5"),
        (True, "true"),
        (False, "false"),
        (None, ""),
        (NAN, ""),
        (" ", ""),
    ],
)
def test_a_label_is_text(value: Any, text: str) -> None:
    assert label(value) == text


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a", datetime.date(2024, 1, 1)])
def test_what_is_no_label_is_refused_with_its_type(value: Any) -> None:
    with pytest.raises(UnreadableError, match=type(value).__name__):
        label(value)


@pytest.mark.parametrize(
    ("value", "said"),
    [(v, True) for v in (True, 1, 1.0, "1", "true", " TRUE ", "Yes", "1.0", "1.")]
    + [(v, False) for v in (False, 0, 0.0, "0", "false", "No", "off")]
    + [(v, None) for v in (None, NAN, "", "  ")],
)
def test_truth(value: Any, said: bool | None) -> None:
    assert truth(value) is said


@pytest.mark.parametrize("value", [2, 0.5, "maybe", "unsafe", [True], b"1"])
def test_what_is_neither_true_nor_false_is_refused(value: Any) -> None:
    with pytest.raises(UnreadableError):
        truth(value)


@pytest.mark.parametrize(
    ("value", "wanted", "found"),
    [
        ("unsafe", ["unsafe"], True), (" Unsafe", ["unsafe"], True), ("safe", ["unsafe"], False),
        (True, [True], True), ("true", [True], True), ("True", [True], True), (1, [True], True), ("1", [True], True),
        (False, [True], False), ("false", [True], False), (0, [True], False), ("no", [True], False),
        (True, ["true"], True), (True, ["True"], True), (True, [1], True), (True, ["1"], True), (True, ["unsafe"], False),
        (1, ["1"], True), ("1", [1], True), (1.0, [1], True), ("1.0", [1], True), (1, [2, 3], False), (3, ["2", 3], True),
        ("true", ["true"], True), ("TRUE", ["true"], True),
    ],
)  # fmt: skip
def test_a_filter_compares_what_values_mean(value: Any, wanted: list[Any], found: bool) -> None:
    assert matches(value, wanted) is found


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(None, ["a"]), (NAN, ["a"]), ("", [True]), (2, [True]), ("maybe", [True]), (["a"], ["a"]), (b"a", ["a"])],
)
def test_a_filter_never_decides_on_what_it_cannot_read(value: Any, wanted: list[Any]) -> None:
    with pytest.raises(UnreadableError):
        matches(value, wanted)
