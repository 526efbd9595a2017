import json
import math

import numpy as np
import pytest
from word_models import WordEncoder, WordStates, compliance, demonstration, joined_pool

from drirl_core.config import RewardsConfig
from drirl_core.errors import ConfigError, DataError
from drirl_core.reporting import SilentReporter
from drirl_core.rewards.fit import fit
from drirl_core.rewards.labels.queue import Candidates, candidates_of, choose, growth_of, write_queue
from drirl_core.rewards.labels.rows import read_labels
from drirl_core.store.tables import normalise


def candidates(category, features, spread=None, known=()):
    features = np.array(features, dtype=float)
    rows = [(f"prompt {i}", f"answer {i} of {category}") for i in range(len(features))]
    return Candidates(category, rows, features, np.array(known, dtype=float).reshape(-1, features.shape[1]), spread)


def test_the_largest_growths_of_all_categories_come_first():
    """insult: (2, 0) adds log 5, then (1, 0) log 1.2. privacy knows (3, 0): (2, 0) adds log 1.4, (0, 1) log 2.

    The two best are (2, 0) of insult and (0, 1) of privacy, together log 10. A random pair adds at most that.
    """
    own = [candidates("insult", [[1, 0], [2, 0]]), candidates("privacy", [[2, 0], [0, 1]], known=[[3, 0]])]
    found = choose(own, 2, "d_optimal", 0)
    assert [(category, answer) for category, _, answer in found.rows] == [
        ("insult", "answer 1 of insult"),
        ("privacy", "answer 1 of privacy"),
    ]
    assert found.growth == pytest.approx(math.log(10))
    assert 0 < found.random_growth < found.growth
    assert found.candidates == 4
    assert growth_of(own, [(0, 0), (1, 0)]) == pytest.approx(math.log(2) + math.log(1.4))


def test_random_choices_follow_the_seed_and_take_all_where_there_are_few():
    own = [candidates("insult", np.eye(6))]
    first, again, other = (choose(own, 3, "random", seed).rows for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(choose(own, 99, "random", 0).rows)) == 6


def test_disagreement_takes_the_widest_spread_of_an_ensemble():
    own = [candidates("a", np.eye(2), np.array([0.1, 0.4])), candidates("b", np.eye(2), np.array([0.3, 0.2]))]
    assert [answer for _, _, answer in choose(own, 2, "disagreement", 0).rows] == ["answer 1 of a", "answer 0 of b"]


@pytest.mark.parametrize(
    ("own", "count", "by", "error", "message"),
    [
        ([candidates("a", np.eye(2))], 1, "disagreement", ConfigError, "set rewards.ensemble to 5"),
        ([candidates("a", np.eye(2))], 1, "optimal", ConfigError, "did you mean 'd_optimal'"),
        ([candidates("a", np.eye(2))], 0, "random", ConfigError, "--count is 0"),
        ([candidates("a", np.zeros((0, 2)))], 1, "random", DataError, "no completion left to label"),
    ],
)
def test_what_cannot_be_chosen_is_refused(own, count, by, error, message):
    with pytest.raises(error, match=message):
        choose(own, count, by, 0)


@pytest.mark.parametrize(("backbone", "source"), [("embedding", WordEncoder()), ("hidden_state", WordStates())])
@pytest.mark.parametrize("ensemble", [1, 2])
def test_samples_of_training_prompts_are_candidates_and_what_is_labelled_is_known(backbone, source, ensemble):
    """16 training prompts have two samples each. One is labelled already: 31 are left, 16 demonstrations and it are known.

    Corrupted demonstrations are neither, and held-out prompts are not there.
    """
    config = RewardsConfig(backbone=backbone, epochs=2, hidden=8, ensemble=ensemble)
    model = fit("insult", joined_pool(), source, config, 0, SilentReporter()).model
    labelled = {("p01", normalise(compliance(1, 0)))}
    found = candidates_of(model, joined_pool(), labelled, (source, config, SilentReporter()))
    prompts = {p.prompt for p in joined_pool() if p.split == "train"}
    assert len(found.rows) == 31 and len(found.known) == 17
    assert {prompt for prompt, _ in found.rows} == prompts
    assert compliance(1, 0) not in {answer for _, answer in found.rows}
    assert demonstration(1) not in {answer for _, answer in found.rows}
    assert found.features.shape == (31, 96) and np.isfinite(found.features).all()
    assert (found.spread is not None and (found.spread > 0).any()) if ensemble > 1 else found.spread is None
    best, random = (choose([found], 8, by, 0) for by in ("d_optimal", "random"))
    assert best.growth > max(random.growth, best.random_growth)


def test_features_of_the_embedding_backbone_are_the_mean_over_clauses(fitted):
    """One clause: row 0 of v is the complete text and does not count; the second clause is empty."""
    import torch

    model = fitted["insult"].model
    u, v = torch.full((1, 4), 0.5), torch.tensor([[[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 0]]])
    assert model.row_features(u, v).tolist() == [[0, 8, 0, 0, 0, 8, 0, 0]]  # 8 [v, sqrt(4) u v]
    assert model.row_features(u, torch.zeros_like(v)).tolist() == [[0.0] * 8]


@pytest.mark.parametrize("name", ["queue.csv", "queue.jsonl"])
def test_a_file_that_people_filled_in_is_read_back_as_it_was_written(tmp_path, name):
    own = candidates("insult", np.eye(3))
    text = 'No, "never",\nnot even – once'
    own = Candidates("insult", [("Say it, please", text), *own.rows[1:]], own.features, own.known)
    file = tmp_path / "new" / name
    write_queue(choose([own], 3, "d_optimal", 0), file)
    with pytest.raises(DataError, match="none of its 3 rows has a label"):
        read_labels({"labels_queue": file}, ("insult",))
    filled = file.read_bytes().decode("utf-8-sig")
    if name.endswith("jsonl"):
        rows = [json.loads(line) for line in filled.splitlines()]
        assert list(rows[0]) == ["prompt", "completion", "label", "category", "allowed"]
        assert rows[0]["allowed"] == "right / wrong"
        filled = "\n".join(json.dumps({**row, "label": "right"}) for row in rows)
    else:
        assert filled.startswith("prompt,completion,label,category,allowed\n")
        filled = filled.replace(",,insult,", ",right,insult,")
    file.write_text(filled, encoding="utf-8")
    found = read_labels({"labels_queue": file}, ("insult",))
    assert [(row.prompt, row.right) for row in found] == list(own.rows)


def test_labels_are_never_overwritten(tmp_path):
    queue = choose([candidates("insult", np.eye(1))], 1, "random", 0)
    (tmp_path / "mine.csv").write_text("the work of a day", encoding="utf-8")
    with pytest.raises(DataError, match="exists, and may hold labels; give another name with --out"):
        write_queue(queue, tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text(encoding="utf-8") == "the work of a day"
    with pytest.raises(DataError, match=r"ends in \.csv or \.jsonl"):
        write_queue(queue, tmp_path / "mine.xlsx")
