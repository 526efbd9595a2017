"""Fixtures of the export's tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from bpe_policies import save_policy


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., Path]:
    """Save a tiny random policy below the directory of the test."""
    return functools.partial(save_policy, tmp_path / "policy")
