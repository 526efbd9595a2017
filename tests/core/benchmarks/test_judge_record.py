"""The recorded error of a judge behind a real HTTP server: kept once, found by its judge alone, shown by the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import Server, chat
from report_inputs import ReportFolders

from drirl_core.benchmarks.judges.labelled import LabelledReply, LabelledSet
from drirl_core.benchmarks.judges.llm import LlmJudge
from drirl_core.benchmarks.judges.recorded import JUDGE_ERRORS, JudgeErrors, measure_and_record
from drirl_core.benchmarks.judges.verdicts import RulesJudge
from drirl_core.config import BenchmarksConfig, Config, LlmJudgeConfig, load_config
from drirl_core.errors import ArtifactError
from drirl_core.graph.layout import build_graph
from drirl_core.graph.reasons import content_causes
from drirl_core.graph.versions import code_version, named_contents
from drirl_core.report.card import build_model_card
from drirl_core.report.stage import build_report
from drirl_core.reporting import SilentReporter
from drirl_core.retention.directory import Directory
from drirl_core.store.artifacts import ArtifactStore

ROWS = [(f"How is {n}?", f"Answer {n}.", n % 2 == 0) for n in range(20)]
"""Ten refusals, with even numbers, and ten others."""
OWN = LabelledSet("mine/labelled.jsonl", tuple(LabelledReply(*row) for row in ROWS))


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """Grade as the labels say, but for answers 0 and 1: one refusal is missed and one answer called a refusal."""

    def answer(message: str) -> tuple[int, dict[str, str], bytes]:
        if "Answer with the word" in message:
            return 200, {}, chat("ready")
        refuses = next(n for n in range(20) if f"How is {n}?" in message) in {1, *range(2, 20, 2)}
        return 200, {}, chat(json.dumps({"kind": "full_refusal" if refuses else "full_compliance"}))

    return serve(answer=answer)


def endpoint(url: str, **changes: Any) -> LlmJudgeConfig:
    return dataclasses.replace(LlmJudgeConfig("xstest", url, "grader"), **changes)


def measure(llm: LlmJudgeConfig, store: ArtifactStore, labelled: LabelledSet = OWN) -> dict[str, Any]:
    return measure_and_record(LlmJudge(llm, store, SilentReporter()), labelled, store)[0]


def test_a_measurement_is_kept_once_and_found_by_its_judge_alone(server: Server, tmp_path: Path) -> None:
    """Neither the parallel requests nor the key's variable make another judge; length, rubric, model and address do."""
    store = ArtifactStore(tmp_path)
    measured = measure(endpoint(server.url), store)
    assert (measured["n"], measured["accuracy"]["value"]) == (20, 0.9)
    again = measure(endpoint(server.url, parallel=1), store)
    assert again == measured
    assert len(server.seen) == 21, "one message tries the endpoint, and no verdict is paid for twice"
    assert len(JudgeErrors(store).history()) == 1, "the same error is not written again"

    def known(llm: LlmJudgeConfig) -> list[Any]:
        return [found["data"] for found in JudgeErrors(store).of(LlmJudge(llm, store, SilentReporter()).identity)]

    same = [endpoint(server.url, parallel=9, api_key_env="KEY"), endpoint(f"{server.url}/")]
    other = [
        endpoint(server.url, **change) for change in ({"max_new_tokens": 9}, {"rubric": "strongreject"}, {"model": "b"})
    ]
    assert [known(llm) for llm in same] == [["mine/labelled.jsonl"]] * 2
    assert [known(llm) for llm in (*other, endpoint("http://127.0.0.1:1/v1"))] == [[]] * 4


def test_of_each_set_the_last_figure_counts_and_labels_of_people_come_first(server: Server, tmp_path: Path) -> None:
    store, llm = ArtifactStore(tmp_path), endpoint(server.url)
    sets = [
        LabelledSet("hand_read", OWN.rows),
        LabelledSet("few.jsonl", OWN.rows[:4]),
        OWN,
        LabelledSet(OWN.name, OWN.rows[:10]),  # the file was shortened
    ]
    for labelled in sets:
        measure(llm, store, labelled)
    found = JudgeErrors(store).of(LlmJudge(llm, store, SilentReporter()).identity)
    assert [(one["data"], one["n"]) for one in found] == [
        ("mine/labelled.jsonl", 10),
        ("few.jsonl", 4),
        ("hand_read", 20),
    ]
    assert all("sources" not in one and "kinds" not in one for one in found)


def test_judges_whose_error_is_known_elsewhere_are_not_recorded(tmp_path: Path) -> None:
    measure_and_record(RulesJudge(), OWN, ArtifactStore(tmp_path))
    assert not (tmp_path / JUDGE_ERRORS).exists()


# ------------------------------------------------------------------------------------------------------------- versions


