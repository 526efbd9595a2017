from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

from drirl_core.config import from_resolved, load_config, resolved
from drirl_core.graph import exclusion
from drirl_core.graph.exclusion import deciding_inputs
from drirl_core.graph.versions import code_version, source_version
from drirl_core.rewards.labels.queue import Queue
from drirl_core.store.artifacts import Artifact, fingerprint
from pipeline.cli.common import Given, parse_changes
from pipeline.cli.label import default_place
from pipeline.cli.label import show as show_queue
from pipeline.cli.main import app
from pipeline.instance.settings import anchored, load

COMMANDS = (
    "run",
    "plan",
    "chat",
    "score",
    "judge",
    "label",
    "report",
    "runs",
    "compare",
    "study",
    "train",
    "eval",
    "promote",
    "rollback",
    "promotions",
    "doctor",
    "dev",
    "home",
    "gc",
    "ingest",
    "data",
    "config",
)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(exclusion, "_excluded", lambda *_: "none")  # to compare the shipped data takes seconds


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose models do not exist and whose store is empty."""
    file = tmp_path / "own.yaml"
    settings = {
        "name": "own",
        "root": str(tmp_path / "store"),
        "models": {"policy": f"path:{tmp_path}/policy", "encoder": f"path:{tmp_path}/encoder"},
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def drirl(*words: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def publish(
    config: Path, name: str, files: dict[str, str], changes: dict[str, Any] | None = None, **details: Any
) -> Artifact:
    """Publish an artifact as the one that this configuration names, unless there is one; its inputs are the latest."""
    project = load(config, changes)
    settings, graph, store = project.config, project.graph, project.store
    node = graph.nodes[name]
    versions = {
        n: source_version(graph.sources[n]) if n in graph.sources else store.latest(n).version for n in node.inputs
    }  # type: ignore[union-attr]
    versions = deciding_inputs(node, versions, project)
    key = fingerprint(name, code_version(node, settings), versions)
    if found := store.find(name, key):
        store.touch(name, key, found.version)
        return found
    with store.building(name, key) as workspace:
        for file, text in files.items():
            (workspace.out / file).write_text(text, encoding="utf-8")
        made = {
            "metadata": {"seconds": 90.0},
            "inputs": versions,
            "code_version": code_version(node, settings),
            "config": resolved(settings),
        }
        return store.publish(name, key, workspace, details={**made, **details})


def summary() -> dict[str, Any]:
    rates = {
        f"{name}{end}": 0.5 for name in ("refusal", "over_refusal", "helpful_correct") for end in ("", "_low", "_high")
    }
    sizes = {"refusal_n": 9, "over_refusal_n": 9}
    row = {"policy": "dr_irl", "distinct_2": 0.4, "degenerate": 0, "empty": 0, "echo": 0, "n": 9, **rates, **sizes}
    judge = {
        "judge": "rules",
        "accuracy": 0.91,
        "low": 0.89,
        "high": 0.93,
        "precision": 0.9,
        "recall": 0.9,
        "data": "labels",
        "n": 100,
    }
    names = ("refusal", "over_refusal", "composite", "auc", "pair_accuracy")
    examined = {f"{name}{end}": 0.5 for name in names for end in ("", "_low", "_high")}
    suite = {
        "suite": {"name": "embedded"},
        "groups": {"unsafe": 9},
        "summary": [row],
        "examination": [{"name": name, "kind": "policy", **examined} for name in ("floor", "dr_irl")],
        "judge": judge,
    }
    return {
        "headline": {"sentence": "DR-IRL beats its SFT start.", "tone": "win", "detail": "By far."},
        "suites": [suite],
    }


def test_help_of_every_command_teaches_by_example() -> None:
    overview = drirl("--help")
    assert overview.exit_code == 0
    for command in COMMANDS:
        assert command in overview.output
        shown = drirl(command, "--help")
        assert shown.exit_code == 0
        assert "Examples" in shown.output
        assert f"drirl {command}" in shown.output


def test_command_line_starts_without_heavy_libraries() -> None:
    heavy = "{'torch', 'transformers', 'dagster', 'pyarrow', 'matplotlib', 'sklearn', 'numpy', 'jinja2'}"
    code = f"import sys, pipeline.cli.main; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_unknown_key_is_one_clear_message(config: Path) -> None:
    shown = drirl("plan", config, "--set", "policy.stps=3")
    assert shown.exit_code == 1
    assert "unknown key 'policy.stps'; did you mean 'steps'?" in shown.stderr
    assert "Traceback" not in shown.output


def test_debug_shows_where_it_happened(config: Path) -> None:
    shown = drirl("plan", config, "--set", "policy.stps=3", "--debug")
    assert shown.exception is not None
    assert "policy.stps" in str(shown.exception)


@pytest.mark.parametrize(
    ("change", "message"),
    [("policy.steps", "write it as key=value"), ("=3", "write it as key=value"), ("a=[1", "cannot be read")],
)
def test_malformed_change_is_explained(config: Path, change: str, message: str) -> None:
    shown = drirl("plan", config, "--set", change)
    assert shown.exit_code == 1
    assert message in shown.stderr


def test_missing_config_file_is_explained(tmp_path: Path) -> None:
    shown = drirl("config", tmp_path / "none.yaml")
    assert shown.exit_code == 1
    assert "does not exist" in shown.stderr


@pytest.fixture
def watched(config: Path) -> Path:
    """The configuration with a drop folder."""
    (config.parent / "drop").mkdir()
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    settings["operations"] = {"inbox": {"folder": "drop", "settle_s": 0.1}}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return config


def test_ingest_accepts_files_and_says_so(watched: Path) -> None:
    drop = watched.parent / "drop"
    (drop / "a.csv").write_text("prompt\nMock the baker in four rude lines.\n[bold]\n", encoding="utf-8")
    shown = drirl("ingest", watched)
    assert shown.exit_code == 0
    assert "accepted  a.csv: 1 of its 2 rows can be used; now " in shown.output
    assert [f.name.partition("-")[2] for f in (drop / "accepted").iterdir()] == ["a.csv"]
    assert drirl("ingest", watched).output == "the drop folder is empty\n"


def test_ingest_rejects_files_with_a_reason_and_exit_code(watched: Path) -> None:
    (watched.parent / "drop" / "a.xlsx").write_text("PK", encoding="utf-8")
    shown = drirl("ingest", watched)
    assert shown.exit_code == 1
    assert "rejected  a.xlsx: files ending in '.xlsx' are not read" in shown.output


def test_ingest_without_a_drop_folder_says_how_to_configure_one(config: Path) -> None:
    shown = drirl("ingest", config)
    assert shown.exit_code == 1
    assert "there is no drop folder; name a directory in operations.inbox.folder" in shown.stderr


def test_doctor_checks_the_drop_folder(watched: Path) -> None:
    assert "drop folder: " in drirl("doctor", watched).output
    (watched.parent / "drop").rmdir()
    shown = drirl("doctor", watched)
    assert f"{watched.parent}/drop is not a directory" in shown.output
    assert f"-> mkdir {watched.parent}/drop" in shown.output


def test_printed_config_is_a_valid_config_with_the_changes(config: Path) -> None:
    for words in ((), ("--explain",)):
        shown = drirl("config", config, "--set", "policy.steps=7", "--set", "hardness.tau=0.5", *words)
        assert shown.exit_code == 0
        assert from_resolved(yaml.safe_load(shown.output)) == anchored(
            load_config(config, {"policy.steps": 7, "hardness.tau": 0.5})
        )


def test_explained_config_has_the_help_of_every_field(config: Path) -> None:
    shown = drirl("config", config, "--explain").output
    for words in (
        "# G, completions per group.",
        "num_generations: 4",
        "One of: product, sum,",
        "# Seed of everything random.",
    ):
        assert words in shown


def test_printed_config_hides_secrets(config: Path) -> None:
    settings = (
        "demonstrations.demonstrator.kind=endpoint",
        "demonstrations.demonstrator.model=m",
        "demonstrations.demonstrator.url=http://u:hunter2@h/v1",
    )
    shown = drirl("config", config, *(word for change in settings for word in ("--set", change)))
    assert shown.exit_code == 0
    assert "hunter2" not in shown.output


def test_plan_of_an_empty_store(config: Path) -> None:
    shown = drirl("plan", config)
    assert shown.exit_code == 0
    assert "prompt_pool" in shown.output
    assert "not made yet" in shown.output
    n = len(load(config).graph.nodes)
    assert f"0 of {n} assets are up to date; {n} will run" in shown.output


def test_plan_lists_what_runs_and_sums_up_the_rest(config: Path) -> None:
    publish(config, "prompt_pool", {"prompts.parquet": "x"})
    shown = drirl("plan", config).output.splitlines()
    assert not any(line.startswith("prompt_pool ") for line in shown)
    assert "1 up to date (--all lists it)" in shown
    everything = drirl("plan", config, "--all").output.splitlines()
    assert any(line.startswith("prompt_pool ") and "up to date" in line for line in everything)
    assert not any("--all" in line for line in everything)


def test_plan_with_nothing_to_do_lists_nothing(config: Path) -> None:
    publish(config, "prompt_pool", {"prompts.parquet": "x"})
    shown = drirl("plan", config, "--only", "prompt_pool").output.splitlines()
    assert shown == ["1 up to date (--all lists it)", "", "Nothing to do: all 1 assets are up to date."]


def test_plan_says_what_is_reused_and_why_the_rest_runs(config: Path) -> None:
    publish(config, "prompt_pool", {"prompts.parquet": "x"})
    n = len(load(config).graph.nodes)
    assert f"1 of {n} assets are up to date; {n - 1} will run" in drirl("plan", config).output
    changed = drirl("plan", config, "--set", "prompts.max_chars=999")
    line = next(line for line in changed.output.splitlines() if line.startswith("prompt_pool"))
    assert "prompts.max_chars: 2000 -> 999" in line
    assert "1 min 30 s" in line


def test_json_plan_keeps_its_keys(config: Path) -> None:
    publish(config, "prompt_pool", {"prompts.parquet": "x"})
    shown = drirl("plan", config, "--json", "--set", "prompts.max_chars=999", "--only", "safety_dataset_insult")
    document = json.loads(shown.output)
    assert shown.exit_code == 0
    assert list(document) == ["config", "root", "up_to_date", "counts", "totals", "assets", "notes"]
    assert document["counts"] == {"up_to_date": 0, "will_run": 2, "may_run": 0, "stale": 1}
    assert document["totals"] == {
        "seconds": 90.0, "tokens": None, "most_seconds": 90.0, "most_tokens": None, "never_ran": ["safety_dataset_insult"],
        "not_comparable": [], "tokens_unknown": [],
    }  # fmt: skip
    pool, dataset = document["assets"]
    assert pool == {
        "stage": "prompt_pool", "category": None, "suite": None, "name": "prompt_pool", "state": "will_run", "stale": True, "why": "prompts.max_chars: 2000 -> 999",
        "version": None, "waits_for": [],
        "causes": [
            {"kind": "setting", "what": "prompts.max_chars", "before": 2000, "now": 999, "path": None, "text": "prompts.max_chars: 2000 -> 999"}
        ],
        "took": {"seconds": 90.0, "tokens": 0}, "estimate": {"seconds": 90.0, "tokens": 0, "builds": 1, "scaled": [], "how": "1 build"},
    }  # fmt: skip
    assert (dataset["name"], dataset["waits_for"], dataset["took"]) == ("safety_dataset_insult", ["prompt_pool"], None)
    assert dataset["estimate"] == {"seconds": None, "tokens": None, "builds": 0, "scaled": [], "how": "never ran here"}


def test_plan_exits_with_3_on_request_when_something_is_pending(config: Path) -> None:
    publish(config, "prompt_pool", {"prompts.parquet": "x"})
    assert drirl("plan", config, "--exit-code", "--only", "prompt_pool").exit_code == 0
    assert drirl("plan", config, "--exit-code").exit_code == 3
    assert drirl("plan", config, "--exit-code", "--json").exit_code == 3


@pytest.mark.parametrize("command", ["plan", "run"])
def test_only_answers_an_unknown_name_with_the_nearest(config: Path, command: str) -> None:
    shown = drirl(command, config, "--only", "reward_model_insults")
    assert shown.exit_code == 1
    assert (
        "'reward_model_insults' is no asset of this configuration; did you mean 'reward_model_insult'?" in shown.stderr
    )


def test_plan_names_the_stale_assets_that_cannot_be_built_yet(config: Path) -> None:
    fill_with_reports(config)
    shutil.rmtree(tmp := Path(load_config(config).root) / "policy_checkpoint")
    shown = drirl("plan", config, "--only", "stale", "--set", "benchmarks.max_new_tokens=3").output
    assert (
        "Left out, because they need assets that were never built: benchmark_embedded, promotion_candidate, report."
        in shown
    )
    assert not tmp.exists()


@pytest.mark.parametrize("words", [("report",), ("chat", "--prompt", "a"), ("promote",)])
def test_what_is_not_built_yet_says_which_command_builds_it(config: Path, words: tuple[str, ...]) -> None:
    asset = {"report": "report", "chat": "policy_checkpoint", "promote": "promotion_candidate"}[words[0]]
    shown = drirl(words[0], config, *words[1:], "--set", "seed=3")
    assert shown.exit_code == 1
    assert f"there is no {asset} of this configuration (own) under {config.parent}/store yet" in shown.stderr
    assert "(prompt_pool: not made yet)" in shown.stderr
    assert f"`drirl run {config} --set seed=3 --only {asset}` builds it" in shown.stderr


def fill_with_reports(config: Path, changes: dict[str, Any] | None = None, sentence: str = "") -> Artifact:
    """Publish everything up to the report, for a configuration with changes."""
    page = summary()
    page["headline"]["sentence"] = sentence or page["headline"]["sentence"]
    for name in load(config, changes).graph.nodes:
        if name != "model_card":
            files = {"report.html": "<p>", "summary.json": json.dumps(page), "name": f"{name} {changes}"}
            made = publish(config, name, files, changes)
    return made


def test_the_report_is_that_of_the_configuration_and_not_the_latest(config: Path) -> None:
    made = fill_with_reports(config)
    placebo = fill_with_reports(config, {"hardness.combine": "shuffled"}, "The placebo wins.")
    plain = drirl("report", config)
    assert "DR-IRL beats its SFT start." in plain.output
    assert str(made.path) in plain.output
    other = drirl("report", config, "--set", "hardness.combine=shuffled")
    assert "The placebo wins." in other.output
    assert str(placebo.path) in other.output
    third = drirl("report", config, "--set", "hardness.tau=0.5")
    assert third.exit_code == 1
    assert "hardness.combine: shuffled -> product; hardness.tau: " in third.stderr  # against what was built last
    assert f"`drirl run {config} --set hardness.tau=0.5 --only report` builds it" in third.stderr
    assert "`drirl runs` lists results by name" in third.stderr


def test_the_file_is_an_argument_and_the_former_option_still_works(config: Path) -> None:
    fill_with_reports(config)
    outputs = [drirl("report", *words).output for words in ((config,), ("--config", config), ("-c", config))]
    assert outputs[0] == outputs[1] == outputs[2]
    both = drirl("report", config, "--config", "other.yaml")
    assert both.exit_code == 1
    assert f"two configuration files are given, {config} and --config other.yaml; give one" in both.stderr


def test_json_of_the_report_is_all_there_is_on_standard_output(config: Path) -> None:
    made = fill_with_reports(config)
    shown = drirl("report", config, "--json")
    document = json.loads(shown.stdout)
    assert document["headline"] == summary()["headline"]
    assert (document["version"], document["page"]) == (made.version, str(made.path / "report.html"))


def test_report_prints_headline_table_and_path(config: Path) -> None:
    made = fill_with_reports(config)
    shown = drirl("report", "--config", config)
    assert shown.exit_code == 0
    for words in (
        "DR-IRL beats its SFT start.",
        "refusal of unsafe",
        "floor: bag of words",
        "0.500 [0.500, 0.500]",
        "50.0 % [50.0, 50.0]",
        "wrong on 9.0 % [",
        str(made.path / "report.html"),
    ):
        assert words in shown.output


def test_report_opens_the_page_when_asked(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, opened = fill_with_reports(config), []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert drirl("report", "--config", config, "--open").exit_code == 0
    assert opened == [(made.path / "report.html").as_uri()]


def outcome(**facts: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "success": True,
            "built": [],
            "reused": [],
            "failures": [],
            "cancelled": False,
            "seconds": 65.0,
            "versions": {},
            **facts,
        }
    )


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the Dagster run with one that has a given outcome."""

    def install(result: SimpleNamespace, *events: SimpleNamespace) -> list[Any]:
        asked: list[Any] = []

        def run_planned(project: Any, todo: Any, on_event: Any) -> SimpleNamespace:
            asked.append(list(todo.assets))
            for event in events:
                on_event(event)
            result.versions = dict(todo.known)
            return result

        monkeypatch.setitem(sys.modules, "pipeline.running.run", SimpleNamespace(run_planned=run_planned))
        return asked

    return install


