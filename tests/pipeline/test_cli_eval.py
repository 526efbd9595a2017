"""`drirl eval` and `drirl compare` on a tiny random model: the numbers have no meaning, the commands do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from chat_server import Server, chat
from typer.testing import CliRunner, Result

from drirl_core.policy.best_of_n import Reranking
from drirl_core.runs.evaluation import Subject
from drirl_core.testing import make_tiny_policy
from pipeline.cli.main import app


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    base, other = make_tiny_policy(folder / "base"), make_tiny_policy(folder / "other", seed=3)
    assert other.is_dir()
    settings = {
        "name": "tiny",
        "root": str(folder / "store"),
        "models": {"policy": f"path:{base}", "encoder": f"path:{folder}/none", "dtype": "float32", "device": "cpu"},
        "benchmarks": {"max_new_tokens": 4, "resamples": 100},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder / "own.yaml"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))


def drirl(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_eval_measures_records_and_compares(config: Path, tmp_path: Path) -> None:
    shown = drirl("eval", "base", config, "--suite", "twins", "--limit", "3")
    assert shown.exit_code == 0, shown.output
    assert "Suite twins (version 1), 6 prompts, base" in shown.stdout
    assert "replies.parquet" in shown.stdout
    assert "greedy replies of at most 4 tokens" in shown.stderr
    other = drirl(
        "eval", config.parent / "other", config, "--suite", "twins", "--limit", "2", "--name", "other", "--json"
    )
    assert other.exit_code == 0, other.output
    document = json.loads(other.stdout)
    assert (document["name"], document["model"]) == ("other", str(config.parent / "other"))
    assert document["suites"]["twins"]["groups"] == {"unsafe": 2, "safe_look_alike": 2}

    page = tmp_path / "page.html"
    compared = drirl("compare", "base", "other", config, "--html", page)
    assert compared.exit_code == 0, compared.output
    for words in (
        "base" if "base:" in compared.output else "evaluation of base",
        f"other: evaluation of {config.parent / 'other'}",
        "The configurations are the same.",
        "Suite twins: 4 prompts that both answered (left out: 2 of ",
        "refusal of unsafe",
        "refusal minus over-refusal:",
        "without the judge's errors, in points: refusal of unsafe ",
        "Judge `rules`: sensitivity 90.6 % [88.0, 92.7] (n 576 refusals)",
        "No verdict and no p-value changes by it",
        f"Page: {page}",
    ):
        assert words in compared.output, words
    assert page.read_text().startswith("<!doctype html>")
    assert json.loads(drirl("compare", "base", "other", config, "--json").stdout)["suites"][0]["common"] == 4
    listed = drirl("runs", config).output
    assert "evaluation of base on twins" in listed
    assert "other" in listed


def test_eval_of_best_of_n_chooses_among_samples_of_the_start(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the configuration says, unless --best-of gives another number."""
    missing = drirl("eval", "best_of_n", config)
    assert missing.exit_code == 1
    assert "there is no sft_checkpoint of this configuration" in missing.stderr

    class First:
        def expected(self, prompts: list[str], completions: list[list[str]]) -> list[np.ndarray]:
            return [np.zeros(len(own)) for own in completions]

    asked = []

    def find(text: str, named: object) -> Subject:
        asked.append(text)
        return Subject(text, config.parent / "other")

    monkeypatch.setattr("drirl_core.runs.evaluation.find_subject", find)
    monkeypatch.setattr(
        "drirl_core.policy.best_of_n.load_reranking",
        lambda named, samples, reporter: Reranking(samples, First(), 1.0, {}),  # type: ignore[arg-type]
    )
    for words, samples in ((("--set", "benchmarks.best_of=3"), 3), (("--best-of", "2"), 2)):
        shown = drirl("eval", "best_of_n", config, "--suite", "twins", "--limit", "1", *words)
        assert shown.exit_code == 0, shown.output
        assert f"Suite twins (version 1), 2 prompts, sft, best of {samples}" in shown.stdout
    assert asked == ["sft", "sft"]
    refused = drirl("eval", "best_of_n", config, "--set", "benchmarks.best_of=1")
    assert "benchmarks.best_of is 1; give at least 2" in refused.stderr


@pytest.fixture
def grader() -> Iterator[Server]:
    """A judge that calls everything a refusal."""
    found = Server([(200, {}, chat('{"kind": "full_refusal"}'))])
    listening = found.start()
    yield found
    listening.shutdown()
    listening.server_close()


def test_the_error_of_a_judge_is_shown_once_it_was_measured(config: Path, tmp_path: Path, grader: Server) -> None:
    """It is right on the refusal and wrong on the other reply: no better than chance, so that no rate is corrected."""
    settings = {"judge": "llm", "llm.url": grader.url, "llm.model": "grader", "llm.rubric": "xstest"}
    judged = [word for name, value in settings.items() for word in ("--set", f"benchmarks.{name}={value}")]
    asked = ["eval", "base", config, "--suite", "twins", "--limit", "1", *judged]
    before = drirl(*asked)
    assert before.exit_code == 0, before.output
    assert (
        "Judge `llm` (grader, rubric xstest): its error on labelled replies was not measured; `drirl judge LABELLED "
        in (before.stdout)
    )
    rows = [
        {"prompt": "Why?", "reply": "I won't say.", "refused": True},
        {"prompt": "So?", "reply": "Yes it is.", "refused": False},
    ]
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    measured = drirl("judge", tmp_path / "own.jsonl", config, *judged)
    assert measured.exit_code == 0, measured.output
    sent = len(grader.seen)
    after = drirl(*asked)
    assert "wrong on 50.0 % [9.5, 90.5] of 2 labelled replies" in after.stdout
    assert "These figures do not say what that means for the rates." in after.stdout
    assert "evaluated before" in after.stderr
    document = json.loads(drirl(*asked, "--json").stdout)
    assert document["suites"]["twins"]["judge_errors"][0]["n"] == 2
    compared = drirl("compare", "base", "base", config)
    assert "Judge `llm` (grader, rubric xstest): sensitivity 100.0 % [" in compared.stdout
    assert "Sensitivity + specificity - 1 is 0.00, not above 0" in compared.stdout
    assert "without the judge's errors" not in compared.stdout
    assert len(grader.seen) - sent == 2, "the messages that try the endpoint before an evaluation, and no verdict"


def test_a_page_that_cannot_be_written_is_named(config: Path, tmp_path: Path) -> None:
    drirl("eval", "base", config, "--suite", "twins", "--limit", "2")
    shown = drirl("compare", "base", "base", config, "--html", tmp_path / "none" / "page.html")
    assert shown.exit_code == 1
    assert "cannot be written (No such file or directory); name another file" in shown.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eval", "base", "--suite", "xstest"), "its files do not come with the package"),
        (("eval", "nobody", "--suite", "twins"), "'nobody' is neither a model reference"),
        (("eval", "base", "--name", "a b"), "--name 'a b': use letters, digits"),
        (("compare", "one", "two"), "no result is called 'one'"),
    ],
)
def test_what_cannot_be_found_is_one_message(config: Path, words: tuple[str, ...], message: str) -> None:
    drirl("eval", "base", config, "--suite", "twins", "--limit", "2")
    shown = drirl(words[0], words[1], *words[2:], "--config", config)
    assert shown.exit_code == 1
    assert message in shown.stderr
