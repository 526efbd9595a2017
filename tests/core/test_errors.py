"""Errors and the hint for unknown names."""

from __future__ import annotations

from drirl_core.errors import nearest


def test_the_nearest_name_comes_first() -> None:
    assert nearest("setps", ["seed", "steps", "kl"]) == "did you mean 'steps'? Known: kl, seed, steps"


def test_no_hint_when_nothing_is_near() -> None:
    assert nearest("zzzz", {"seed", "steps"}) == "Known: seed, steps"
    assert nearest("x", []) == "Known: "