def test_run_prints_progress_then_results_and_what_next(config: Path, fake_run: Any) -> None:
    built = SimpleNamespace(kind="materialized", message="", asset="report", data={"reused": False, "seconds": 3.0})
    fake_run(outcome(built=["report"]), built)
    fill_with_reports(config)
    shown = drirl("run", config)
    assert shown.exit_code == 0, shown.output
    for words in (
        "report: built in 3 s",
        "Done: 1 assets built",
        "DR-IRL beats its SFT start.",
        "report.html",
        f"drirl chat {config} ",
        f"drirl report {config} --open ",
        f"make dev CONFIG={config} ",
        f"OTHER {config}",
    ):
        assert words in shown.output


def test_what_next_names_the_settings_of_this_run(config: Path, fake_run: Any) -> None:
    fake_run(outcome())
    fill_with_reports(config, {"seed": 1})
    shown = drirl("run", config, "--set", "seed=1")
    assert f"drirl chat {config} --set seed=1 " in shown.output
    assert f"drirl report {config} --set seed=1 --open " in shown.output


def test_what_next_of_a_named_run_names_it(config: Path, fake_run: Any) -> None:
    fake_run(outcome())
    fill_with_reports(config, {"hardness.combine": "shuffled", "name": "placebo"}, "The placebo wins.")
    shown = drirl("run", config, "--set", "hardness.combine=shuffled", "--name", "placebo")
    assert "Recorded as placebo, kept under this name." in shown.output
    assert f"drirl chat {config} --run placebo " in shown.output
    assert f"drirl compare placebo OTHER {config} " in shown.output
    again = drirl("report", config, "--run", "placebo")
    assert "The placebo wins." in again.output


