"""Commands that load models choose how CPU threads wait before they do anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from drirl_core.config import ModelsConfig
from pipeline.cli.main import app


@pytest.mark.parametrize(
    "words", [["chat", "--prompt", "x"], ["score", "--prompt", "x", "--reply", "y"], ["eval", "base"]]
)
def test_commands_that_load_models_look_at_the_load(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They look before anything else, so that nothing has loaded torch."""

    class LookedError(Exception):
        pass

    def looked(models: ModelsConfig) -> str:
        raise LookedError

    monkeypatch.setattr("pipeline.cli.common.choose_waiting", looked)
    file = tmp_path / "own.yaml"
    file.write_text(f"models: {{policy: 'path:p', encoder: 'path:e'}}\nroot: {tmp_path}/artifacts\n")
    place = [words[0], str(file)] if words[0] != "eval" else [*words, str(file)]
    asked = [*place, *words[1:]] if words[0] != "eval" else place
    assert isinstance(CliRunner().invoke(app, asked).exception, LookedError)
