"""Judges other than the rules in results, rows and pages: labels, grades, invalid verdicts and disagreement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from chat_server import Server, chat

from drirl_core.benchmarks.examine import Examinee
from drirl_core.benchmarks.judge_words import judge_line
from drirl_core.benchmarks.judges.verdicts import Judge, RulesJudge, Verdict
from drirl_core.benchmarks.judges.weight_files import weights_of
from drirl_core.benchmarks.judging import Judges, identity, left_out, make_judge, valid
from drirl_core.benchmarks.measure import Judged, judge, results
from drirl_core.benchmarks.render import judging_lines
from drirl_core.benchmarks.suites import BenchmarkRow
from drirl_core.config import (
    BenchmarksConfig,
    Config,
    DemonstrationsConfig,
    EmbeddedJudgeConfig,
    LlmJudgeConfig,
    ModelsConfig,
)
from drirl_core.errors import DataError, DrirlError
from drirl_core.graph.layout import Node
from drirl_core.graph.versions import code_version
from drirl_core.preflight.looking import look_at_judges
from drirl_core.project import Project
from drirl_core.report.data_sections import limits
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import read_table

REFUSAL, HELP = "I can't help with that.", "Sure, here is how it is done."
MODELS = ModelsConfig(policy="path:/models/base", encoder="path:/models/encoder")


class Fixed:
    """A judge that says what it is told, reply by reply."""

    record: ClassVar[dict[str, Any]] = {"judge": "fixed", "accuracy": None}

    def __init__(self, *verdicts: Verdict) -> None:
        self.said = verdicts

    def check(self) -> None:
        """Nothing can be wrong."""

    def verdicts(self, prompts: Sequence[str], replies: Sequence[str], categories: Sequence[str] = ()) -> list[Verdict]:
        return list(self.said)


def row(number: int, group: str = "unsafe", pair: str = "", accept: tuple[str, ...] = ()) -> BenchmarkRow:
    found: dict[str, Any] = {"suite": "s", "group": group, "category": "insult", "prompt": f"Prompt {number}?"}
    found |= {"prompt_id": f"id{number}", "pair": pair, "accept": accept}
    return BenchmarkRow(**{f.name: found[f.name] for f in dataclasses.fields(BenchmarkRow) if f.name in found})


def replied(rows: Sequence[BenchmarkRow], texts: Sequence[str], policy: str = "base") -> list[Judged]:
    return [judge(r, policy, text, tokens=5, finished=True) for r, text in zip(rows, texts, strict=True)]


def config(**benchmarks: Any) -> Config:
    return Config(models=MODELS, benchmarks=BenchmarksConfig(**benchmarks))


def test_a_judging_model_is_told_the_category_of_each_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rules they are a part of what decides an evaluation; without, nothing changes."""
    asked: list[Any] = []

    class Noting(Fixed):
        def verdicts(
            self, prompts: Sequence[str], replies: Sequence[str], categories: Sequence[str] = ()
        ) -> list[Verdict]:
            asked.append((list(prompts), list(categories)))
            return list(self.said)

    judges = Judges(Noting(Verdict("refusal"), Verdict("compliance")), None)
    judges.judge(replied([row(1), row(2)], [REFUSAL, HELP]))
    assert asked == [(["Prompt 1?", "Prompt 2?"], ["insult", "insult"])]
    (tmp_path / "rules.yaml").write_text("insult: No mockery.\n", encoding="utf-8")
    plain = config(judge="llm", llm=LlmJudgeConfig(url="http://h/v1", model="m"))
    told = dataclasses.replace(plain, demonstrations=DemonstrationsConfig(safety_policy=str(tmp_path / "rules.yaml")))
    assert [*identity(plain), {"insult": "No mockery."}] == identity(told)
    assert make_judge("llm", told, ArtifactStore(tmp_path), SilentReporter()).record["safety_policy"]


def test_rules_alone_add_nothing(tmp_path: Path) -> None:
    judges = Judges.of(config(), ArtifactStore(tmp_path), SilentReporter())
    replies = replied([row(1), row(2)], [REFUSAL, HELP])
    assert judges.judge(replies) == replies
    assert (judges.columns(), judges.added(replies, 100, 0), identity(config()), weights_of(config())) == (
        [],
        {},
        [],
        {},
    )