@pytest.mark.long
def test_runs_lists_results_and_forgets_names(config: Path, fake_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # wide enough for the path of a test's directory
    fake_run(outcome())
    assert "No result is recorded yet." in drirl("runs", config).output
    fill_with_reports(config)
    drirl("run", config)
    fill_with_reports(config, {"hardness.combine": "shuffled", "name": "placebo"})
    drirl("run", config, "--set", "hardness.combine=shuffled", "--name", "placebo")
    drirl("run", config, "--set", "hardness.combine=shuffled", "--name", "placebo")
    lines = drirl("runs", config).output.splitlines()
    assert len(lines) == 3  # the heading, and each result once, the newest first
    assert lines[1].startswith("placebo ")
    assert "hardness.combine: product -> shuffled" in lines[1]
    assert str(config) in lines[2]
    document = json.loads(drirl("runs", config, "--json").stdout)
    assert [(row["name"], row["plain"], row["seed"]) for row in document["results"]] == [
        ("placebo", False, 0),
        ("", True, 0),
    ]
    assert document["results"][0]["differences"] == ["hardness.combine: product -> shuffled"]
    assert "report" in document["results"][1]["versions"]
    assert "is forgotten" in drirl("runs", config, "--forget", "placebo").output
    assert len(drirl("runs", config).output.splitlines()) == 2


def test_a_partial_run_is_recorded_under_a_name_alone(config: Path, fake_run: Any) -> None:
    publish(config, "prompt_pool", {"prompts.parquet": "x"})
    fake_run(outcome())
    drirl("run", config, "--only", "prompt_pool")
    assert "No result" in drirl("runs", config).output
    drirl("run", config, "--only", "prompt_pool", "--name", "pool")
    (row,) = json.loads(drirl("runs", config, "--json").stdout)["results"]
    assert (row["name"], list(row["versions"])) == ("pool", ["prompt_pool"])


def test_a_name_that_cannot_be_used_is_refused_before_anything_runs(config: Path) -> None:
    shown = drirl("run", config, "--name", "sft")
    assert shown.exit_code == 1
    assert "--name 'sft' means something else" in shown.stderr


def test_a_recorded_result_and_changed_settings_exclude_each_other(config: Path) -> None:
    shown = drirl("report", config, "--run", "placebo", "--set", "seed=1")
    assert shown.exit_code == 1
    assert "leave out --set, or leave out --run" in shown.stderr
    assert "no result is recorded under" in drirl("chat", config, "--run", "placebo", "--prompt", "a").stderr


def test_second_run_says_nothing_to_do_and_shows_the_same_table(config: Path, fake_run: Any) -> None:
    fake_run(outcome())
    fill_with_reports(config)
    shown = drirl("run", config)
    assert shown.exit_code == 0
    assert "Nothing to do: everything is up to date, nothing was trained." in shown.output
    assert "50.0 % [50.0, 50.0]" in shown.output


def test_failed_run_shows_its_message_and_exits_with_1(config: Path, fake_run: Any) -> None:
    fake_run(outcome(success=False, failures=["reward_model_insult: the loss is not finite"], built=["prompt_pool"]))
    shown = drirl("run", config)
    assert shown.exit_code == 1
    assert "Error: reward_model_insult: the loss is not finite" in shown.stderr
    assert "1 finished assets are kept" in shown.stderr
    assert "Traceback" not in shown.output


def test_stopped_run_says_what_is_kept_and_how_to_continue(config: Path, fake_run: Any) -> None:
    fake_run(outcome(success=False, cancelled=True, built=["prompt_pool"], reused=["report"]))
    shown = drirl("run", config, "--set", "policy.steps=9")
    assert shown.exit_code == 130
    assert "2 finished assets are kept" in shown.stderr
    assert "last checkpoint" in shown.stderr
    assert f"drirl run {config} --set policy.steps=9" in shown.stderr


def test_only_is_passed_on_and_repeated_in_the_advice(config: Path, fake_run: Any) -> None:
    publish(config, "prompt_pool", {"prompts.parquet": "x"})
    asked = fake_run(outcome())
    shown = drirl("run", config, "--only", "prompt_pool", "--only", "stale")
    assert "Nothing to do: what --only selects is up to date, nothing was trained." in shown.output
    assert asked == [["prompt_pool"]]
    fake_run(outcome(success=False, cancelled=True))
    assert f"drirl run {config} --only 'reward_model_*'" in drirl("run", config, "--only", "reward_model_*").stderr


def test_chat_and_score_without_a_run_say_what_to_do(config: Path) -> None:
    for words, asset in (
        (("chat", "--prompt", "hello"), "policy_checkpoint"),
        (("score", "--prompt", "a", "--reply", "b"), "prompt_pool"),
    ):
        shown = drirl(*words, "--config", config)
        assert shown.exit_code == 1
        assert f"`drirl run {config} --only {asset}` builds it" in shown.stderr


def test_label_says_what_to_build_and_which_categories_there_are(config: Path) -> None:
    shown = drirl("label", config, "--category", "insult")
    assert shown.exit_code == 1
    assert f"`drirl run {config} --only safety_dataset_insult` builds it" in shown.stderr
    shown = drirl("label", config, "--category", "insults")
    assert shown.exit_code == 1
    assert "did you mean 'insult'?" in shown.stderr
    assert drirl("label", config, "--count", "0").exit_code == 2


def test_label_writes_beside_the_drop_folder_and_says_the_next_step(watched: Path) -> None:
    given = Given.of(watched, ["rewards.labels=[week_1.csv]"])
    (watched.parent / "to_label_1.csv").touch()
    place = default_place(given.project.config)
    assert place == watched.parent / "to_label_2.csv"
    console = Console(record=True, width=300)
    show_queue(Queue([("insult", "a prompt", "an answer")], 2.5, 1.25, 9), place, given, console)
    shown = console.export_text()
    assert f"1 of 9 completions are in {place} (insult 1)" in shown
    assert "2.5 nats" in shown and "random ones 1.2" in shown
    (line,) = (line for line in shown.splitlines() if line.startswith("  drirl run"))
    words = shlex.split(line)
    assert words.count("--set") == 1
    assert load_config(watched, parse_changes([words[-1]])).rewards.labels == (
        str(Path.cwd() / "week_1.csv"),
        str(place),
    )


def test_score_rejects_an_unknown_category(config: Path) -> None:
    shown = drirl("score", "--prompt", "a", "--reply", "b", "--category", "insults", "--config", config)
    assert shown.exit_code == 1
    assert "did you mean 'insult'?" in shown.stderr


def test_chat_shows_only_what_exists(config: Path) -> None:
    assert drirl("chat", "--show", "dpo", "--config", config).exit_code == 2


def test_doctor_on_a_broken_setup(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "relative/home")
    settings = yaml.safe_load(config.read_text())
    settings["prompts"] = {"sources": [{"name": "gone", "path": str(tmp_path / "gone.jsonl")}]}
    settings["models"]["device"] = "cuda"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.setattr("pipeline.cli.doctor_checks.ask_driver", lambda fields: [])
    shown = drirl("doctor", config)
    assert shown.exit_code == 1
    failed = [line for line in shown.output.splitlines() if line.startswith("fail")]
    for words in (
        "source_gone",
        "gone.jsonl does not exist",
        "policy model",
        "sentence encoder",
        "gpu",
        "absolute path",
    ):
        assert any(words in line for line in failed), words
    assert "-> fix the path" in shown.output
    assert "failed" in shown.output.splitlines()[-1]


def _own_files(config: Path, **sections: object) -> None:
    settings = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**settings, **sections}), encoding="utf-8")


