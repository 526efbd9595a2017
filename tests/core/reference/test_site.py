"""The site: every page has its place, and links that leave docs/ do not break it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import drirl_core

ROOT = Path(drirl_core.__file__).parents[1]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def _files(node: Any) -> Iterator[str]:
    for item in node if isinstance(node, list) else node.values() if isinstance(node, dict) else [node]:
        if isinstance(item, list | dict):
            yield from _files(item)
        else:
            yield item


def test_every_page_is_in_the_navigation_once() -> None:
    listed = list(_files(SITE["nav"]))
    assert len(listed) == len(set(listed))
    assert set(listed) == {str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*.md")}


@pytest.mark.parametrize(
    ("text", "page", "address", "shown"),
    [
        ("see [README](../README.md)", "index.md", "", "see README"),
        ("see [README](../README.md#install)", "index.md", "https://x/y", "see [README](https://x/y/blob/main/README.md#install)"),
        ("[data](../../drirl_core/data/README.md)", "how-to/a.md", "https://x/y/", "[data](https://x/y/blob/main/drirl_core/data/README.md)"),
        ("[method](../method.md#words)", "how-to/a.md", "", "[method](../method.md#words)"),
        ("![shot](../images/a.png) and [b](b.md)", "how-to/a.md", "", "![shot](../images/a.png) and [b](b.md)"),
    ],
)  # fmt: skip
def test_links_that_leave_the_documents_lead_to_the_repository_or_become_text(
    text: str, page: str, address: str, shown: str
) -> None:
    (file,) = SITE["hooks"]
    spec = importlib.util.spec_from_file_location("outside", ROOT / file)
    assert spec is not None and spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    found = hook.on_page_markdown(
        text, SimpleNamespace(file=SimpleNamespace(src_uri=page)), SimpleNamespace(repo_url=address)
    )
    assert found == shown
