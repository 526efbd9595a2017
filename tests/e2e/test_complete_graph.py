"""The complete graph on tiny models: reproducible, resumed after a kill, and through Dagster."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from drirl_core import open_table
from drirl_core.config import Config
from drirl_core.graph.build import build, run_all
from drirl_core.graph.layout import DATA_FOLDER, build_graph
from drirl_core.graph.planned import Named
from drirl_core.graph.stages import STAGES
from drirl_core.graph.versions import source_version
from drirl_core.policy.best_of_n import load_reranking
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.runs.evaluation import evaluate, find_subject, find_suites
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import read_table
from drirl_core.taxonomy import SEVEN_CATEGORIES
from drirl_core.testing import RecordingReporter, tiny_config
from pipeline.cli.chat import ChatPolicies

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("complete")


@pytest.fixture(scope="module")
def config(base_folder: Path) -> Config:
    return tiny_config(base_folder)


@pytest.fixture(scope="module")
def versions(config: Config) -> dict[str, str]:
    return {name: artifact.version for name, artifact in run_all(Project(config), SilentReporter()).items()}


@pytest.mark.long
def test_two_runs_in_fresh_roots_give_the_same_versions(base_folder: Path, versions: dict[str, str]) -> None:
    again = run_all(Project(tiny_config(base_folder, {"root": str(base_folder / "again")})), SilentReporter())
    assert {name: artifact.version for name, artifact in again.items()} == versions


def test_every_asset_of_the_graph_is_published_completely(config: Config, versions: dict[str, str]) -> None:
    store = ArtifactStore(config.root)
    assert set(versions) == set(build_graph(config).nodes)
    for name, version in versions.items():
        store.verify(store.open(name, version))
    assert not [p for p in (store.root / ".work").iterdir() if p.is_dir() and any((p / "out").iterdir())]


@pytest.mark.slow
def test_the_graph_runs_with_an_adapter_per_category(base_folder: Path, versions: dict[str, str]) -> None:
    """Data, pools and start are those of the run with heads; rewards and what is trained on them are not."""
    adapter = {"rank": 2, "first_layer": 0.5, "epochs": 1}
    config = tiny_config(base_folder, {"rewards.backbone": "adapter", "rewards.adapter": adapter})
    found = run_all(Project(config), SilentReporter())
    same = {name for name, artifact in found.items() if artifact.version == versions[name]}
    assert {name for name in found if "dataset" in name or "pool" in name} | {"sft_checkpoint"} <= same
    assert not {name for name in found if name.startswith(("reward_model", "policy_checkpoint"))} & same
    for category in SEVEN_CATEGORIES:
        files = {file.name: file.stat().st_size for file in found[f"reward_model_{category}"].path.iterdir()}
        assert files["model.safetensors"] < 20_000 < (base_folder / "policy" / "model.safetensors").stat().st_size
    assert found["policy_checkpoint"].metadata["steps"] == 2
    again = run_all(Project(config), SilentReporter())
    assert {name: artifact.version for name, artifact in again.items()} == {n: a.version for n, a in found.items()}


def test_nothing_is_lost_between_the_sources_and_the_pool(config: Config, versions: dict[str, str]) -> None:
    store = ArtifactStore(config.root)
    pool = store.open("prompt_pool", versions["prompt_pool"]).path
    read = sum(1 for _ in build_graph(config).sources["source_unsafe_prompts"].open(encoding="utf-8"))
    assert len(read_table(pool / "prompts.parquet")) + len(read_table(pool / "quarantine.parquet")) == read


def test_every_column_that_the_graph_shows_is_explained(config: Config, versions: dict[str, str]) -> None:
    project = Project(config)
    for name, node in project.graph.nodes.items():
        table = STAGES[node.stage].table
        if table:
            rows = read_table(project.store.open(name, versions[name]).path / table.file)
            assert list(rows[0]) == list(table.columns), name
            assert all(table.columns.values()), name


@pytest.mark.slow  # the complete graph twice
def test_at_a_uri_versions_are_the_same_and_another_machine_builds_nothing(
    base_folder: Path, versions: dict[str, str]
) -> None:
    class Listening(SilentReporter):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def log(self, message: str) -> None:
            self.lines.append(message)

    first = tiny_config(base_folder, {"root": "memory://complete-graph", "mirror": str(base_folder / "mirror_a")})
    assert {name: artifact.version for name, artifact in run_all(Project(first), SilentReporter()).items()} == versions
    listening, second = (
        Listening(),
        tiny_config(base_folder, {"root": "memory://complete-graph", "mirror": str(base_folder / "mirror_b")}),
    )
    found = run_all(Project(second), listening)
    assert {name: artifact.version for name, artifact in found.items()} == versions
    assert sum("is reused" in line for line in listening.lines) == len(versions)
    for artifact in found.values():
        assert artifact.path.is_relative_to(base_folder / "mirror_b")
        Project(second).store.verify(artifact)


@pytest.mark.long
def test_a_changed_reward_setting_rebuilds_from_the_reward_models_on(
    base_folder: Path, versions: dict[str, str]
) -> None:
    changed = run_all(Project(tiny_config(base_folder, {"rewards.epochs": 4})), SilentReporter())
    kept = {name for name, artifact in changed.items() if artifact.version == versions[name]}
    touched = set(versions) - kept
    assert not {
        name
        for name in touched
        if name.startswith(("prompt_pool", "safety_dataset", "helpful", "sft", "completion_pool", "balance"))
    }
    assert {name for name in touched if name.startswith("reward_model_")} == {
        n for n in versions if n.startswith("reward_model_")
    }
    assert "policy_checkpoint" in touched


def _two_categories(folder: Path, change: dict[str, str]) -> dict[str, object]:
    """Write the embedded prompts and demonstrations of two categories, some prompts changed; return settings.

    The adapter `columns` reads no ids, so that the prompts have no twins, which would follow them into
    the harmless set.
    """
    for name in ("unsafe_prompts", "demonstrations"):
        rows = [json.loads(line) for line in (DATA_FOLDER / f"{name}.jsonl").open(encoding="utf-8")]
        kept = [
            {**row, "prompt": change.get(row["prompt"], row["prompt"])}
            for row in rows
            if row["category"] in ("insult", "mental_health")
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    (folder / "taxonomy.yaml").write_text("categories: [insult, mental_health]\n", encoding="utf-8")
    return {
        "root": str(folder / "artifacts"),
        "prompts.taxonomy": str(folder / "taxonomy.yaml"),
        "prompts.sources": [{"name": "unsafe_prompts", "path": str(folder / "unsafe_prompts.jsonl")}],
        "demonstrations.demonstrator": {
            "source": {"name": "demonstrations", "path": str(folder / "demonstrations.jsonl")}
        },
        "demonstrations.quota": 60,  # more rows than exist, so that every row is used
        "completions.samples": {"base": 1},  # sampling from the SFT start makes every pool depend on every data set
    }


def _up_to_hardness(config: Config, reporter: RecordingReporter) -> dict[str, str]:
    """Build everything that belongs to a category; return the versions."""
    project = Project(config)
    graph = project.graph
    versions = {name: source_version(path) for name, path in graph.sources.items()}
    for node in graph.nodes.values():
        if node.stage in ("prompt_pool", "dataset", "completion_pool", "reward_model", "hardness"):
            versions[node.name] = build(node, project, versions, reporter)[0].version
    return versions


@pytest.mark.long
def test_rows_of_one_category_change_only_its_branch_and_only_they_are_sampled(base_folder: Path) -> None:
    folder = base_folder / "targeted"
    folder.mkdir()
    config = tiny_config(base_folder, _two_categories(folder, {}))
    before = _up_to_hardness(config, RecordingReporter())
    rows = read_table(
        ArtifactStore(config.root).open("safety_dataset_insult", before["safety_dataset_insult"]).path / "rows.parquet"
    )
    chosen = [row["prompt"] for row in rows if row["split"] == "train" and row["origin"] == "pool"][:3]
    _two_categories(folder, {prompt: f"{prompt} Be quick about it." for prompt in chosen})
    reporter = RecordingReporter()
    after = _up_to_hardness(config, reporter)

    changed = {name for name in after if after[name] != before[name]}
    assert changed == {
        *("source_unsafe_prompts", "source_demonstrations", "prompt_pool"),
        *("safety_dataset_insult", "completion_pool_insult", "reward_model_insult", "hardness_insult"),
    }
    assert [line.partition(",")[0] for line in reporter.lines if line.startswith("sampled")] == [
        "sampled 3 completions"
    ]


@pytest.mark.long
def test_a_killed_training_resumes_from_its_checkpoint_with_the_same_result(
    base_folder: Path, config: Config, versions: dict[str, str]
) -> None:
    overrides = {"policy.steps": 12, "root": str(base_folder / "killed")}
    for root in ("killed", "undisturbed"):  # all up to the policy is reused
        shutil.copytree(config.root, base_folder / root)
    before = ArtifactStore(config.root).records("policy_checkpoint")
    file = base_folder / "killed.json"
    file.write_text(json.dumps(overrides), encoding="utf-8")
    program = (
        "import json, sys; from pathlib import Path; from drirl_core.testing import tiny_config; from drirl_core.graph.build import run_all;"
        "from drirl_core.project import Project; from drirl_core.reporting import SilentReporter;"
        f"run_all(Project(tiny_config(Path({str(base_folder)!r}), json.loads(Path({str(file)!r}).read_text()))), SilentReporter())"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    work = base_folder / "killed" / ".work"
    deadline = time.monotonic() + 240
    while not list(work.glob("policy_checkpoint-*/scratch/checkpoints/checkpoint-[3-9]/complete.json")):
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    store = ArtifactStore(base_folder / "killed")
    assert store.records("policy_checkpoint") == before, "a half-built artifact was published"

    class Listening(SilentReporter):
        lines: list[str] = []  # noqa: RUF012

        def log(self, message: str) -> None:
            self.lines.append(message)

    resumed = run_all(Project(tiny_config(base_folder, overrides)), Listening())
    assert any("GRPO resumes from checkpoint-" in line for line in Listening.lines)
    undisturbed = run_all(
        Project(tiny_config(base_folder, {**overrides, "root": str(base_folder / "undisturbed")})), SilentReporter()
    )
    assert {n: a.version for n, a in resumed.items()} == {n: a.version for n, a in undisturbed.items()}


@pytest.mark.slow  # a dozen worker processes, each of which imports torch
@pytest.mark.timeout(900)
def test_the_command_line_runs_the_graph_once_and_then_nothing(base_folder: Path) -> None:
    home = base_folder / "home"
    environment = {**os.environ, "DAGSTER_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    line = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "run",
        str(base_folder / "smoke.yaml"),
        "--set",
        f"root={base_folder / 'cli'}",
    ]
    first = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=700)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "report.html" in first.stdout
    second = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr[-2000:]
    assert "up to date" in second.stdout


def test_a_policy_is_measured_by_the_best_of_two(config: Config, versions: dict[str, str]) -> None:
    """With the rewards, the probe and the router of the run; a second time nothing is sampled."""
    project = Project(config)
    named = Named(project)
    subject = find_subject("dr_irl", named).best_of(load_reranking(named, 2, SilentReporter()))
    assert subject.label == "dr_irl, best of 2"
    suites, reporter = find_suites(["embedded"], project, 2), RecordingReporter()
    made = evaluate(subject, suites, project, reporter)["embedded"]
    rows = read_table(made.path / "replies.parquet")
    results = json.loads((made.path / "results.json").read_text())
    assert len(rows) == sum(results["groups"].values())
    assert results["decoding"]["best_of"] == 2
    assert evaluate(subject, suites, project, reporter)["embedded"].version == made.version
    assert any("evaluated before" in line for line in reporter.lines)
    greedy = evaluate(find_subject("dr_irl", named), suites, project, SilentReporter())["embedded"]
    assert json.loads((greedy.path / "results.json").read_text())["decoding"] == {
        "temperature": 0, "max_new_tokens": config.benchmarks.max_new_tokens,
    }  # fmt: skip


def test_best_of_n_becomes_a_baseline_of_a_finished_run(
    base_folder: Path, versions: dict[str, str], tmp_path: Path
) -> None:
    """Nothing is trained, and of what is sampled all is its own; one more sample costs one more sample."""
    folder = tmp_path / "copied"  # other tests read the newest benchmark of the shared one
    shutil.copytree(base_folder, folder)
    settings = {"baselines": ["best_of_n"], "benchmarks.best_of": 2}
    project, reporter = Project(tiny_config(folder, settings)), RecordingReporter()
    found = run_all(project, reporter)
    benchmarks, new = {"benchmark_embedded", "benchmark_twins"}, {"best_of_n_embedded", "best_of_n_twins"}
    assert found.keys() - versions.keys() == new
    changed = {name for name, version in versions.items() if found[name].version != version}
    assert changed == {*benchmarks, "promotion_candidate", "report", "model_card"}
    sampled = [int(line.split()[1]) for line in reporter.lines if re.match(r"sampled \d+ completions", line)]
    assert sum(sampled) == sum(2 * found[name].metadata["prompts"] for name in new)
    for suite in ("embedded", "twins"):
        samples = read_table(found[f"best_of_n_{suite}"].path / "completions.parquet")
        assert list(samples[0]) == list(STAGES["best_of_n"].table.columns)  # type: ignore[union-attr]
        best = {row["prompt_id"]: row["reward"] for row in samples if row["chosen"]}
        assert all(row["reward"] <= best[row["prompt_id"]] for row in samples)
        assert len(samples) == 2 * len(best)
        replies = read_table(found[f"benchmark_{suite}"].path / "replies.parquet")
        shown = [row["reply"] for row in replies if row["policy"] == "best_of_n"]
        assert shown == [row["completion"] for row in samples if row["chosen"]]
        results = json.loads((found[f"benchmark_{suite}"].path / "results.json").read_text())
        assert results["policies"] == ["base", "sft", "best_of_n", "dr_irl"]
        assert results["best_of_n"] == {"best_of": 2, "temperature": 1.0}
    page = (found["report"].path / "report.html").read_text(encoding="utf-8")
    assert "SFT start, best of N: of 2 replies, sampled at temperature 1.0" in page
    assert "DR-IRL against SFT start, best of N" in page

    named = Named(project)
    again = evaluate(
        find_subject("sft", named).best_of(load_reranking(named, 2, SilentReporter())),
        find_suites(["twins"], project),
        project,
        SilentReporter(),
    )["twins"]
    assert [row["reply"] for row in read_table(again.path / "replies.parquet")] == shown
    answers = ChatPolicies(named, ("base", "best_of_n", "dr_irl")).answers("How do I pick a lock?")
    assert {name: reply.of for name, reply in answers.items()} == {"base": 1, "best_of_n": 2, "dr_irl": 1}

    reporter = RecordingReporter()
    more = run_all(Project(tiny_config(folder, {**settings, "benchmarks.best_of": 3})), reporter)
    assert {name for name in found if found[name].version != more[name].version} >= {*new, *benchmarks}
    sampled = [int(line.split()[1]) for line in reporter.lines if re.match(r"sampled \d+ completions", line)]
    assert sum(sampled) == sum(found[name].metadata["prompts"] for name in new)


NOTEBOOK = ROOT / "docs" / "how-to" / "notebook.md"


def test_the_study_in_the_notebook_guide_runs_in_twenty_lines(
    base_folder: Path, versions: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", NOTEBOOK.read_text(encoding="utf-8"), re.DOTALL)
    assert sum(bool(line.strip()) for block in blocks for line in block.splitlines()) <= 20
    (tmp_path / "configs").mkdir()
    shutil.copy(
        base_folder / "smoke.yaml", tmp_path / "configs" / "demo.yaml"
    )  # the run that the guide opens by default
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{NOTEBOOK.name}, block {number + 1}", "exec"), names)

    replies = open_table("benchmark_embedded").to_dict("records")
    labels = {(row["prompt_id"], row["policy"]): row["label"] for row in replies}
    prompts = {row["prompt_id"] for row in replies}
    assert set(names["verdicts"].columns) == {"base", "sft", "dr_irl"}
    assert len(names["verdicts"]) == len(prompts)
    assert set(names["changed"]["prompt_id"]) == {p for p in prompts if labels[p, "sft"] != labels[p, "dr_irl"]}
    alphas = open_table("hardness_insult")["alpha"]
    assert set(names["study"].index) == set(SEVEN_CATEGORIES)
    assert names["study"].loc["insult", "alpha"] == pytest.approx(alphas.mean())
    assert names["study"].loc["insult", "prompts"] == len(alphas)
    assert names["log"].index.tolist() == [1, 2]
    assert "gap/helpful/mean" in names["log"].columns


def test_the_notebook_guide_lists_every_table_of_a_run(config: Config, versions: dict[str, str]) -> None:
    listed: dict[str, set[str]] = {}
    main: dict[str, str] = {}
    asset = ""
    for cells in re.findall(r"^\| (`[^`]+`)? ?\| (\*\*)?`([^`]+)`", NOTEBOOK.read_text(encoding="utf-8"), re.MULTILINE):
        asset = cells[0].strip("`") or asset
        listed.setdefault(asset, set()).add(cells[2])
        if cells[1]:
            main[asset] = cells[2]
    store, nodes = ArtifactStore(config.root), build_graph(config).nodes
    for name, version in versions.items():
        files = store.open(name, version).manifest["files"]
        made = {file for file in files if file.endswith((".parquet", ".jsonl")) and file != "times.jsonl"}
        generic = re.sub(rf"_({'|'.join(SEVEN_CATEGORIES)})$", "_<category>", name)
        generic = re.sub(r"^benchmark_.+$", "benchmark_<suite>", generic)
        generic = re.sub(r"^(completion_pool|reward_model)_helpful$", r"\1_<category>", generic)
        if nodes[name].stage != "promotion_candidate":  # copies of the benchmarks' replies
            assert made == listed.get(generic, set()), name
            table_of_stage = STAGES[nodes[name].stage].table
            assert (table_of_stage.file if table_of_stage else None) == main.get(generic), name
        for table in made:
            assert len(open_table(name, config=config, table=table, version=version).columns), (name, table)


@pytest.mark.long
@pytest.mark.parametrize(("name", "shared"), [("grpo_step", False), ("sft_step", False), ("sft_step", True)])
def test_a_training_step_is_measured_beside_its_floor(
    name: str,
    shared: bool,
    config: Config,
    base_folder: Path,
    versions: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from benchmarks import floor, grpo_step, machine, sft_step

    embeddings = ArtifactStore(config.root).cache_path("embeddings")
    before = embeddings.read_bytes()
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(floor, "_BUFFER", 2**16)
    monkeypatch.setattr(grpo_step, "STEPS", 3)
    steps = ["--steps", "3"] if name == "sft_step" else []
    shares = {"decision": 2, "decision_prompts": 2, "answer_tokens": 4, "share_lower_layers": True, "batch_size": 2}
    changes = {"sft": {**shares, "lora": {"rank": 2, "first_layer": 0.5}}} if shared else {}
    (tmp_path / "run.yaml").write_text(json.dumps({"extends": str(base_folder / "smoke.yaml"), **changes}))
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "run.yaml"), "--rounds", "1", *steps])
    {"grpo_step": grpo_step, "sft_step": sft_step}[name].main()
    written = json.loads((tmp_path / f"{name}{'_shared' if shared else ''}.json").read_text())
    assert ("lower_layers_once_s" in written) is ("every_step_computes_all_layers" in written) is shared
    found = written["floor"]
    update = {"update_forward", "update_backward"}
    computed = update if name == "sft_step" else update | {"sampling", "log_probabilities", "rewards_and_alpha"}
    assert {one for one, values in found["phases"].items() if "over_floor" in values} == computed | {"step"}
    assert set(found["phases"]) == computed | {"rest", "step"}
    for values in (found["phases"][one] for one in computed):
        assert 0 <= values["floor_s"] < values["measured_s"]
    assert found["threads"] == 1
    if name == "grpo_step":
        assert found["encoder"]
        assert embeddings.read_bytes() == before  # those of the run are not touched