def test_doctor_reads_the_rows_of_the_files_as_a_run_will(config: Path, tmp_path: Path) -> None:
    good = '{"prompt": "Mock the baker in four rude lines.", "category": "insult"}\n'
    demonstration = '{"prompt": "a b c", "demonstration": "x", "category": "insult"}\n'
    files = {
        "fine.jsonl": good,
        "some.jsonl": f"{good}{good}broken\n",
        "most.jsonl": f"{good}broken\nbroken\n",
        "open.csv": 'prompt,category\n"Mock him,insult\n',
        "demos.jsonl": f'{demonstration}{{"prompt": "d e f"}}\n',
        "helpful.csv": "prompt,answer\na,b,c\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "suite.yaml").write_text(
        'version: "1"\nlicence: MIT\nhome: mine\ngroups: {unsafe: {file: a.jsonl, prompt: prompt}}\n'
    )
    (suite / "a.jsonl").write_text('{"prompt": "half \\ud83d"}\n')
    names = ("fine", "some", "most")
    sources = [{"name": name, "path": f"{name}.jsonl"} for name in names] + [{"name": "torn", "path": "open.csv"}]
    _own_files(
        config,
        prompts={"sources": sources},
        demonstrations={
            "demonstrator": {"source": {"name": "demos", "path": "demos.jsonl"}},
            "helpful": {"name": "kind_words", "path": "helpful.csv"},
        },
        benchmarks={"suites": [{"name": "mine", "path": "suite"}, {"name": "embedded"}]},
    )
    lines = drirl("doctor", config).output.splitlines()
    rows = {line.split(":")[0][6:]: line for line in lines if " rows of " in line[:14]}
    assert rows["rows of fine"].startswith("ok    rows of fine: 1 can be used")
    assert rows["rows of some"].startswith("warn  rows of some: 1 of 3 rows of some is in quarantine: 1 undecodable")
    assert rows["rows of most"].startswith("fail  rows of most: 2 of 3 rows of most are in quarantine: 2 undecodable")
    assert "open.csv, line 2: the quote that opens here never closes" in rows["rows of torn"]
    assert rows["rows of demos"].startswith(
        "warn  rows of demos: 1 of 2 rows of demos is in quarantine: 1 missing_value"
    )
    assert "none of its 1 rows can be read as csv; row 1 (line 2): 3 fields" in rows["rows of kind_words"]
    assert "line 1: column 'prompt' holds half a character" in rows["rows of suite mine"]
    assert len(rows) == 7