def test_the_label_and_what_rests_on_it_are_the_judges() -> None:
    """A refusal to the judge is not correct, although its words match; an answer to it is."""
    rows = [row(1, "helpful", accept=("rome",)), row(2, "helpful", accept=("rome",))]
    replies = replied(rows, ["It is Rome.", "I can't say Rome."])
    assert [r.correct for r in replies] == [True, False]
    judges = Judges(Fixed(Verdict("refusal", {"score": 0.5}), Verdict("compliance")), None)
    found = judges.judge(replies)
    assert [(r.label, r.correct, r.details) for r in found] == [
        ("refusal", False, '{"score": 0.5}'),
        ("compliance", True, "{}"),
    ]


def test_a_prompt_without_a_verdict_is_left_out_for_every_policy_with_its_twin() -> None:
    """Prompt 1 is invalid for `sft` alone; its twin 2 goes too; 3 stays: one prompt in each policy's rate."""
    rows = [row(1, pair="a"), row(2, "safe_look_alike", pair="a"), row(3)]
    replies = [*replied(rows, [HELP] * 3), *replied(rows, [HELP] * 3, "sft")]
    replies[3] = replies[3].relabelled("invalid", "{}")
    assert left_out(replies) == {"id1", "id2"}
    stays, kept = valid(replies, rows)
    assert kept == [False, False, True]
    assert {(r["policy"], r["n"]) for r in results(stays, 100, 0)["rates"] if r["category"] == "all"} == {
        ("base", 1),
        ("sft", 1),
    }
    found = Judges(Fixed(), None).added(replies, 100, 0)
    assert found["invalid"] == {"by_policy": {"base": 0, "sft": 1}, "prompts_left_out": 2}
    assert "2 prompts are left out for every policy" in judging_lines(found)
    examinee = Examinee("base", [True, False, True], [False, True, False], [0.1, 0.2, 0.3])
    assert examinee.only(kept) == Examinee("base", [True], [False], [0.3])


def test_no_verdict_at_all_is_an_error() -> None:
    replies = [r.relabelled("invalid", "{}") for r in replied([row(1)], [HELP])]
    with pytest.raises(DataError, match="no usable verdict on any prompt"):
        valid(replies, [row(1)])


def test_disagreement_by_hand() -> None:
    """First: R R C C; second: R C C invalid. Three count, they differ on one, a refusal to the first alone."""
    rows = [row(n) for n in range(4)]
    first = Fixed(*(Verdict(x) for x in ("refusal", "refusal", "compliance", "compliance")))  # type: ignore[arg-type]
    second = Fixed(*(Verdict(x) for x in ("refusal", "compliance", "compliance", "invalid")))  # type: ignore[arg-type]
    judges = Judges(first, second)
    replies = judges.judge(replied(rows, [HELP] * 4))
    assert [r.second for r in replies] == ["refusal", "compliance", "compliance", "invalid"]
    (found,) = judges.added(replies, 100, 0)["disagreement"]
    assert (found["n"], found["differ"], found["only_first"]) == (3, 1, 1)
    assert found["value"] == pytest.approx(1 / 3)
    assert "differ on 1 of 3 replies, 33.3 %" in judging_lines({"disagreement": [found]})


def test_grades_by_hand() -> None:
    """Goodness 1 and 0.5 have the mean 0.75; of three actions two are safe."""
    rows = [row(n) for n in range(3)]
    scored = Judges(
        Fixed(Verdict("refusal", {"goodness": 1.0}), Verdict("compliance", {"goodness": 0.5}), Verdict("invalid")), None
    )
    (goodness,) = scored.added(scored.judge(replied(rows, [HELP] * 3)), 100, 0)["grades"]
    assert (goodness["grade"], goodness["n"], goodness["value"]) == ("goodness", 2, 0.75)
    acts = [{"action": a, "safe": a != "follows"} for a in ("warns", "unwilling", "follows")]
    judges = Judges(Fixed(*(Verdict("compliance", act) for act in acts)), None)
    found = {
        g["grade"]: (g["value"], g["n"])
        for g in judges.added(judges.judge(replied(rows, [HELP] * 3)), 100, 0)["grades"]
    }
    assert found["safe_action"] == (pytest.approx(2 / 3), 3)
    assert found["follows"] == (pytest.approx(1 / 3), 3)


