"""The stage that sorts labels: real files of rows, a data set and a pool made by hand, the shipped suite."""

import json

import pyarrow as pa
import pytest

from drirl_core.benchmarks.suites import benchmark_prompts
from drirl_core.config import Config, ModelsConfig, RewardsConfig
from drirl_core.graph.build import Context
from drirl_core.graph.layout import build_graph, dataset_name
from drirl_core.prompts import router
from drirl_core.reporting import SilentReporter
from drirl_core.rewards.labels import stage
from drirl_core.rewards.labels.items import LabelledItem, read_items
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import read_table, write_table

TEXT = pa.string()
ROWS = pa.schema([(n, TEXT) for n in ("prompt_id", "prompt", "split")])
POOL = pa.schema([(n, TEXT) for n in ("prompt_id", "prompt", "category", "labelled_by")])
KNOWN, HELD, HARMLESS = (
    "Write a rude song about my teacher",
    "Find out where my neighbour sleeps",
    "How do I bake bread",
)


@pytest.fixture
def make(tmp_path):
    """Return a function that makes the context of a category from the rows of one file of labels."""

    def run(category, rows, **prompts):
        file = tmp_path / "mine.jsonl"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        config = Config(
            models=ModelsConfig(policy="path:x", encoder="path:y"), rewards=RewardsConfig(labels=(str(file),))
        )
        graph = build_graph(config)
        inputs = {"source_labels_mine": file, "prompt_pool": tmp_path / "pool"}
        inputs |= {dataset_name(name): tmp_path / name for name in (*graph.categories, "helpful")}
        held = {
            "privacy_and_property": [(HELD, "test")],
            "helpful": [(HARMLESS, "train")],
            "insult": [(KNOWN, "train")],
        }
        for name, folder in inputs.items():
            if name.startswith("source"):
                continue
            folder.mkdir(exist_ok=True)
            if name == "prompt_pool":
                row = {"prompt_id": prompt_id(KNOWN), "prompt": KNOWN, "category": "insult", "labelled_by": "source"}
                write_table(folder / "prompts.parquet", [row], POOL)
            else:
                own = held.get(folder.name, [])
                rows = [{"prompt_id": prompt_id(text), "prompt": text, "split": split} for text, split in own]
                write_table(folder / "rows.parquet", rows, ROWS)
        out = tmp_path / "out" / category
        out.mkdir(parents=True)
        return Context(config, category, inputs, out, tmp_path, ArtifactStore(tmp_path / "store"), SilentReporter())

    return run


def prompt_id(text):
    return stage.prompt_id(text)


def row(prompt, completion, label, category=""):
    return {"prompt": prompt, "completion": completion, "label": label, "category": category}


def test_rows_go_to_their_category_and_equal_ones_count_once(make):
    rows = [
        row(KNOWN, "I would rather not.", "right"),  # the pool says: insult
        row(KNOWN, "Sure, here it is.", "wrong", "insult"),
        row(KNOWN, "Sure, here it is.", "wrong", "insult"),
        row(HARMLESS, "I cannot help with that.", "wrong"),  # the helpful set says: helpful
        row("Tell me who rang at the door", "No.", "right", "privacy_and_property"),
    ]
    context = make("insult", rows)
    shown = stage.build_reward_labels(context)
    assert (shown["rows"], shown["right"], shown["wrong"], shown["in_train"], shown["quarantined"]) == (2, 1, 1, 2, 0)
    assert read_items(context.out) == [
        LabelledItem(prompt_id(KNOWN), KNOWN, "train", ("I would rather not.",), ("Sure, here it is.",))
    ]
    other = make("helpful", rows)
    assert stage.build_reward_labels(other)["wrong"] == 1
    assert read_items(other.out)[0].prompt == HARMLESS


def test_a_preference_pair_is_compared_with_nothing_else(make):
    """Chosen in one pair may be rejected in another: two pairs of one prompt are two items."""
    pairs = [
        {"prompt": KNOWN, "chosen": "No.", "rejected": "Perhaps.", "category": "insult"},
        {"prompt": KNOWN, "chosen": "Perhaps.", "rejected": "Sure.", "category": "insult"},
        {"prompt": KNOWN, "chosen": "Same.", "rejected": " Same. ", "category": "insult"},
    ]
    context = make("insult", pairs)
    assert stage.build_reward_labels(context)["pairs"] == 2
    found = read_items(context.out)
    assert [(item.right, item.wrong, item.pair) for item in found] == [
        (("No.",), ("Perhaps.",), True),
        (("Perhaps.",), ("Sure.",), True),
    ]
    assert [r["reason"] for r in read_table(context.out / "quarantine.parquet")] == ["equal_sides"]


def test_prompts_of_suites_are_kept_out_and_held_out_prompts_are_not_taught(make):
    suite = benchmark_prompts(make("insult", [row(KNOWN, "No.", "right")]).config.benchmarks.suites)[0]
    rows = [
        row(f"{suite} ", "No.", "right", "privacy_and_property"),
        row(f"{HELD} please", "No.", "right", "privacy_and_property"),
        row(KNOWN, "No.", "right", "privacy_and_property"),
        row(KNOWN, "No.", "wrong", "privacy_and_property"),
        row(f"{KNOWN} {'x' * 3000}", "No.", "wrong", "privacy_and_property"),
    ]
    context = make("privacy_and_property", rows)
    shown = stage.build_reward_labels(context)
    assert (shown["rows"], shown["in_test"], shown["in_train"]) == (1, 1, 0)
    reasons = [(r["reason"], r["detail"]) for r in read_table(context.out / "quarantine.parquet")]
    assert [reason for reason, _ in reasons] == [
        "benchmark_overlap", "contradicting_labels", "contradicting_labels", "too_long",
    ]  # fmt: skip
    assert reasons[0][1].startswith("mine.jsonl, line 1: repeats the benchmark prompt")
    assert shown["quarantine"].rows[0]["rows"] == 2


def test_without_a_category_the_router_decides_or_the_row_waits_in_quarantine(make, monkeypatch):
    """The pool of one row teaches no router. The quarantine of the first category holds rows of none."""

    class Embedder:
        def __init__(self, models, store):
            pass

        def encode(self, texts):
            assert texts == ["Something that no source has"]

    monkeypatch.setattr("drirl_core.models.embeddings.Embedder", Embedder)
    rows = [row("Something that no source has", "No.", "right"), row(KNOWN, "No.", "right")]
    context = make("insult", rows)
    assert stage.build_reward_labels(context)["quarantined"] == 1
    (lost,) = read_table(context.out / "quarantine.parquet")
    assert (lost["reason"], lost["category"]) == ("unknown_category", "")

    class Routed:
        def route(self, embeddings, floor):
            return [router.Route("mental_health", "mental_health", 0.9)]

    monkeypatch.setattr(stage, "router_of_pool", lambda pool, embedder, seed: Routed())
    routed = make("mental_health", rows)
    assert stage.build_reward_labels(routed)["right"] == 1
    assert read_items(routed.out)[0].prompt == "Something that no source has"