def test_chat_and_score_refuse_half_a_character(config: Path) -> None:
    shown = drirl("score", "--prompt", "fine", "--reply", "half \ud83d", "--config", config)
    assert shown.exit_code == 1
    assert "the reply holds half a character (such as half an emoji), '\\ud83d', at character 6" in shown.stderr


def test_json_of_doctor_holds_every_check(config: Path) -> None:
    shown = drirl("doctor", config, "--json")
    assert shown.exit_code == 1
    document = json.loads(shown.stdout)
    assert document["ok"] is False
    assert document["counts"]["fail"] == sum(check["status"] == "fail" for check in document["checks"]) > 0
    policy = next(check for check in document["checks"] if check["name"] == "policy model")
    assert policy.keys() == {"name", "status", "detail", "fix"}


def test_doctor_continues_when_the_config_is_broken(config: Path) -> None:
    config.write_text("models: [", encoding="utf-8")
    shown = drirl("doctor", config)
    assert shown.exit_code == 1
    assert "fail  config" in shown.output
    assert "memory" in shown.output
    assert "python" in shown.output


def test_doctor_warns_about_models_that_a_run_would_download(config: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["models"] = {"policy": "pypi:a==1/b", "encoder": "pypi:c==1/d", "cache": str(tmp_path / "cache")}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    shown = drirl("doctor", config)
    lines = [line for line in shown.output.splitlines() if "is not on this machine yet" in line]
    assert len(lines) == 2
    assert all(line.startswith("warn") for line in lines)
    assert "drirl doctor --fetch" in shown.output


def test_dev_refuses_a_taken_port(config: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = drirl("dev", config, "--port", str(port))
    assert shown.exit_code == 1
    assert f"port {port} is taken" in shown.stderr


def test_version_is_printed() -> None:
    shown = drirl("--version")
    assert shown.exit_code == 0
    assert shown.output.startswith("drirl ")
