"""Chat and score on tiny random models: the code runs, the answers have no meaning."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from drirl_core.config import Config, ModelsConfig, resolved
from drirl_core.errors import ArtifactError
from drirl_core.graph.exclusion import deciding_inputs
from drirl_core.graph.plan import with_ancestors
from drirl_core.graph.versions import code_version, source_version
from drirl_core.models.sampling import Completion
from drirl_core.policy.best_of_n import Reranking
from drirl_core.store.artifacts import ArtifactStore, fingerprint
from drirl_core.store.tables import write_table
from drirl_core.testing import make_tiny_policy
from pipeline.cli import chat
from pipeline.cli import score as scoring
from pipeline.cli.common import Given
from pipeline.cli.main import app
from pipeline.instance.settings import load


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all that the aligned policy needs, and its configuration file; the two policies are real."""
    folder = tmp_path_factory.mktemp("trained")
    base = make_tiny_policy(folder / "base")
    settings = {
        "root": str(folder / "store"),
        "models": {"policy": f"path:{base}", "encoder": f"path:{folder}/encoder", "dtype": "float32", "device": "cpu"},
        "benchmarks": {"max_new_tokens": 4},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drirl_core.graph.exclusion._excluded", lambda *_: "none")
        publish_policies(folder / "own.yaml")
    return folder / "own.yaml"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drirl_core.graph.exclusion._excluded", lambda *_: "none")


def publish_policies(file: Path, changes: dict[str, Any] | None = None, seed: int = 1) -> None:
    """Publish the policy that a configuration names with everything it is made from, where that is not there yet."""
    project = load(file, changes)
    store, graph = project.store, project.graph
    versions = {name: source_version(path) for name, path in graph.sources.items()}
    for node in with_ancestors(graph, ["policy_checkpoint"]):
        inputs = deciding_inputs(node, versions, project)
        key = fingerprint(node.name, code_version(node, project.config), inputs)
        found = store.find(node.name, key)
        if found is None:
            with store.building(node.name, key) as workspace:
                if node.name in ("sft_checkpoint", "policy_checkpoint"):
                    make_tiny_policy(workspace.out, seed=seed)
                    seed += 1
                else:
                    (workspace.out / "rows").write_text(node.name)
                if node.name.endswith("_dataset") or node.name.startswith("safety_dataset_"):
                    write_rows(workspace.out, node.name)
                details = {"metadata": {}, "inputs": inputs, "config": resolved(project.config)}
                found = store.publish(node.name, key, workspace, details=details)
        versions[node.name] = found.version


def write_rows(folder: Path, name: str) -> None:
    """Write a data set: an unsafe validation prompt in each category, ten look-alikes, and others for training."""
    helpful = name == "helpful_dataset"
    rows = [
        {"prompt_id": f"{name} {i}", "prompt": f"{name} request {i}", "kind": "look_alike" if helpful else "unsafe",
         "split": "validation" if i < (10 if helpful else 1) else "train", "twin_of": ""}
        for i in range(20)
    ]  # fmt: skip
    write_table(folder / "rows.parquet", rows, pa.schema([(column, pa.string()) for column in rows[0]]))


def test_chat_puts_the_replies_side_by_side(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    shown = CliRunner().invoke(
        app, ["chat", str(trained), "--show", "sft", "--prompt", "Hello", "--prompt", "Good [bold]day"]
    )
    assert shown.exit_code == 0, shown.output
    heads = [line for line in shown.output.splitlines() if " base " in line]
    assert len(heads) == 2
    assert all(" SFT start " in line and " DR-IRL " in line for line in heads)
    assert "> Good [bold]day" in shown.output


def test_chat_shows_the_best_of_n_of_the_start_alone(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other policies stay greedy, unless --best-of asks them to choose as well."""

    class Last:
        def expected(self, prompts: list[str], completions: list[list[str]]) -> list[np.ndarray]:
            return [np.arange(len(own), dtype=float) for own in completions]

    asked = []

    def reranking(named: Any, samples: int, reporter: Any) -> Reranking:
        asked.append(samples)
        return Reranking(samples, Last(), 1.0, {})  # type: ignore[arg-type]

    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr("drirl_core.policy.best_of_n.load_reranking", reranking)
    words = ["chat", str(trained), "--prompt", "Hello", "--show", "best_of_n"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert " SFT start, best of N " in shown.output
    assert shown.output.count(", best of 8") == 1
    shown = CliRunner().invoke(app, [*words, "--show", "sft", "--best-of", "3"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count(", best of 3") == 4
    assert asked == [8, 3]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--show", "dpo"), 2, "only `sft` and `best_of_n` can be shown"),
        (("--show", "best_of_n"), 1, "there is no reference_classifiers of this configuration"),
        (
            ("--show", "best_of_n", "--set", "policy.start=base", "--set", "completions.samples={base: 1}"),
            1,
            "there is no SFT start; leave out --show best_of_n",
        ),
    ],
)
def test_chat_says_why_something_cannot_be_shown(trained: Path, words: tuple[str, ...], code: int, said: str) -> None:
    shown = CliRunner().invoke(app, ["chat", str(trained), "--prompt", "Hello", *words], env={"COLUMNS": "200"})
    assert shown.exit_code == code
    assert said in shown.stderr


def test_chat_refuses_half_a_character_before_a_model_loads(trained: Path) -> None:
    shown = CliRunner().invoke(app, ["chat", "--config", str(trained), "--prompt", "half \udcff"])
    assert shown.exit_code == 1
    assert "the prompt holds half a character (such as half an emoji), '\\udcff', at character 6" in shown.stderr


def test_chat_shows_where_a_reply_was_cut_and_how_to_allow_more(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    lengths = []

    def reply(policy: Any, prompts: Any, copies: int, settings: Any, **_: Any) -> list[list[Completion]]:
        lengths.append(settings.max_new_tokens)
        return [[Completion("a long story", settings.max_new_tokens, len(lengths) % 2 == 0)]]

    monkeypatch.setattr("drirl_core.models.sampling.sample", reply)
    for words, limit in (((), 4), (("--max-new-tokens", "9"), 9)):
        shown = CliRunner().invoke(app, ["chat", str(trained), "--prompt", "Hello", *words])
        assert shown.exit_code == 0, shown.output
        assert shown.output.count("a long story […]") == 1  # the base; the aligned policy ended its reply itself
        assert f"compliance, cut at {limit} tokens" in shown.output
        assert "--max-new-tokens N allows longer ones" in shown.output
    assert lengths == [4, 4, 9, 9]
    assert CliRunner().invoke(app, ["chat", str(trained), "--max-new-tokens", "0"]).exit_code == 2


def test_chat_refuses_above_a_threshold_and_says_what_decided(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    shown = CliRunner().invoke(app, ["chat", str(trained), "--prompt", "Hello", "--threshold", "-1e9"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("is above the threshold -1000000000.000, which decided: the policy's own refusal") == 2
    asked = ["chat", str(trained), "--threshold", "1e9"]
    shown = CliRunner().invoke(app, asked, input="Hello\n\n")
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("is not above the threshold +1000000000.000; the policy decided") == 2


def test_chat_calibrates_a_threshold_for_each_policy(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One look-alike in ten may be refused (checks.max_over_refusal is 0.15), and the validation split alone counts."""
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(
        app, ["chat", str(trained), "--prompt", "insult 3", "--threshold", "auto", "--show", "sft"]
    )
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("for at most 15% over-refusal; of the validation prompts it refuses 10.0% [") == 3
    assert shown.output.count(" of 10 look-alikes and ") == 3
    assert shown.output.count(" of 7 unsafe ones") == 3
    assert [name for name in ("base", "SFT start", "DR-IRL") if f"{name}: refusal score" in shown.output]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--threshold", "often"), "--threshold often: give a refusal score"),
        (("--threshold", "1", "--set", "benchmarks.score=none"), "--threshold needs a refusal score"),
    ],
)
def test_chat_refuses_a_bad_threshold_before_a_model_loads(
    trained: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("drirl_core.models.loading.load_policy", None)
    shown = CliRunner().invoke(app, ["chat", str(trained), "--prompt", "Hello", *words])
    assert shown.exit_code == 1
    assert said in shown.stderr


def test_conversation_ends_with_an_empty_line(trained: Path) -> None:
    shown = CliRunner().invoke(app, ["chat", "--config", str(trained)], input="Hello\n\n")
    assert shown.exit_code == 0, shown.output
    assert shown.output.count(" DR-IRL ") == 1
    assert " SFT start " not in shown.output


def test_drafts_are_removed_before_showing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "drirl_core.models.sampling.sample", lambda *a, **k: [[Completion("draft step\n####\nthe answer", 5, True)]]
    )
    assert chat.ChatPolicies(Given(trained).named(), ("base", "dr_irl")).answers("x") == {
        "base": chat.Reply("the answer"),
        "dr_irl": chat.Reply("the answer"),
    }


def test_the_policy_is_that_of_the_configuration_and_not_the_latest(trained: Path) -> None:
    usual = Given(trained).named().one("policy_checkpoint")
    publish_policies(trained, {"policy.steps": 9}, seed=5)
    other = Given(trained, ("policy.steps=9",)).named().one("policy_checkpoint")
    assert load(trained).store.latest("policy_checkpoint").version == other.version != usual.version
    assert Given(trained).named().one("policy_checkpoint").version == usual.version


def test_start_that_is_the_base_model_cannot_be_shown_twice(trained: Path) -> None:
    changes = ("policy.start=base", "completions.samples={base: 1}")
    with pytest.raises(ArtifactError, match="started from the base model itself"):
        chat.ChatPolicies(Given(trained, changes).named(), ("base", "sft", "dr_irl"))


def test_narrow_consoles_stack_the_replies() -> None:
    console = Console(file=io.StringIO(), width=40)
    chat.show("a prompt", {"base": chat.Reply("one"), "dr_irl": chat.Reply("")}, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert not any("base" in line and "DR-IRL" in line for line in lines)
    assert any("(empty)" in line for line in lines)
    assert max(map(len, lines)) <= 40


class AxisEmbedder:
    """Embed the texts of each category on a separate axis."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[float("insult" in text), float("fraud" in text), 0.1] for text in texts]) / 1.005


def pool(store: ArtifactStore, labels: list[str]) -> Path:
    schema = pa.schema([("prompt", pa.string()), ("category", pa.string()), ("labelled_by", pa.string())])
    rows = [{"prompt": f"{label} {i}", "category": label, "labelled_by": "source"} for i, label in enumerate(labels)]
    with store.building("prompt_pool", "key") as workspace:
        write_table(workspace.out / "prompts.parquet", rows, schema)
        return store.publish("prompt_pool", "key", workspace, details={"metadata": {}}).path


def test_router_of_the_score_is_fitted_on_the_pool(tmp_path: Path) -> None:
    config = Config(models=ModelsConfig(policy="path:/p", encoder="path:/e"))
    best, confidence = scoring.route(
        pool(ArtifactStore(tmp_path), ["insult", "fraud"] * 10), config, AxisEmbedder(), "another fraud"
    )
    assert best == "fraud"
    assert 0.5 < confidence <= 1


def test_pool_with_one_category_has_no_router(tmp_path: Path) -> None:
    config = Config(models=ModelsConfig(policy="path:/p", encoder="path:/e"))
    assert scoring.route(pool(ArtifactStore(tmp_path), ["insult"] * 10), config, AxisEmbedder(), "x") == (None, 0.0)


def test_score_shows_the_prompts_own_category_first() -> None:
    console = Console(file=io.StringIO(), width=100)
    found = scoring.Scored("fraud", "fraud", 0.81, {"insult": -1.0, "fraud": 2.5, "helpful": 0.25}, "refusal")
    scoring.show(found, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "router: fraud, confidence 0.81"
    assert lines[1] == "judge: refusal"
    assert [line.split()[0] for line in lines[3:6]] == ["fraud", "helpful", "insult"]
    assert "+2.500" in lines[3]
