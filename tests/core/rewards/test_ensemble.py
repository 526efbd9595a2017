"""Ensembles: mean minus spread, degenerate and empty completions last, members with different seeds and rows."""

import dataclasses

import numpy as np
import pytest
import torch
from word_models import WordEncoder, WordStates, compliance, demonstration, joined_pool

from drirl_core.config import RewardsConfig
from drirl_core.errors import ArtifactError
from drirl_core.reporting import SilentReporter
from drirl_core.rewards import RewardRouter, load_reward_model
from drirl_core.rewards.ensemble import EnsembleRewardModel, combined
from drirl_core.rewards.fit import fit
from drirl_core.rewards.model import EMPTY_MARGIN, Normalisation

PROMPTS = [p.prompt for p in joined_pool()]
CONFIG = RewardsConfig(epochs=12, hidden=8, ensemble=3)
LOOP = "I will not help. " * 12


class Table:
    """A member that gives listed rewards."""

    reads, batch_key, category = "policy", "table", "insult"

    def __init__(self, rewards, worst):
        self._rewards, self.normalisation = np.array(rewards), Normalisation(worst=worst)

    def rewards_of(self, *inputs):
        return self._rewards


@pytest.fixture(scope="module")
def learned():
    return {
        name: fit(name, joined_pool(name), WordStates(), CONFIG, seed, SilentReporter()).model
        for seed, name in enumerate(("insult", "privacy"))
    }


def test_combination_by_hand():
    """Rewards 1 and 3: mean 2, deviation 1; 0 and 0: 0. Penalty 0.5 gives 1.5 and 0; penalty 0 the mean."""
    rewards = np.array([[1.0, 0.0], [3.0, 0.0]])
    assert combined(rewards, 0.5).tolist() == [1.5, 0.0]
    assert combined(rewards, 0.0).tolist() == [2.0, 0.0]


def test_disagreement_cannot_push_a_completion_below_degenerate_or_empty_text():
    """Worst rewards -2, -4, penalty 2: floor -3 - 2 = -5. Rewards 6, 6 give 6; -2, 8 would give 3 - 10 and get -5."""
    model = EnsembleRewardModel([Table([6.0, -2.0, -2.0], -2.0), Table([6.0, 8.0, -4.0], -4.0)], 2.0)
    assert model.normalisation.worst == -5.0
    values = model.rewards_of(["q"] * 3, ["Yes.", "Yes.", ""])
    assert values.tolist() == [6.0, -5.0, -5.0 - EMPTY_MARGIN]


def test_members_have_seeds_and_rows_of_their_own(learned):
    members = learned["insult"].members
    assert len(members) == 3
    first = [m.head[1].weight for m in members]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])
    again = fit("insult", joined_pool(), WordStates(), CONFIG, 0, SilentReporter()).model
    assert all(torch.equal(a, m.head[1].weight) for a, m in zip(first, again.members, strict=True))
    assert again.normalisation == learned["insult"].normalisation


def test_one_head_is_no_ensemble_and_sees_all_rows():
    alone = fit(
        "insult", joined_pool(), WordStates(), dataclasses.replace(CONFIG, ensemble=1), 0, SilentReporter()
    ).model
    assert type(alone).__name__ == "HiddenStateRewardModel"


def test_rewards_of_the_training_pool_have_mean_0_and_deviation_1(learned):
    train = [p for p in joined_pool() if p.split == "train"]
    prompts = [p.prompt for p in train for _ in range(1 + len(p.replies))]
    values = learned["insult"].rewards(
        prompts, [text for p in train for text in (p.answer, *(r.answer for r in p.replies))]
    )
    assert values.mean() == pytest.approx(0, abs=1e-6)
    assert values.std() == pytest.approx(1, abs=1e-6)


def test_degenerate_is_last_but_for_empty(learned):
    model = learned["insult"]
    loop, empty = model.rewards([PROMPTS[1]] * 2, [LOOP, ""])
    others = model.rewards(PROMPTS, [compliance(i, 0) for i in range(24)])
    assert loop <= others.min()
    assert empty == pytest.approx(loop - EMPTY_MARGIN)


def test_a_router_asks_the_members_of_all_categories_together(learned):
    router = RewardRouter(learned, None, states := WordStates())
    names = ["insult", "privacy"] * 12
    texts = [compliance(i, i % 2) if i % 3 else demonstration(i) for i in range(24)]
    before = states.calls
    mixed = router.rewards(PROMPTS, texts, names)
    assert (states.calls - before, router.layer) == (3, 6)  # one per member, whatever the number of categories
    for category, model in learned.items():
        rows = [i for i, name in enumerate(names) if name == category]
        alone = model.rewards([PROMPTS[i] for i in rows], [texts[i] for i in rows])
        np.testing.assert_allclose(mixed[rows], alone, atol=1e-5)


def test_saved_and_loaded_rewards_are_equal_to_the_bit(learned, tmp_path):
    learned["insult"].save(tmp_path)
    texts = [compliance(i, 0) for i in range(24)]
    again = load_reward_model(tmp_path, WordStates())
    assert again.rewards(PROMPTS, texts).tolist() == learned["insult"].rewards(PROMPTS, texts).tolist()
    (tmp_path / "member_1" / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="damaged or foreign"):
        load_reward_model(tmp_path)


def test_the_embedding_backbone_may_be_an_ensemble_too():
    config = dataclasses.replace(CONFIG, backbone="embedding", ensemble=2)
    model = fit("insult", joined_pool(), WordEncoder(), config, 0, SilentReporter()).model
    own, other = model.rewards([PROMPTS[0]] * 2, [demonstration(0), compliance(0, 0)])
    assert model.reads == "encoder" and own > other