def test_the_judge_is_named_with_its_error_or_without() -> None:
    known = {
        "judge": "embedded",
        "accuracy": 0.92,
        "low": 0.9,
        "high": 0.94,
        "precision": 0.9,
        "recall": 0.91,
        "data": "toy",
        "n": 9,
    }
    line = judge_line(
        {"judge": {"judge": "llm", "model": "m", "rubric": "xstest", "accuracy": None}, "second_judge": known}
    )
    assert "Judge `llm` (m, rubric xstest): its error on labelled replies is no part of this result" in line
    assert "Second judge `embedded`: wrong on 8.0 % [6.0, 10.0] of 9 human-labelled replies (toy)" in line
    said = limits(config(), [{"judge": {"judge": "llm", "accuracy": None}, "rates": []}])
    assert any("the llm judge, whose error on labelled replies was not measured" in one for one in said)


def test_what_decides_verdicts_decides_versions(tmp_path: Path) -> None:
    """Weights count by content, parallel requests and the name of the key's variable not at all."""
    node = Node("benchmark_embedded", "benchmark", None, (), "", "embedded")
    folder = tmp_path / "w"
    folder.mkdir()
    one = config(second_judge="embedded", embedded=EmbeddedJudgeConfig(str(folder)))
    before = code_version(node, one)
    (folder / "embedded.json").write_text("{}")
    assert code_version(node, one) != before
    llm = [
        config(judge="llm", llm=LlmJudgeConfig("xstest", "http://h/v1", "m", **changes))
        for changes in ({}, {"parallel": 9, "api_key_env": "KEY"}, {"max_new_tokens": 9})
    ]
    first, same, other = (code_version(node, c) for c in llm)
    assert first == same != other
    assert identity(llm[0]) == identity(llm[1]) != identity(llm[2])
    assert code_version(node, config()) == code_version(node, config(embedded=EmbeddedJudgeConfig()))


def test_a_run_is_refused_before_models_load_when_a_judge_cannot_work(
    tmp_path: Path, serve: Callable[..., Server]
) -> None:
    server = serve((401, {}, b"who are you"))
    llm = LlmJudgeConfig("xstest", server.url, "m")
    missing = EmbeddedJudgeConfig(str(tmp_path / "none"))
    for wrong, message in (
        (config(judge="llm", llm=llm), "401"),
        (config(second_judge="embedded", embedded=missing), "weights"),
    ):
        project = Project(dataclasses.replace(wrong, root=str(tmp_path / "store")))
        with pytest.raises(DrirlError, match=message):
            list(look_at_judges(project))
    asked = len(server.seen)
    assert list(look_at_judges(Project(dataclasses.replace(config(), root=str(tmp_path / "store"))))) == []
    assert len(server.seen) == asked


def test_an_evaluation_is_judged_by_an_endpoint(
    tiny_models: ModelsConfig, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    """A tiny model on three rows; the table holds both labels, and the settings of the judge make another artifact."""
    from drirl_core.config import SuiteConfig
    from drirl_core.runs.evaluation import Subject, evaluate

    server = serve(chat('{"action": "follows"}'))
    suites = (SuiteConfig("embedded", limit=1),)
    llm = LlmJudgeConfig("do_not_answer", server.url, "grader")
    made = {}
    for name, settings in {"rules": {}, "llm": {"judge": "llm", "second_judge": "rules", "llm": llm}}.items():
        benchmarks = BenchmarksConfig(suites=suites, max_new_tokens=4, resamples=100, **settings)  # type: ignore[arg-type]
        project = Project(Config(models=tiny_models, root=str(tmp_path / "store"), benchmarks=benchmarks))
        subject = Subject("base", tiny_models.policy)
        made[name] = evaluate(subject, suites, project, SilentReporter())["embedded"]
    assert made["rules"].version != made["llm"].version
    plain, rows = (read_table(made[name].path / "replies.parquet") for name in ("rules", "llm"))
    assert set(rows[0]) - set(plain[0]) == {"details", "second_label"}
    assert [r["second_label"] for r in rows] == [r["label"] for r in plain]
    assert "grader, rubric do_not_answer" in (made["llm"].path / "results.md").read_text()


def test_every_name_makes_a_judge(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    found: Judge = make_judge("rules", config(), store, SilentReporter())
    assert isinstance(found, RulesJudge)
    assert (
        make_judge("llm", config(llm=LlmJudgeConfig(url="http://h/v1", model="m")), store, SilentReporter()).record[
            "model"
        ]
        == "m"
    )
