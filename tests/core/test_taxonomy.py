"""Taxonomies: the seven categories of the paper, and others from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from drirl_core.errors import ConfigError
from drirl_core.taxonomy import HELPFUL, SEVEN_CATEGORIES, load_categories


def _write(folder: Path, text: str) -> Path:
    file = folder / "taxonomy.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_seven_of_the_paper() -> None:
    categories = load_categories(None)
    assert load_categories("") == categories
    assert len(categories) == len(set(categories)) == 7
    assert categories == SEVEN_CATEGORIES
    assert HELPFUL not in categories


def test_another_taxonomy_keeps_its_order(tmp_path: Path) -> None:
    assert load_categories(_write(tmp_path, "categories: [zebra, ant_2, b]")) == ("zebra", "ant_2", "b")
    assert load_categories(_write(tmp_path, "categories:\n  - only\n")) == ("only",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a non-empty list under the key 'categories'"),
        ("categories: []", "needs a non-empty list"),
        ("categories: insult", "needs a non-empty list"),
        ("- insult", "needs a non-empty list"),
        ("categories: [Insult]", "'Insult' cannot name a category; use lower-case letters"),
        ("categories: ['two words']", "'two words' cannot name a category"),
        ("categories: ['../up']", "'../up' cannot name a category"),
        ('categories: ["line\\n"]', "cannot name a category"),
        ("categories: [1]", "1 cannot name a category"),
        ("categories: [2a]", "'2a' cannot name a category"),
        ("categories: [a, helpful]", "'helpful' cannot name a category"),
        ("categories: [a, b, a]", r"category names repeat: \['a', 'b', 'a'\]"),
        ("categories: [a", "cannot be read"),
    ],
)
def test_bad_taxonomies_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_categories(_write(tmp_path, text))


def test_a_missing_file_and_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"nowhere\.yaml cannot be read .*; give a YAML file with a list `categories`"
    ):
        load_categories(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_categories(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_categories(tmp_path / "bytes.yaml")
