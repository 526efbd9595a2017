"""The settings of labels: places, names, versions, and where the labels enter the graph."""

import pytest

from drirl_core.config import load_config
from drirl_core.errors import ConfigError
from drirl_core.graph.layout import build_graph
from drirl_core.graph.versions import code_version

BASE = "models: {policy: 'path:p', encoder: 'path:e'}\n"


@pytest.fixture
def load(tmp_path):
    def run(text="", changes=None):
        (tmp_path / "mine.yaml").write_text(BASE + text, encoding="utf-8")
        return load_config(tmp_path / "mine.yaml", changes)

    return run


def test_files_are_taken_from_the_directory_of_the_file_that_names_them(load, tmp_path):
    config = load("rewards: {labels: [week one.csv, sub/Pairs-2.jsonl.gz]}\n")
    assert config.rewards.labels == (str(tmp_path / "week one.csv"), str(tmp_path / "sub" / "Pairs-2.jsonl.gz"))
    sources = build_graph(config).sources
    assert str(sources["source_labels_week_one"]) == str(tmp_path / "week one.csv")
    assert sources["source_labels_pairs_2"].name == "Pairs-2.jsonl.gz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rewards: {labels: [a.csv, sub/a.jsonl]}", "two sources are called 'labels_a'"),
        ("rewards: {labels: [a.csv, a.csv]}", "names a file twice"),
        ("rewards: {labels: ['']}", "holds an empty text"),
        ("rewards: {labels: a.csv}", "give a list"),
        ("rewards: {labels: [a.csv], label_weight: 0}", "above 0"),
        ("rewards: {label_weight: 2}", "rewards.labels is empty"),
    ],
)
def test_settings_that_mean_nothing_are_refused(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_labels_enter_by_an_asset_per_category_and_change_no_other_version(load, tmp_path):
    """The reward models depend on the files by content alone: another place, or name, of a file is the same code."""
    plain, labelled = load(), load("rewards: {labels: [a.csv]}\nbaselines: [joint]\n")
    before, after = build_graph(plain), build_graph(labelled)
    assert not before.of("reward_labels")
    node = after.nodes["reward_labels_insult"]
    assert {"prompt_pool", "source_labels_a", "source_suite_embedded", "helpful_dataset"} <= set(node.inputs)
    model = after.nodes["reward_model_insult"]
    assert model.inputs == ("safety_dataset_insult", "completion_pool_insult", "reward_labels_insult")
    assert len([name for name in after.nodes["joint_reward_model"].inputs if name.startswith("reward_labels_")]) == 8
    assert code_version(model, labelled) == code_version(before.nodes["reward_model_insult"], plain)
    weighted = load("rewards: {labels: [a.csv], label_weight: 2}\n")
    assert code_version(model, weighted) != code_version(model, labelled)
    assert code_version(node, labelled) == code_version(node, load("rewards: {labels: [elsewhere/a.csv]}\n"))
