"""`drirl export` and `drirl push`: from a built graph of tiny models to a folder and a repository."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

import hub_server
from hub_server import TOKEN, FakeHub

from drirl_core.graph.build import run_all
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.testing import tiny_config
from pipeline.cli.export import GgufType, gguf_types
from pipeline.cli.main import app


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of which nothing is built."""
    folder = tmp_path_factory.mktemp("empty")
    tiny_config(folder)
    return folder / "smoke.yaml"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose graph is built; its policies are random, so that gates fail."""
    folder = tmp_path_factory.mktemp("built")
    run_all(Project(tiny_config(folder)), SilentReporter())
    return folder / "smoke.yaml"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub_server.running() as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        yield found


def test_types_of_gguf_files() -> None:
    assert gguf_types(False, None) == ()
    assert gguf_types(True, None) == ("f16",)
    assert gguf_types(False, [GgufType.Q8_0, GgufType.BF16, GgufType.Q8_0]) == ("q8_0", "bf16")


def test_what_is_not_built_is_named_with_the_command_that_builds_it(empty: Path) -> None:
    shown = run("export", empty)
    assert shown.exit_code == 1
    assert "there is no policy_checkpoint of this configuration" in shown.stderr
    assert f"`drirl run {empty} --only policy_checkpoint` builds it" in shown.stderr


def test_unknown_policies_are_named(empty: Path) -> None:
    shown = run("export", empty, "--show", "sfd")
    assert shown.exit_code == 1
    assert "did you mean 'sft'?" in shown.stderr


def test_a_baseline_without_weights_cannot_be_exported(empty: Path) -> None:
    shown = run("export", empty, "--show", "best_of_n")
    assert shown.exit_code == 1
    assert "best_of_n has no weights of its own" in shown.stderr
    assert "--show sft exports the start" in shown.stderr


def test_a_taken_place_is_refused_before_the_policy_is_looked_for(empty: Path, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear", encoding="utf-8")
    shown = run("export", empty, "--to", tmp_path, "--force")
    assert shown.exit_code == 1
    assert "was not made by an export" in shown.stderr


def test_pushing_is_checked_before_the_policy_is_looked_for(empty: Path) -> None:
    assert "the card must say why; add --why TEXT" in run("push", "me/mine", empty, "--force").stderr
    assert "names no owner" in run("push", "mine", empty).stderr
    assert "--licence FILE, or publish with --private" in run("push", "me/mine", empty, "--public").stderr


@pytest.mark.long
def test_a_built_policy_is_exported(built: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    target = tmp_path / "export"
    shown = run("export", built, "--to", target)
    assert shown.exit_code == 0, shown.output
    assert f"AutoModelForCausalLM.from_pretrained('{target}')" in shown.output
    assert f"drirl push OWNER/NAME {built}" in shown.output
    assert "gates fail for this policy; the card lists them" in shown.output
    AutoModelForCausalLM.from_pretrained(target)
    assert (target / "adapter" / "adapter_config.json").is_file()
    record = json.loads((target / "drirl.json").read_text(encoding="utf-8"))
    assert len(record["gates"]) > 10
    assert {"policy_checkpoint", "sft_checkpoint", "benchmark_embedded", "helpful_dataset"} <= record["versions"].keys()
    again = run("export", built, "--to", target)
    assert again.exit_code == 1 and "replace it with --force" in again.stderr
    start = run("export", built, "--to", tmp_path / "start", "--show", "sft")
    assert start.exit_code == 0, start.output
    assert "after supervised fine-tuning" in (tmp_path / "start" / "README.md").read_text(encoding="utf-8")
    refused = run("export", built, "--to", tmp_path / "gguf", "--gguf")
    assert refused.exit_code == 1 and "has no merges" in refused.stderr
    assert not (tmp_path / "gguf").exists()


@pytest.mark.long
def test_a_built_policy_is_published_with_a_reason(built: Path, hub: FakeHub) -> None:
    refused = run("push", "me/mine", built)
    assert refused.exit_code == 1
    assert "gates fail for this policy, so it is not published" in refused.stderr
    assert hub.asked == []
    shown = run("push", "me/mine", built, "--force", "--why", "only a test")
    assert shown.exit_code == 0, shown.output
    assert f"Published: {hub.url}/me/mine" in shown.output
    assert TOKEN not in shown.output + shown.stderr
    found = hub.repositories["me/mine"]
    assert found["private"] is True
    card = found["files"]["README.md"].decode()
    assert "Reason: only a test" in card and "model-index" in card
    assert {"model.safetensors", "adapter/adapter_model.safetensors", "LICENSE", "tokenizer.json"} <= found[
        "files"
    ].keys()
