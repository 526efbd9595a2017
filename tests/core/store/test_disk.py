"""Files that are replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from drirl_core.store.disk import replace_text


def test_a_text_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    for text in ("one", "two"):
        replace_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    with pytest.raises(UnicodeEncodeError):
        replace_text(file, "half of it, then \ud800")
    assert file.read_text(encoding="utf-8") == "two"
    assert list(tmp_path.iterdir()) == [file]
