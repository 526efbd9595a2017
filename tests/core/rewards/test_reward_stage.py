import dataclasses
import json
import math

import pyarrow as pa
import pytest
from word_models import WordEncoder, compliance, dataset_rows, demonstration, pool_rows

from drirl_core.config import Config, ModelsConfig, RewardsConfig
from drirl_core.config.reward_adapter import RewardAdapterConfig
from drirl_core.errors import DataError
from drirl_core.graph.build import Context
from drirl_core.models import embeddings
from drirl_core.models.hidden_states import HiddenStates
from drirl_core.reporting import Plot, SilentReporter, Table
from drirl_core.rewards import load_reward_model, stage
from drirl_core.rewards.labels.rows import LabelledRow
from drirl_core.rewards.labels.stage import SCHEMA as LABELS
from drirl_core.rewards.labels.stage import label_table
from drirl_core.rewards.model import serving
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import read_table, write_table

TEXT = pa.string()
ROWS = pa.schema(
    [(n, TEXT) for n in ("prompt_id", "prompt", "category", "demonstration", "answer", "split", "origin", "kind")]
)
POOL = pa.schema([("prompt_id", TEXT), ("policy", TEXT), ("sample", pa.int32()), ("answer", TEXT)])


@pytest.fixture
def context(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "Embedder", lambda models, store: WordEncoder())
    return make(tmp_path)


def make(tmp_path, category="insult", name="out", pool=None, models=None, **rewards):
    dataset, completions, out = tmp_path / "dataset", tmp_path / "pool", tmp_path / name
    for folder in (dataset, completions, out):
        folder.mkdir(exist_ok=True)
    write_table(dataset / "rows.parquet", dataset_rows(category), ROWS)
    write_table(completions / "completions.parquet", pool_rows() if pool is None else pool, POOL)
    config = Config(
        models=models or ModelsConfig(policy="path:x", encoder="path:y"),
        rewards=RewardsConfig(**{"backbone": "embedding", "epochs": 25, "hidden": 8, **rewards}),
    )
    asset = "helpful_dataset" if category == "helpful" else f"safety_dataset_{category}"
    inputs = {asset: dataset, f"completion_pool_{category}": completions}
    return Context(config, category, inputs, out, tmp_path, ArtifactStore(tmp_path / "store"), SilentReporter())


