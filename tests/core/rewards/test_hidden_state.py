"""The hidden-state backbone: heads on the frozen policy, one reading for all categories, two rules next to the head."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from word_models import WordEncoder, WordStates, compliance, demonstration, joined_pool

from drirl_core.config import RewardsConfig
from drirl_core.errors import ArtifactError, ModelError
from drirl_core.reporting import SilentReporter
from drirl_core.rewards import RewardRouter, load_reward_model
from drirl_core.rewards.backbones.hidden_state import (
    HiddenShape,
    HiddenStateRewardModel,
    intact,
    read_pool,
    selected,
)
from drirl_core.rewards.fit import fit
from drirl_core.rewards.model import DESCRIPTION_FILE, EMPTY_MARGIN, Normalisation

PROMPTS = [p.prompt for p in joined_pool()]
CONFIG = RewardsConfig(epochs=12, hidden=8)
LOOP = "I will not help. " * 12


@pytest.fixture
def models(fitted_hidden):
    return {name: result.model for name, result in fitted_hidden.items()}


def head(features="prompt_and_completion", dim=2, hidden=0, category="insult", layer=6):
    """Return a head with hand-made weights."""
    shape = HiddenShape(category, "path:words", "words", layer, dim, features, hidden, 0.0)
    width = shape.width
    return HiddenStateRewardModel(shape, torch.arange(1.0, width + 1), torch.full((width,), 2.0)).eval()


def test_reward_by_hand():
    """Features (1, 4, 5, 6) - (1, 2, 3, 4), halved, are (0, 1, 1, 1); weights (9, 1, 2, 3) and bias 0.5 give 6.5."""
    model = head()
    with torch.no_grad():
        model.head[1].weight.copy_(torch.tensor([[9.0, 1.0, 2.0, 3.0]]))
        model.head[1].bias.fill_(0.5)
        assert model(torch.tensor([[[1.0, 4.0], [5.0, 6.0]]])).tolist() == [6.5]
        alone = head("completion")
        alone.head[1].weight.copy_(torch.tensor([[1.0, 1.0]]))
        alone.head[1].bias.fill_(0.0)
        assert alone(torch.tensor([[1.0, 4.0], [5.0, 6.0]])).tolist() == 4.0  # (5 - 1) / 2 + (6 - 2) / 2


def test_normalised_rewards_and_both_rules_by_hand():
    """Raw 6.5 with worst -1, mean 2.5, scale 2 is 2; degenerate and echoed get (-1 - 2.5) / 2; empty one more below."""
    model = head()
    with torch.no_grad():
        model.head[1].weight.copy_(torch.tensor([[9.0, 1.0, 2.0, 3.0]]))
        model.head[1].bias.fill_(0.5)
    model.normalisation = Normalisation(worst=-1.0, mean=2.5, scale=2.0)
    states = np.tile(np.array([[1.0, 4.0], [5.0, 6.0]], dtype=np.float32), (4, 1, 1))
    prompt = "Tell me how to go about it tonight"
    values = model.rewards_of(states, [prompt] * 4, ["No.", LOOP, prompt, " ... "])
    assert values.tolist() == [2.0, -1.75, -1.75, -1.75 - EMPTY_MARGIN]


def test_plain_short_and_unfinished_completions_are_left_to_the_head():
    """The rules of the embedding backbone would take some of their reward away."""
    texts = ["No.", "I can't help with that.", "I will not help you with this because", LOOP, PROMPTS[0], "ha" * 40]
    assert intact([PROMPTS[0]] * 6, texts).tolist() == [1, 1, 1, 0, 0, 0]


def test_features_are_chosen():
    states = torch.arange(8.0).reshape(2, 2, 2)
    assert selected(states, "completion").tolist() == [[2, 3], [6, 7]]
    assert selected(states, "prompt_and_completion").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_features_are_standardised_over_the_training_pool(fitted_hidden):
    model = fitted_hidden["insult"].model
    pool = read_pool([p for p in joined_pool() if p.split == "train"], WordStates(), 6)
    features = selected(torch.from_numpy(pool.rows()[0][0]), "prompt_and_completion")
    scaled = (features - model.feature_mean) / model.feature_scale
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(96), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(dim=0, unbiased=False), torch.ones(96), atol=1e-4, rtol=0)


def test_a_feature_that_never_varies_is_only_centred():
    rows = [dataclasses.replace(p, prompt="always the same") for p in joined_pool()]
    model = fit("insult", rows, WordStates(), CONFIG, 0, SilentReporter()).model
    assert model.feature_scale[:48].tolist() == [1.0] * 48
    assert (
        model.rewards(["always the same"], [demonstration(1)])[0]
        > model.rewards(["always the same"], [compliance(1, 0)])[0]
    )


def test_demonstrations_of_unseen_prompts_come_out_ahead_and_empty_ones_last(models):
    held = [p for p in joined_pool() if p.split == "test"]
    users = [p.prompt for p in held]
    own = models["insult"].rewards(users, [p.answer for p in held])
    for k in range(2):
        assert (own > models["insult"].rewards(users, [compliance(int(p.prompt_id[1:]), k) for p in held])).all()
    everything = [r.answer for p in joined_pool() for r in p.replies]
    lowest = models["insult"].rewards([p.prompt for p in joined_pool() for _ in p.replies], everything).min()
    for text in ("", " \n", "asks for harm\n####\n"):
        assert models["insult"].rewards(users[:1], [text])[0] <= lowest - EMPTY_MARGIN + 1e-9


def test_every_category_reads_the_same_layer_in_one_call(models):
    router = RewardRouter(models, None, states := WordStates())
    before = states.calls
    names = ["insult", "privacy"] * 12
    texts = [compliance(i, i % 2) if i % 3 else demonstration(i) for i in range(24)]
    mixed = router.rewards(PROMPTS, texts, names)
    assert (states.calls, states.layers, router.layer) == (before + 1, {6}, 6)
    for category, model in models.items():
        rows = [i for i, name in enumerate(names) if name == category]
        alone = model.rewards([PROMPTS[i] for i in rows], [texts[i] for i in rows])
        np.testing.assert_allclose(mixed[rows], alone, atol=1e-5)


def test_backbones_may_be_mixed_in_one_router(models, fitted):
    both = {"insult": models["insult"], "privacy": fitted["privacy"].model}
    router = RewardRouter(both, WordEncoder(), WordStates())
    mixed = router.rewards(PROMPTS[:2], [demonstration(0), demonstration(1)], ["insult", "privacy"])
    assert mixed[0] == pytest.approx(models["insult"].rewards(PROMPTS[:1], [demonstration(0)])[0], abs=1e-5)
    assert router.layer is None
    with pytest.raises(ModelError, match="reads the policy, which was not given"):
        RewardRouter(both, WordEncoder())


@pytest.mark.parametrize("features", ["completion", "prompt_and_completion"])
@pytest.mark.parametrize("objective", ["maxent", "classifier"])
def test_every_setting_learns(features, objective):
    config = dataclasses.replace(CONFIG, features=features, objective=objective, epochs=25)
    result = fit("insult", joined_pool(), WordStates(), config, 0, SilentReporter())
    assert result.curve[result.best_epoch - 1].validation_accuracy == 1.0
    assert result.model.feature_mean.shape == ((48,) if features == "completion" else (96,))


def test_the_layer_is_a_setting():
    model = fit(
        "insult", joined_pool(), states := WordStates(), dataclasses.replace(CONFIG, layer=3), 0, SilentReporter()
    ).model
    assert (model.layer, states.layers) == (3, {3})


def test_the_same_seed_gives_the_same_bits():
    first, second = (fit("insult", joined_pool(), WordStates(), CONFIG, 0, SilentReporter()).model for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert first.normalisation == second.normalisation


def test_saved_and_loaded_rewards_are_equal_to_the_bit(models, tmp_path):
    models["insult"].save(tmp_path)
    texts = [compliance(i, 0) for i in range(24)]
    again = load_reward_model(tmp_path, WordStates())
    assert again.rewards(PROMPTS, texts).tolist() == models["insult"].rewards(PROMPTS, texts).tolist()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    again.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_cannot_be_used_is_refused(models, tmp_path):
    models["insult"].save(tmp_path)
    with pytest.raises(ModelError, match=r"is another policy; set models\.policy back"):
        load_reward_model(tmp_path, WordStates(digest="other"))
    with pytest.raises(ModelError, match="have no hidden states yet"):
        load_reward_model(tmp_path).rewards(["a"], ["b"])
    file = tmp_path / DESCRIPTION_FILE
    description = json.loads(file.read_text())
    file.write_text(json.dumps({**description, "shape": {**description["shape"], "dim": 7}}))
    with pytest.raises(ArtifactError, match="damaged or foreign"):
        load_reward_model(tmp_path)


def test_the_draft_makes_no_difference(models):
    answer = demonstration(3)
    drafted = models["insult"].rewards(PROMPTS[3:4], [f"asks for harm\nwould hurt people\n####\n{answer}"])
    assert drafted == models["insult"].rewards(PROMPTS[3:4], [answer])
