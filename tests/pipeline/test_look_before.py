"""Models, adapters and lengths are looked at before a run, and by `drirl doctor`."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from drirl_core.config import Config
from drirl_core.errors import ConfigError, DataError, ModelError
from drirl_core.project import Project
from drirl_core.testing import tiny_config
from pipeline.cli import chat
from pipeline.cli.main import app
from pipeline.cli.plan import plan_json
from pipeline.running import looking


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("looking")
    tiny_config(found)
    return found


def _wrong(folder: Path) -> Config:
    return tiny_config(folder, {"sft.lora": {"rank": 2, "targets": ["c_attn"]}})


@pytest.mark.long
def test_a_run_that_would_fail_later_is_refused_in_a_process_of_its_own(folder: Path) -> None:
    before = {name for name in sys.modules if name.partition(".")[0] == "torch"}
    with pytest.raises(ConfigError, match=r"sft\.lora\.targets: c_attn names no layer"):
        looking.look_before(Project(_wrong(folder)), ["sft_checkpoint"])
    looking.look_before(Project(tiny_config(folder)), ["sft_checkpoint"])
    assert {name for name in sys.modules if name.partition(".")[0] == "torch"} == before


@pytest.mark.parametrize("names", [["prompt_pool", "sft_checkpoint"], ["balance_report"], []])
def test_nothing_is_looked_at_that_the_first_stage_looks_at_or_no_stage_loads(
    folder: Path, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking.subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    looking.look_before(Project(_wrong(folder)), names)


def test_a_model_that_is_elsewhere_is_looked_at_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking.subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    looking.look_before(Project(tiny_config(folder, {"models.policy": "hf:stub/none"})), ["sft_checkpoint"])


def test_a_look_that_breaks_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking.sys, "executable", str(folder / "broken"))
    (folder / "broken").write_text("#!/bin/sh\necho 'MemoryError: no room' >&2\nexit 3\n")
    (folder / "broken").chmod(0o755)
    with pytest.raises(ModelError, match=r"cannot be looked at \(MemoryError: no room\)"):
        looking.look_before(Project(tiny_config(folder)), ["sft_checkpoint"])


@pytest.mark.long
def test_options_are_looked_at_even_where_the_model_is_elsewhere(folder: Path) -> None:
    elsewhere: dict[str, Any] = {"models.policy": "hf:stub/none", "policy.trl": {"bata": 1}}
    project = Project(tiny_config(folder, elsewhere))
    before = {name for name in sys.modules if name.partition(".")[0] in ("torch", "trl")}
    with pytest.raises(ConfigError, match=r"policy\.trl\.bata is no field of TRL's GRPOConfig; did you mean 'beta'"):
        looking.look_before(project, ["sft_checkpoint"])
    (line,) = [line for line in json.loads(plan_json(project)[1])["data"] if line.startswith("A run would stop")]
    assert "policy.trl.bata is no field" in line
    assert {name for name in sys.modules if name.partition(".")[0] in ("torch", "trl")} == before


def test_without_options_no_process_looks_for_packages(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking.subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert looking.needs_problems(tiny_config(folder)) == []
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    (said,) = looking.needs_problems(tiny_config(folder, {"execution.report_to": ["mlflow"]}))
    assert "pip install 'drirl[mlflow]'" in said
    (said,) = looking.needs_problems(tiny_config(folder, {"models.quantization": "4bit"}))
    assert "pip install 'drirl[4bit]'" in said


def test_missing_packages_are_told_where_the_model_is_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the plan, and by a run whose first stages are up to date; without a process, and without a model."""
    _without(monkeypatch, "bitsandbytes", "vllm")
    monkeypatch.setattr(looking.subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    needed: dict[str, Any] = {"models.quantization": "4bit", "execution.sampler": "vllm"}
    project = Project(tiny_config(folder, {"models.policy": "hf:stub/none", **needed}))
    said = [line for line in json.loads(plan_json(project)[1])["data"] if line.startswith("A run would stop: ")]
    assert ["'drirl[4bit]'" in line for line in said] == [True, False]
    assert ["'drirl[vllm]'" in line for line in said] == [False, True]
    with pytest.raises(ConfigError, match=r"(?s)2 problems .* needs the package bitsandbytes"):
        looking.look_before(project, ["sft_checkpoint"])


def _without(monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else find(name, *rest))


# --------------------------------------------------------------------------------------------------------------- doctor


def _doctor(file: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> dict[str, str]:
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    shown = CliRunner().invoke(app, ["doctor", str(file)])
    lines = [line for line in shown.output.splitlines() if line[:4] in ("ok  ", "warn", "fail")]
    return {line[6:].partition(": ")[0]: f"{line[:4]} {line[6:].partition(': ')[2]}" for line in lines}


def test_doctor_looks_into_the_models(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _doctor(folder / "smoke.yaml", monkeypatch, tmp_path)
    assert found["policy tokens and template"].startswith("ok   a turn renders as ")
    assert "ends with <|end|>; reads 512 tokens" in found["policy tokens and template"]
    assert found["adapters"].startswith("ok")
    assert found["lengths"].startswith("ok")
    assert "embeds the first 128 tokens of a text in 32 dimensions" in found["encoder on a long text"]


def test_doctor_finds_what_would_fail_after_the_stages_of_data(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.yaml"
    changes: dict[str, Any] = {"extends": str(folder / "smoke.yaml"), "benchmarks": {"max_new_tokens": 500}}
    changes["policy"] = {"lora": {"targets": ["c_attn"]}}
    file.write_text(json.dumps(changes))
    found = _doctor(file, monkeypatch, tmp_path)
    assert found["adapters"].startswith("fail policy.lora.targets: c_attn names no layer")
    assert "q_proj (2)" in found["adapters"]
    assert found["lengths"].startswith("fail benchmark suite embedded, group unsafe, prompt_id ")


def test_doctor_looks_at_options_and_trackers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, options = tmp_path / "mine.yaml", {"weight_decay": 0.1}
    changes: dict[str, Any] = {"extends": str(folder / "smoke.yaml"), "sft": {"trl": options}}
    file.write_text(json.dumps(changes))
    assert _doctor(file, monkeypatch, tmp_path)["training options"] == "ok   sft.trl: weight_decay"
    options["beta"] = 0.1
    file.write_text(json.dumps(changes))
    said = _doctor(file, monkeypatch, tmp_path)["training options"]
    assert said.startswith("fail sft.trl.beta is no field of TRL's SFTConfig")


def test_doctor_looks_for_the_package_of_four_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "quantization" not in _doctor(folder / "smoke.yaml", monkeypatch, tmp_path)
    _without(monkeypatch, "bitsandbytes")
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"extends": str(folder / "smoke.yaml"), "models": {"quantization": "4bit"}}))
    said = _doctor(file, monkeypatch, tmp_path)["quantization"]
    assert said.startswith("fail models.quantization is '4bit', which needs the package bitsandbytes; install it with")
    assert "or set models.quantization to none" in said


def test_doctor_shows_a_template_that_cannot_render(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    model = Path(shutil.copytree(folder / "policy", tmp_path / "model"))
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor")
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"extends": str(folder / "smoke.yaml"), "models": {"policy": f"path:{model}"}}))
    found = _doctor(file, monkeypatch, tmp_path)
    assert "cannot render one user message (TemplateSyntaxError" in found["policy tokens and template"]
    assert "adapters" not in found


# ----------------------------------------------------------------------------------------------------------------- chat


def test_a_conversation_goes_on_after_a_prompt_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Policies:
        def answers(self, prompt: str) -> dict[str, chat.Reply]:
            if prompt == "long":
                raise DataError("the prompt 'long' has 999 tokens")
            return {"base": chat.Reply("fine")}

    asked = iter(["long", "short", ""])
    console = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(console, "input", lambda _: next(asked))
    chat.converse(Policies(), console)  # type: ignore[arg-type]
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Error: the prompt 'long' has 999 tokens" in shown
    assert "fine" in shown
