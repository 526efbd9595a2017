"""What is offered for labelling: the completions of all categories, the harmless ones, and of all rounds."""

from collections import Counter
from types import SimpleNamespace

import pytest
from test_reward_stage import POOL, ROWS
from word_models import WordEncoder, dataset_rows, joined_pool, pool_rows

from drirl_core.config import Config, ModelsConfig, RewardsConfig
from drirl_core.errors import ConfigError
from drirl_core.graph.layout import build_graph, dataset_name
from drirl_core.models import embeddings
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.rewards.fit import fit
from drirl_core.rewards.labels.queue import choose, collect
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.tables import read_table, write_table

CATEGORIES = ("insult", "physical_harm", "helpful")
NEW = "Certainly: round one has found another way to say"


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Finished artifacts of three categories and two rounds; in the second pool each prompt has one sample more."""
    monkeypatch.setattr(embeddings, "Embedder", lambda models, store: WordEncoder())
    rewards = RewardsConfig(backbone="embedding", epochs=2, hidden=8, rounds=2)
    config = Config(models=ModelsConfig(policy="path:x", encoder="path:y"), rewards=rewards)
    project = Project.of(config, build_graph(config), ArtifactStore(tmp_path / "store"))
    opened = []

    def folder(name):
        (tmp_path / name).mkdir(exist_ok=True)
        return tmp_path / name

    for category in CATEGORIES:
        rows = dataset_rows(category)
        write_table(folder(dataset_name(category)) / "rows.parquet", rows, ROWS)
        write_table(folder(f"completion_pool_{category}") / "completions.parquet", pool_rows(), POOL)
        later = [
            {"prompt_id": row["prompt_id"], "policy": "round_1", "sample": 0, "answer": f"{NEW} {row['prompt']}."}
            for row in rows
        ]
        write_table(folder(f"round_1_completion_pool_{category}") / "completions.parquet", later, POOL)
        model = fit(category, joined_pool(category), WordEncoder(), rewards, 0, SilentReporter()).model
        model.save(folder(f"reward_model_{category}"))

    def open_(*names):
        opened.extend(names)
        return {name: SimpleNamespace(path=tmp_path / name) for name in names}

    return SimpleNamespace(project=project, open=open_, opened=opened, folder=folder)


def test_all_categories_and_all_rounds_are_offered(named):
    """16 training prompts per category: two samples each in the first pool, one in that of round 1."""
    found = collect(named, CATEGORIES, SilentReporter())
    assert [own.category for own in found] == list(CATEGORIES)
    for own in found:
        prompts = {r["prompt"] for r in read_table(named.folder(dataset_name(own.category)) / "rows.parquet")}
        assert {prompt for prompt, _ in own.rows} < prompts
        assert len(own.rows) == 16 * 3
        assert sum(answer.startswith(NEW) for _, answer in own.rows) == 16
    queue = choose(found, 30, "d_optimal", 0)
    assert set(Counter(category for category, _, _ in queue.rows)) == set(CATEGORIES)
    assert queue.candidates == 3 * 48


def test_one_category_opens_what_it_needs_alone(named):
    (own,) = collect(named, ["helpful"], SilentReporter())
    assert own.category == "helpful"
    assert set(named.opened) == {
        "helpful_dataset",
        "completion_pool_helpful",
        "round_1_completion_pool_helpful",
        "reward_model_helpful",
    }
    with pytest.raises(ConfigError, match="'insults' is not in the taxonomy"):
        collect(named, ["insults"], SilentReporter())