def configured(folder: Path, url: str, **settings: Any) -> Config:
    file = folder / "run.yaml"
    file.write_text(
        f"models: {{policy: 'hf:a/policy', encoder: 'hf:a/encoder'}}\nroot: {folder / 'store'}\n", encoding="utf-8"
    )
    judge = {"benchmarks.judge": "llm", "benchmarks.llm.url": url, "benchmarks.llm.model": "grader"}
    return load_config(file, {**judge, "benchmarks.llm.rubric": "xstest", **settings})


def versions(config: Config) -> dict[str, str]:
    return {name: code_version(node, config) for name, node in build_graph(config).nodes.items()}


def test_what_was_measured_makes_the_pages_stale_that_show_it_and_nothing_else(server: Server, tmp_path: Path) -> None:
    config = configured(tmp_path, server.url)
    rules = {"benchmarks.judge": "rules"}
    before, of_rules = versions(config), versions(configured(tmp_path, server.url, **rules))
    node = build_graph(config).nodes["report"]
    assert named_contents(node, config) == named_contents(node, configured(tmp_path, server.url, **rules))
    store = ArtifactStore.of(config)

    measure(endpoint(server.url, max_new_tokens=9), store)
    assert versions(config) == before, "that was another judge"
    measure(config.benchmarks.llm, store)
    after = versions(config)
    assert {name for name in before if before[name] != after[name]} == {"report", "model_card"}
    assert versions(configured(tmp_path, server.url, **rules)) == of_rules
    (cause,) = content_causes({}, named_contents(node, config))
    assert str(cause) == "measured error of the llm judge changed"

    second = {"benchmarks.judge": "rules", "benchmarks.second_judge": "llm"}
    assert "measured error of the llm judge" in named_contents(node, configured(tmp_path, server.url, **second))


def test_a_record_that_cannot_be_read_stops_the_report_and_not_the_plan(server: Server, tmp_path: Path) -> None:
    folders = reported(tmp_path, endpoint(server.url))
    before = versions(folders.config)
    broken = tmp_path / "store" / JUDGE_ERRORS / "000001.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{", encoding="utf-8")
    assert versions(folders.config)["report"] != before["report"]
    with pytest.raises(ArtifactError, match=r"judge_errors cannot be read .*writes it again at no cost"):
        build_report(folders.context())


def test_it_is_no_asset_that_could_be_deleted(server: Server, tmp_path: Path) -> None:
    measure(endpoint(server.url), ArtifactStore(tmp_path))
    (tmp_path / JUDGE_ERRORS / "000001").mkdir()
    stock = Directory(tmp_path).take_stock(0.0)
    assert (stock.artifacts, stock.leftovers) == ({}, ())


# --------------------------------------------------------------------------------------------------------------- report


def reported(folder: Path, llm: LlmJudgeConfig) -> ReportFolders:
    """Make the inputs of a report whose verdicts are those of a judge behind an endpoint."""
    benchmarks = BenchmarksConfig(judge="llm", llm=llm)
    folders = ReportFolders(folder, {"base": (2, 0), "sft": (20, 8), "dr_irl": (32, 8)}, benchmarks=benchmarks)
    place = folders.input("benchmark_embedded") / "results.json"
    found = json.loads(place.read_text(encoding="utf-8"))
    record = LlmJudge(llm, ArtifactStore(folder / "store"), SilentReporter()).record
    folders.write(place, {**found, "judge": dict(record)})
    return folders


def test_the_report_says_how_often_its_judge_is_wrong_and_what_that_may_mean(server: Server, tmp_path: Path) -> None:
    """Nine of ten right in both kinds: f = m = .1, so that 80 % refusal may be 87.5 %, and 20 % over-refusal 12.5 %."""
    folders = reported(tmp_path, endpoint(server.url))
    build_report(folders.context())
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert (
        "Judge llm (grader, rubric xstest): its error on labelled replies was not measured; drirl judge LABELLED"
        in page
    )
    assert "points without the judge" not in page

    measure(folders.config.benchmarks.llm, ArtifactStore(tmp_path / "store"))
    asked = len(server.seen)
    build_report(folders.context())
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "wrong on 10.0 % [2.8, 30.1] of 20 labelled replies (mine/labelled.jsonl), 10.0% of what does not" in page
    assert "points without the judge" in page
    assert "was not measured" not in page
    for shown in ("+7.5", "-7.5"):
        assert f"<b>{shown}</b>" in page
    assert "would keep its sign and be 1.25 times as large" in page
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["suites"][0]["judge_errors"][0]["data"] == "mine/labelled.jsonl"

    build_model_card(folders.context("card"))
    card = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert "+7.5 [" in card
    assert "wrong on about 10.0% of labelled replies" in card
    assert len(server.seen) == asked, "no page asks the endpoint"
