"""The settings that the guide shows can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drirl_core.config import load_config
from drirl_core.config.strict_yaml import load_yaml
from drirl_core.demonstrations.safety_policy import read_policy

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "how-to" / "own-model-and-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_example_is_clear_yaml_and_most_are_a_configuration(block: str, tmp_path: Path) -> None:
    if block.startswith("  demonstrator:"):  # the second form of a part of the example above it
        block = f"demonstrations:\n{block}"
    read = load_yaml(block, "example")
    if set(read) <= {"categories"} or "groups" in read:  # a taxonomy, a suite
        return
    file = tmp_path / "run.yaml"
    if "Not answered" in block:  # a safety policy
        file.write_text(block, encoding="utf-8")
        assert read_policy(file, ("insult", "fraud"))["fraud"].startswith("Not answered: ")
        return
    file.write_text(block.replace("../configs/demo.yaml", str(ROOT / "configs" / "demo.yaml")), encoding="utf-8")
    if "extends" not in read:
        file.write_text(f"extends: {ROOT / 'configs' / 'demo.yaml'}\n{block}", encoding="utf-8")
    assert load_config(file).models.encoder


def test_the_first_example_has_a_model_write_bare_answers_for_public_prompts(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(BLOCKS[0].replace("../configs/demo.yaml", str(ROOT / "configs" / "demo.yaml")), encoding="utf-8")
    config = load_config(file)
    assert config.prompts.sources[0].adapter == "do_not_answer"
    assert (config.demonstrations.format, config.demonstrations.demonstrator.kind) == ("answer", "model")