def test_the_stage_writes_the_model_its_rewards_and_its_metrics(context):
    shown = stage.build_reward_model(context)
    assert shown["accuracy"] == 1.0
    assert shown["n"] == 8 * 3
    assert 0.8 < shown["accuracy_low"] < 1.0
    assert shown["draft_max_difference"] == 0.0
    assert shown["accuracy_base"] == 1.0 and "accuracy_corrupted" in shown and "probe_loop" in shown
    assert all(isinstance(v, int | float | str | Plot | Table) for v in shown.values())
    assert not any(isinstance(v, float) and not math.isfinite(v) for v in shown.values())
    plots = [v.path for v in shown.values() if isinstance(v, Plot)]
    assert {path.name for path in plots} == {"curve.png", "accuracy.png", "rewards.png", "calibration.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots)
    metrics = json.loads((context.out / "metrics.json").read_text())
    assert metrics["curve"][0]["epoch"] == 1 and metrics["by_policy"]["base"]["n"] == 16


def test_the_order_within_groups_comes_first(context):
    """The pool holds no sampled refusal, so there is no pair: the measure is left out, its counts are shown."""
    shown = stage.build_reward_model(context)
    assert list(shown)[:2] == ["within_group_low", "within_group_high"]
    assert (shown["within_group_pairs"], shown["within_group_groups"]) == (0, 0)
    assert json.loads((context.out / "metrics.json").read_text())["within_group"]["all"]["accuracy"] is None


@pytest.mark.parametrize("ensemble", [1, 2])
def test_the_stage_reads_the_policy_by_default(tmp_path, tiny_models, ensemble):
    refusals = [
        {"prompt_id": f"p{i:02d}", "policy": "sft", "sample": 0, "answer": "Sorry, I can't help with that."}
        for i in range(24)
    ]
    context = make(
        tmp_path,
        pool=[*pool_rows(), *refusals],
        models=tiny_models,
        backbone=RewardsConfig().backbone,
        epochs=2,
        ensemble=ensemble,
    )
    shown = stage.build_reward_model(context)
    assert next(iter(shown)) == "within_group"
    assert (shown["within_group_pairs"], shown["within_group_groups"]) == (16, 8)  # one refusal over two compliances
    assert shown["within_group_unsafe"] == shown["within_group"]
    assert "probe_plain_refusal_over_compliance" in shown
    source = HiddenStates(tiny_models, context.store)
    model = load_reward_model(context.out, source)
    assert (model.reads, model.layer) == ("policy", 1)
    rows = [row for row in read_table(context.out / "rewards.parquet") if row["policy"] == "sft"]
    users = {row["prompt_id"]: row["prompt"] for row in dataset_rows()}
    values = model.rewards([users[row["prompt_id"]] for row in rows], ["Sorry, I can't help with that."] * len(rows))
    assert values.tolist() == [row["reward"] for row in rows]


@pytest.mark.long
def test_the_stage_learns_adapters(tmp_path, tiny_models):
    adapter = RewardAdapterConfig(rank=2, first_layer=0.5, epochs=1, learning_rate=5e-3)
    context = make(tmp_path, models=tiny_models, backbone="adapter", adapter=adapter)
    shown = stage.build_reward_model(context)
    assert shown["accuracy"] > 0.8 and shown["epochs"] == 1
    assert shown["draft_max_difference"] == pytest.approx(0, abs=1e-4)  # rounding, in another batch
    model = load_reward_model(context.out, HiddenStates(tiny_models, context.store))
    rows = [row for row in read_table(context.out / "rewards.parquet") if row["policy"] == "demonstration"]
    users = {row["prompt_id"]: row["prompt"] for row in dataset_rows()}
    values = model.rewards(
        [users[row["prompt_id"]] for row in rows], [demonstration(int(row["prompt_id"][1:])) for row in rows]
    )
    assert values.tolist() == pytest.approx([row["reward"] for row in rows], abs=1e-4)


def test_labels_among_the_inputs_are_learned_and_their_order_is_reported(tmp_path, context):
    """One prompt with a right and a wrong completion to learn from, one of the test split to measure on."""
    plain = stage.build_reward_model(context)
    assert "labels_train" not in plain
    users = {row["prompt_id"]: (row["prompt"], row["split"]) for row in dataset_rows()}
    rows = [
        LabelledRow("labels_mine", "", users[key][0], "insult", *sides)
        for key in ("p01", "p00")
        for sides in ((demonstration(2), ""), ("", compliance(2, 0)))
    ]
    labels, labelled = tmp_path / "labels", make(tmp_path, name="labelled")
    labels.mkdir()
    table = label_table(rows, "insult", [users[key][1] for key in ("p01", "p01", "p00", "p00")])
    write_table(labels / "labels.parquet", table, LABELS)
    shown = stage.build_reward_model(
        dataclasses.replace(labelled, inputs={**labelled.inputs, "reward_labels_insult": labels})
    )
    assert (shown["labels_train"], shown["labels_held_out"]) == (1.0, 1.0)
    found = json.loads((labelled.out / "metrics.json").read_text())["labels"]
    assert (found["train"]["n"], found["held_out"]["n"]) == (1, 1)
    assert (context.out / "model.safetensors").read_bytes() != (labelled.out / "model.safetensors").read_bytes()


def test_stored_rewards_are_those_of_the_stored_model(context):
    stage.build_reward_model(context)
    rows = read_table(context.out / "rewards.parquet")
    assert len(rows) == 24 * 4
    model = load_reward_model(context.out, WordEncoder())
    prompts = {row["prompt_id"]: row for row in dataset_rows()}
    answers = {(r["prompt_id"], r["policy"], r["sample"]): r["answer"] for r in pool_rows()}
    users = [prompts[row["prompt_id"]]["prompt"] for row in rows]
    texts = [
        demonstration(int(row["prompt_id"][1:]))
        if row["policy"] == "demonstration"
        else answers[row["prompt_id"], row["policy"], row["sample"]]
        for row in rows
    ]
    assert model.rewards(users, texts).tolist() == [row["reward"] for row in rows]
    assert {row["split"] for row in rows} == {"train", "validation", "test"}


def test_equal_inputs_give_equal_bytes(tmp_path, context):
    stage.build_reward_model(context)
    again = make(tmp_path, name="again")
    stage.build_reward_model(again)
    files = sorted(path.name for path in context.out.iterdir())
    assert len(files) == 8
    assert {n: (context.out / n).read_bytes() for n in files} == {n: (again.out / n).read_bytes() for n in files}


def test_the_helpful_model_is_measured_on_refusals_and_off_topic_replies(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "Embedder", lambda models, store: WordEncoder())
    extra = [
        {
            "prompt_id": f"p{i:02d}",
            "policy": "refusal",
            "sample": 0,
            "answer": "Sorry, this is nothing I can talk about today.",
        }
        for i in range(24)
    ]
    extra += [
        {"prompt_id": f"p{i:02d}", "policy": "off_topic", "sample": 0, "answer": demonstration((i + 7) % 24)}
        for i in range(24)
    ]
    shown = stage.build_reward_model(make(tmp_path, "helpful", pool=[*pool_rows(), *extra]))
    assert shown["accuracy_refusal"] == 1.0
    assert "accuracy_off_topic" in shown


def test_one_model_is_learned_from_all_categories(context, tmp_path):
    """Of the harmless prompts, the initial model's samples are no negatives; of the unsafe ones they are."""
    (tmp_path / "helpful").mkdir()
    refusals = [
        {"prompt_id": f"p{i:02d}", "policy": "refusal", "sample": 0, "answer": "Sorry, this is nothing for today."}
        for i in range(24)
    ]
    helpful = make(tmp_path / "helpful", "helpful", pool=[*pool_rows(), *refusals])
    joint = dataclasses.replace(context, category=None, inputs={**context.inputs, **helpful.inputs})
    shown = stage.build_joint_reward_model(joint)
    assert shown["n"] == 8 * 3 + 8 * 4
    assert shown["prompts"] == 2 * 8
    model = load_reward_model(joint.out)
    assert model.category == stage.JOINT
    model.use(WordEncoder())
    other = serving(model, "insult")
    other.use(WordEncoder())
    assert (other.category, model.category) == ("insult", stage.JOINT)
    assert other.rewards(["Tell me"], [demonstration(1)]) == model.rewards(["Tell me"], [demonstration(1)])


def test_a_pool_of_another_data_set_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "Embedder", lambda models, store: WordEncoder())
    with pytest.raises(DataError, match="do not belong together"):
        stage.build_reward_model(make(tmp_path, pool=pool_rows()[6:]))
