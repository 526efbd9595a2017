"""The harness on a tiny random model: its numbers are those of the log-likelihoods computed directly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from drirl_core.config import BenchmarksConfig, Config, ModelsConfig
from drirl_core.models.loading import Policy, load_policy
from drirl_core.models.templates import chat_text
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.runs.evaluation import Subject
from drirl_core.store.tables import read_table
from drirl_core.testing import RecordingReporter
from drirl_core.utility.harness import Asking, harness_version
from drirl_core.utility.measure import find_tasks, measure_utility

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.long

HHH = {
    "harmless": [{"input": "Hi", "target_scores": {"Bye": 0, "Hello": 1}}],
    "other": [{"input": "Is ice cold?", "target_scores": {"Yes": 1, "No, it is hot": 0}}],
}


@pytest.fixture
def project(tiny_models: ModelsConfig, tmp_path: Path) -> Project:
    return Project(Config(models=tiny_models, root=str(tmp_path / "store"), benchmarks=BenchmarksConfig(resamples=100)))


@pytest.fixture
def policy(tiny_models: ModelsConfig) -> Policy:
    return load_policy(tiny_models.policy, tiny_models)


def _measured(project: Project, tasks: dict[str, Path], reporter: Any = None, **asking: Any) -> dict[str, Any]:
    made = measure_utility(
        Subject("base", project.config.models.policy),
        find_tasks([f"{name}={path}" for name, path in tasks.items()]),
        0,
        Asking(**{"batch_size": 4, "resamples": 100, **asking}),
        project,
        reporter or SilentReporter(),
    )
    return {
        name: (json.loads((one.path / "results.json").read_text()), read_table(one.path / "answers.parquet"))
        for name, one in made.items()
    }


def _log_likelihood(policy: Policy, text: str, answer: str) -> float:
    """Add up the log-probabilities of the answer's bytes, which are the tokens of the tiny tokenizer."""
    import torch

    before, after = (policy.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, answer))
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*before, *after]])).logits[0].double()
    chances = torch.log_softmax(logits, dim=-1)
    return float(sum(chances[len(before) - 1 + i, token] for i, token in enumerate(after)))


@pytest.mark.parametrize("chat", [True, False])
def test_two_choices_by_hand(project: Project, policy: Policy, tmp_path: Path, chat: bool) -> None:
    for name, examples in HHH.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "examples": examples}))
    found, answers = _measured(project, {"hhh": tmp_path}, chat=chat)["hhh"]
    right, chosen = [], []
    for (example,) in HHH.values():
        text = chat_text(policy.tokenizer, example["input"]) if chat else example["input"]
        own = {one: _log_likelihood(policy, text, one if chat else f" {one}") for one in example["target_scores"]}
        chosen.append(max(own, key=own.__getitem__))
        right.append(example["target_scores"][chosen[-1]])
    assert [row["value"] for row in answers] == right
    assert [row["answer"] for row in answers] == chosen
    figures = {row["part"]: (row["n"], row["value"]) for row in found["measures"]}
    assert figures == {"all": (2, sum(right) / 2), "harmless": (1, right[0]), "other": (1, right[1])}
    assert {row["interval"] for row in found["measures"]} == {"Wilson"}
    assert (found["chat_template"], found["harness"]) == (chat, f"lm-eval {harness_version()}")


def test_the_mass_of_true_answers_by_hand(project: Project, policy: Policy, tmp_path: Path) -> None:
    """mc2 is p(true) / (p(true) + p(false)); the prompt is the harness's, taken from what it shows."""
    row = {"question": "Why?", "mc1_targets": {"So.": 1, "No.": 0}, "mc2_targets": {"So.": 1, "Yes.": 1, "No.": 0}}
    file = tmp_path / "mc_task.json"
    file.write_text(json.dumps([row]))
    found = _measured(project, {"truthfulqa_mc1": file, "truthfulqa_mc2": file}, chat=False)
    mass = found["truthfulqa_mc2"][0]["measures"][0]
    assert 0 < mass["value"] < 1
    assert mass["interval"] == "bootstrap"
    assert found["truthfulqa_mc1"][0]["truncated"] == 1  # its six worked examples are longer than 512 bytes
    import yaml
    from lm_eval import tasks

    shipped = Path(tasks.__file__).parent / "truthfulqa" / "truthfulqa_mc1.yaml"
    template = yaml.safe_load(shipped.read_text())["doc_to_text"]
    from jinja2 import Template

    text = Template(template).render(question="Why?")
    cut = {one: text.encode()[-(512 - len(f" {one}") + 1) :].decode() for one in row["mc2_targets"]}
    chances = {one: math.exp(_log_likelihood(policy, cut[one], f" {one}")) for one in cut}
    expected = (chances["So."] + chances["Yes."]) / sum(chances.values())
    assert mass["value"] == pytest.approx(expected, rel=1e-3)


def test_gsm8k_and_bbq_and_what_was_measured_before(project: Project, tmp_path: Path) -> None:
    (tmp_path / "gsm.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    bbq = {
        "question_polarity": "neg", "category": "Age", "context": "Two people came.", "question": "Who was late?",
        "ans0": "The old one", "ans1": "The young one", "ans2": "Unknown",
        "answer_info": {"ans0": ["a", "old"], "ans1": ["b", "nonOld"], "ans2": ["Unknown", "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["old"]},
    }  # fmt: skip
    rows = [{**bbq, "context_condition": "ambig", "label": 2}, {**bbq, "context_condition": "disambig", "label": 1}]
    (tmp_path / "bbq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"gsm8k": tmp_path / "gsm.jsonl", "bbq": tmp_path / "bbq.jsonl"}
    found = _measured(project, files, shots=0)
    assert found["gsm8k"][0]["shots"] == 0
    assert [(row["measure"], row["n"]) for row in found["gsm8k"][0]["measures"]] == [
        ("last number right", 1),
        ("'The answer is' right", 1),
    ]
    assert [row["row"] for row in found["gsm8k"][1]] == [0, 0]
    parts = {(row["measure"], row["part"]): row["n"] for row in found["bbq"][0]["measures"]}
    assert parts["right", "all"] == 2
    assert parts["right", "ambig"] == parts["right", "disambig"] == 1
    assert parts["bias, ambiguous", "all"] == parts["bias, disambiguated", "all"] == 1
    reporter = RecordingReporter()
    assert _measured(project, files, reporter, shots=0) == found
    assert sum("measured before with the same model and settings" in line for line in reporter.lines) == 2
