"""How OpenMP's threads wait: by the load of the machine, unless somebody has chosen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from drirl_core.config import ModelsConfig
from drirl_core.models import threads

NAMES = {"policy": "path:policy", "encoder": "path:encoder"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without torch and without a choice, whose changes end with the test."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "_PAUSE_S", 0.0)


@pytest.mark.parametrize(("free", "waiting"), [(4.0, None), (3.0, None), (2.9, "passive"), (0.0, "passive")])
def test_the_load_decides(monkeypatch: pytest.MonkeyPatch, free: float, waiting: str | None) -> None:
    """Three of four cores free is the least with which threads spin without an end; with fewer they spin a little."""
    monkeypatch.setattr(threads, "free_cores", lambda: (free, 4))
    said = threads.choose_waiting(ModelsConfig(**NAMES))
    assert os.environ.get("OMP_WAIT_POLICY") == waiting
    assert os.environ.get("GOMP_SPINCOUNT") == ("100" if waiting else None)
    assert bool(said) == (waiting is not None)


def test_openmp_obeys_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The OpenMP that torch brings on Linux reads both variables, and the spins count."""
    monkeypatch.setattr(threads, "free_cores", lambda: (0.0, 4))
    threads.choose_waiting(ModelsConfig(**NAMES))
    shown = subprocess.run(
        [sys.executable, "-c", "import torch"],
        env={**os.environ, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("torch has another OpenMP here")
    assert "GOMP_SPINCOUNT = '100'" in shown


@pytest.mark.parametrize(
    ("looks", "waiting"),
    [([0.0, 1.9], None), ([0.0, 1.0, 0.4, 1.5], None), ([0.0, 1.0, 0.4, 1.4], "passive")],
    ids=["a moment", "the last look", "work that lasts"],
)
def test_a_load_that_ends_within_some_looks_does_not_count(
    monkeypatch: pytest.MonkeyPatch, looks: list[float], waiting: str | None
) -> None:
    """Of two cores one and a half must be free; the process of the step before may still end."""
    left = iter(looks)
    monkeypatch.setattr(threads, "free_cores", lambda: (next(left), 2))
    said = threads.choose_waiting(ModelsConfig(**NAMES))
    assert os.environ.get("OMP_WAIT_POLICY") == waiting
    assert said.startswith("other work uses 0.6 of 2 cores" if waiting else "")
    assert not list(left)


@pytest.mark.parametrize(("setting", "waiting"), [("spin", None), ("sleep", "passive")])
def test_the_setting_decides_without_a_look(monkeypatch: pytest.MonkeyPatch, setting: str, waiting: str | None) -> None:
    monkeypatch.setattr(threads, "free_cores", lambda: pytest.fail("looked at the load"))
    threads.choose_waiting(ModelsConfig(**NAMES, waiting=setting))
    assert os.environ.get("OMP_WAIT_POLICY") == waiting
    assert "GOMP_SPINCOUNT" not in os.environ


def test_the_users_own_variable_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "500")
    monkeypatch.setattr(threads, "free_cores", lambda: (0.0, 4))
    assert threads.choose_waiting(ModelsConfig(**NAMES)) == ""
    assert "OMP_WAIT_POLICY" not in os.environ


def test_a_busy_core_is_seen() -> None:
    """One process that computes without a pause takes about one core away."""
    before, cores = threads.free_cores()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            busy = min(threads.free_cores()[0] for _ in range(5))
        finally:
            other.kill()
    assert 0 <= busy <= cores - 0.5
    assert 0 <= before <= cores


def test_the_module_does_not_load_torch() -> None:
    """The choice must be made before OpenMP reads its variables."""
    code = "import sys, drirl_core.models.threads; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
