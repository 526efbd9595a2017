"""The exported folder: complete, true to the checkpoint, written as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from export_inputs import material
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from drirl_core.config import ModelsConfig
from drirl_core.errors import ArtifactError, ConfigError, ModelError
from drirl_core.export import folder as folders
from drirl_core.export.folder import RECORD, Wanted, export
from drirl_core.export.licences import Licence, licence_of
from drirl_core.export.material import Material
from drirl_core.models.loading import load_policy
from drirl_core.reporting import SilentReporter

NO_TEXT = Licence("other", ())


@pytest.fixture
def made(policy: Callable[..., Path], tmp_path: Path) -> Material:
    return material(tmp_path, policy())


def write(made: Material, target: Path, **wanted: Any) -> Path:
    return export(made, target, NO_TEXT, Wanted(**wanted), SilentReporter())


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_it_holds_everything_and_nothing_private(made: Material, tmp_path: Path) -> None:
    folder = write(made, tmp_path / "out" / "export", gguf=("f16",))
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert names == {
        "README.md", "LICENSE", "NOTICE", "drirl.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
        "hand-made-f16.gguf",
    }  # fmt: skip
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix not in (".safetensors", ".gguf"):
            assert str(tmp_path) not in file.read_text(encoding="utf-8"), file
    assert list((tmp_path / "out").iterdir()) == [folder]


def test_it_is_the_policy_with_its_tokenizer(made: Material, tmp_path: Path) -> None:
    folder = write(made, tmp_path / "export")
    tokens = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        found, own = (AutoModelForCausalLM.from_pretrained(at)(tokens).logits for at in (folder, made.checkpoint.path))
    torch.testing.assert_close(found, own, rtol=0, atol=0)
    ours, theirs = (AutoTokenizer.from_pretrained(at) for at in (folder, made.checkpoint.path))
    assert ours.chat_template == theirs.chat_template
    load_policy(
        f"path:{folder}", ModelsConfig(policy=f"path:{folder}", encoder="path:/e", dtype="float32", device="cpu")
    )


def test_the_record_has_a_hash_of_every_file(made: Material, tmp_path: Path) -> None:
    folder = write(made, tmp_path / "export", reason="red team")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} - {RECORD}
    assert set(record["files"]) == files
    for name, entry in record["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
    assert record["versions"]["policy_checkpoint"] == "b" * 16
    assert (record["policy"], record["reason"]) == ("dr_irl", "red team")


def test_hubs_read_the_measured_figures(made: Material, tmp_path: Path) -> None:
    folder = write(made, tmp_path / "export", gguf=("q8_0",))
    data = ModelCard.load(folder / "README.md").data
    assert (data.base_model, data.license, data.license_link) == ("tiny-policy", "other", "LICENSE")
    assert "gguf" in data.tags
    results = {found.dataset_args["group"]: found.metric_value for found in data.eval_results}
    assert results == {"unsafe": 0.9, "safe_look_alike": 0.2, "helpful": 1.0}
    assert all(found.task_type == "text-generation" for found in data.eval_results)


def test_the_start_has_its_own_figures_and_no_gates(policy: Callable[..., Path], tmp_path: Path) -> None:
    start = material(tmp_path, policy(), policy="sft")
    folder = write(start, tmp_path / "export")
    data = ModelCard.load(folder / "README.md").data
    assert {found.dataset_args["group"]: found.metric_value for found in data.eval_results}["unsafe"] == 0.5
    text = card_of(folder)
    assert "# hand made: tiny-policy after supervised fine-tuning" in text
    assert "## Gates" not in text and "DR-IRL beats" not in text
    assert start.slug == "hand-made-sft"


def test_the_card_says_what_fails_and_why_it_is_published(policy: Callable[..., Path], tmp_path: Path) -> None:
    folder = write(material(tmp_path, policy(), passed=False), tmp_path / "export", reason="for the\nred team only")
    text = card_of(folder)
    assert "> **Published although gates fail.** Reason: for the red team only" in text
    assert "| over_refusal_bound | **no** | refuses 20 % of \\| the safe ones |" in text
    assert "1 of 3 fail" in text
    assert "all finite" not in text  # a gate upstream is shown only where it fails


def test_the_card_has_data_settings_lineage_and_code_that_compiles(made: Material, tmp_path: Path) -> None:
    text = card_of(write(made, tmp_path / "export", gguf=("f16",)))
    assert "| safety_dataset_insult | 2 | 1 | 0 | 1 | own (CC0-1.0) |" in text
    assert f"| policy_checkpoint | {'b' * 16} |" in text
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["policy"]["steps"]
    assert "llama-cli -m hand-made-f16.gguf" in text
    codes = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(codes) == 2
    for code in codes:
        compile(code, "card", "exec")


def test_an_older_checkpoint_is_exported_without_adapter(made: Material, tmp_path: Path) -> None:
    shutil.rmtree(made.trained[0].path / "adapter")
    folder = write(made, tmp_path / "export")
    assert not (folder / "adapter").exists()
    assert f"There is no adapter in this folder: sft_checkpoint {'a' * 16} holds none" in card_of(folder)


@pytest.mark.parametrize("part", ["write_licence", "card", "require_sound_files"])
def test_a_failure_leaves_what_was_there(
    made: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    target = write(made, tmp_path / "out" / "export")
    before = card_of(target)

    def fail(*_: Any) -> None:
        raise ArtifactError("no more")

    monkeypatch.setattr(folders, part, fail)
    for place, replace in ((target, True), (tmp_path / "out" / "other", False)):
        with pytest.raises(ArtifactError, match="no more"):
            write(made, place, replace=replace)
    assert list((tmp_path / "out").iterdir()) == [target]
    assert card_of(target) == before


def test_an_earlier_export_is_replaced_only_on_request(made: Material, tmp_path: Path) -> None:
    target = write(made, tmp_path / "export", gguf=("f16",))
    with pytest.raises(ArtifactError, match=r"is there already; replace it with --force"):
        write(made, target)
    write(made, target, replace=True)
    assert not list(target.glob("*.gguf"))


def test_other_folders_are_never_replaced(made: Material, tmp_path: Path) -> None:
    other = tmp_path / "documents"
    other.mkdir()
    write(made, other)  # it was empty
    shutil.rmtree(other)
    other.mkdir()
    (other / "letter").write_text("dear", encoding="utf-8")
    with pytest.raises(ArtifactError, match="was not made by an export"):
        write(made, other, replace=True)
    assert (other / "letter").read_text(encoding="utf-8") == "dear"


def test_a_full_disk_is_noticed_before(made: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ArtifactError, match=r"needs 0\.1 GB, and its disk has 0\.0 GB free"):
        write(made, tmp_path / "export")


def test_a_family_without_gguf_is_refused_before_anything_is_written(made: Material, tmp_path: Path) -> None:
    config = made.checkpoint.path / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"llama"', '"gpt_neox"'), encoding="utf-8")
    with pytest.raises(ModelError, match="type gpt_neox"):
        write(made, tmp_path / "out" / "export", gguf=("f16",))
    assert not (tmp_path / "out").exists()


def test_the_licence_is_that_of_the_base_model(made: Material, tmp_path: Path) -> None:
    import dataclasses

    own = tmp_path / "terms.txt"
    own.write_text("my terms", encoding="utf-8")
    models = made.config.models
    known = dataclasses.replace(made.config, models=dataclasses.replace(models, policy="hf:Qwen/Qwen3-0.6B"))
    assert licence_of(known).name == "apache-2.0"
    assert "Apache License" in licence_of(known).texts[0].read_text(encoding="utf-8")
    assert licence_of(known, own).texts == (own,)
    assert licence_of(made.config).texts == ()
    with pytest.raises(ConfigError, match=r"--licence .*nothing is no file"):
        licence_of(known, tmp_path / "nothing")
    beside = dataclasses.replace(made.config, models=dataclasses.replace(models, policy=f"path:{made.checkpoint.path}"))
    (made.checkpoint.path / "LICENSE.md").write_text("beside", encoding="utf-8")
    folder = export(made, tmp_path / "export", licence_of(beside), Wanted(), SilentReporter())
    assert (folder / "LICENSE").read_text(encoding="utf-8") == "beside"
    assert "- own: CC0-1.0" in (folder / "NOTICE").read_text(encoding="utf-8")
