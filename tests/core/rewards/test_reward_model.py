import json

import numpy as np
import pytest
import torch
from word_models import WordEncoder, compliance, demonstration, joined_pool

from drirl_core.errors import ArtifactError, DataError, ModelError, TrainingError
from drirl_core.rewards import RewardRouter, load_reward_model
from drirl_core.rewards.backbones.encoder import EmbeddingRewardModel, pooled
from drirl_core.rewards.model import (
    BACKBONES,
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Normalisation,
    gated,
    normalised,
    own_content,
    write_model,
)

PROMPTS = [p.prompt for p in joined_pool()]


@pytest.fixture
def models(fitted):
    return {name: result.model for name, result in fitted.items()}


@pytest.fixture
def saved(models, tmp_path):
    models["insult"].save(tmp_path)
    return tmp_path


def test_gate_by_hand():
    """worst -2: reward 4 at quality 0.5 is -2 + 0.5 * 6 = 1; at 1 unchanged, at 0 worst; below worst it is worst."""
    values = gated(torch.tensor([4.0, 4.0, 4.0, -5.0]), torch.tensor([0.5, 1.0, 0.0, 1.0]), -2.0)
    assert values.tolist() == [1.0, 4.0, -2.0, -2.0]


def test_own_content_by_hand():
    """closest 0.9, ramp 0.08: 0.9 is all the answer's own, 0.94 half an echo, 0.98 and above a complete one."""
    assert own_content(np.array([0.5, 0.9, 0.94, 0.98, 1.0]), 0.9) == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])


def test_normalised_rewards_by_hand():
    """Worst -2, mean 1, scale 2: 5 at quality 0.5 is gated to 1.5: 0.25; without words (-2 - 1) / 2 - 1 = -2.5."""
    raw = torch.tensor([5.0, 5.0, 5.0], dtype=torch.float64)
    known = Normalisation(worst=-2.0, mean=1.0, scale=2.0)
    assert normalised(raw, np.array([1.0, 0.5, 1.0]), known, ["Yes.", "Yes.", " . "]).tolist() == [2.0, 0.25, -2.5]


class LengthModel:
    """A made-up backbone: the reward of a completion is its length; it keeps one weight and needs no encoder."""

    backbone, category = "length", "insult"

    @classmethod
    def load(cls, folder, description):
        return cls()


def test_a_backbone_is_added_by_naming_its_class(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "length", f"{__name__}:LengthModel")
    write_model(tmp_path, "length", {"w": torch.zeros(1)}, {"shape": {}})
    assert type(load_reward_model(tmp_path)).__name__ == "LengthModel"


def test_features_are_the_answer_and_its_agreement_with_the_prompt():
    """D = 2, u = (1, 0), v = (0.6, 0.8): 8 * (0.6, 0.8, sqrt 2 * 0.6, 0)."""
    row = EmbeddingRewardModel.features(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(row, 8 * torch.tensor([[0.6, 0.8, 0.6 * 2**0.5, 0.0]]))


def test_pooling_by_hand():
    """Clauses (1, 5, 4), (2, -3, -2) and an absent one: mean 3 / 2 plus largest 5 plus smallest -2; no clauses: 0."""
    scores, best, worst = torch.tensor([[[1.0, 2.0, 9.0]], [[5.0, -3.0, 9.0]], [[4.0, -2.0, -9.0]]]).expand(3, 2, 3)
    present = torch.tensor([[True, True, False], [False, False, False]])
    assert pooled(scores, best, worst, present).tolist() == [4.5, 0.0]


def test_clauses_beyond_the_last_one_make_no_difference(models):
    model, prompts = models["insult"], torch.randn(2, 48)
    answers = torch.randn(2, 3, 48)
    padded = torch.cat([answers, torch.zeros(2, 5, 48)], dim=1)
    torch.testing.assert_close(model(prompts, padded), model(prompts, answers))


def test_one_clause_can_decide(models):
    """The best and the worst clause count in full however long the rest is, while the others are averaged."""
    model = models["insult"]
    plain = torch.randn(1, 1, 48).expand(1, 9, 48)
    declining = plain.clone()
    declining[:, 8] = torch.randn(48)
    with torch.no_grad():
        best, worst = (head(8 * declining[0, 1:]).squeeze(-1) for head in (model.best_head, model.worst_head))
        gained = float(best.max() - best[0] + worst.min() - worst[0])
        mean = model.head(model.features(torch.zeros(48), declining[0, 1:])).mean() - model.head(
            model.features(torch.zeros(48), plain[0, 1])
        )
        assert float(model(torch.zeros(1, 48), declining) - model(torch.zeros(1, 48), plain)) == pytest.approx(
            gained + float(mean), abs=1e-4
        )


def test_forward_is_differentiable_and_rewards_are_not(models):
    model = models["insult"]
    answers = torch.randn(3, 4, 48, requires_grad=True)  # (B, 1 + S, D)
    model(torch.randn(3, 48), answers).sum().backward()
    assert answers.grad[:, 1:].abs().sum() > 0
    assert answers.grad[:, 0].abs().sum() == 0  # the complete text only tells an echo
    assert isinstance(model.rewards(PROMPTS[:2], ["Yes.", "No."]), np.ndarray)


def test_the_draft_makes_no_difference(models):
    answer = demonstration(3)
    with_draft = models["insult"].rewards(PROMPTS[3:4], [f"asks for harm\nwould hurt people\n####\n{answer}"])
    assert with_draft == models["insult"].rewards(PROMPTS[3:4], [answer])


def test_rewards_are_taken_without_dropout_and_the_mode_is_put_back(models):
    model = models["insult"]
    expected = model.rewards(PROMPTS[:3], ["I will not do that."] * 3)
    model.train()
    assert model.rewards(PROMPTS[:3], ["I will not do that."] * 3).tolist() == expected.tolist()
    assert model.training
    model.eval()


def test_saved_and_loaded_rewards_are_equal_to_the_bit(models, saved):
    texts = [compliance(i, 0) for i in range(24)]
    again = load_reward_model(saved, WordEncoder())
    assert again.rewards(PROMPTS, texts).tolist() == models["insult"].rewards(PROMPTS, texts).tolist()
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    again.save(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def change(saved, **values):
    file = saved / DESCRIPTION_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_files_that_cannot_be_used_are_refused(saved, tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_reward_model(tmp_path / "nowhere")
    good = (saved / DESCRIPTION_FILE).read_text()
    for values, message in [
        ({"format": "other"}, "does not describe a reward model"),
        ({"format_version": 99}, "format version 99"),
        ({"backbone": "oracle"}, "'oracle'; known: embedding, hidden_state"),
        ({"shape": {"category": "insult"}}, "damaged"),
        ({"normalisation": {"worst": 0.0, "mean": 0.0, "scale": 0.0, "closest": 0.9}}, "scale of 0"),
        ({"normalisation": {"worst": 0.0, "mean": float("nan"), "scale": 1.0, "closest": 0.9}}, "not finite"),
        ({"soundness": {}}, "text quality"),
    ]:
        change(saved, **values)
        with pytest.raises(ArtifactError, match=message):
            load_reward_model(saved)
        (saved / DESCRIPTION_FILE).write_text(good)
    (saved / DESCRIPTION_FILE).write_text(good[: len(good) // 2])
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_reward_model(saved)
    (saved / DESCRIPTION_FILE).write_text("[]")
    with pytest.raises(ArtifactError, match="does not describe"):
        load_reward_model(saved)


def test_truncated_foreign_and_missing_weights_are_refused(saved, models):
    file = saved / WEIGHTS_FILE
    complete = file.read_bytes()
    file.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(ArtifactError, match="damaged or foreign"):
        load_reward_model(saved)
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(2)}, file)
    with pytest.raises(ArtifactError, match="damaged or foreign"):
        load_reward_model(saved)
    state = {name: tensor.clone() for name, tensor in models["insult"].state_dict().items()}
    state["head.1.weight"][0, 0] = float("nan")
    save_file(state, file)
    with pytest.raises(ArtifactError, match="not finite"):
        load_reward_model(saved)
    file.unlink()
    with pytest.raises(ArtifactError, match="damaged or foreign"):
        load_reward_model(saved)


def test_another_encoder_is_noticed(saved):
    with pytest.raises(ModelError, match="another one"):
        load_reward_model(saved, WordEncoder(salt="other"))
    with pytest.raises(ModelError, match="32 dimensions"):
        load_reward_model(saved, WordEncoder(dim=32))
    with pytest.raises(ModelError, match="no encoder"):
        load_reward_model(saved).rewards(["a"], ["b"])


def test_router_gives_every_row_to_its_own_model_only(models):
    encoder = WordEncoder()
    router = RewardRouter(models, encoder)
    names = ["insult", "privacy"] * 12
    texts = [compliance(i, i % 2) if i % 3 else demonstration(i) for i in range(24)]
    mixed = router.rewards(PROMPTS, texts, names)
    for category, model in models.items():
        rows = [i for i, name in enumerate(names) if name == category]
        alone = model.rewards([PROMPTS[i] for i in rows], [texts[i] for i in rows])
        np.testing.assert_allclose(mixed[rows], alone, atol=1e-5)
    other = router.rewards(PROMPTS, texts, names[::-1])
    assert np.abs(mixed - other).min() > 1e-4  # the two models differ, so the routing shows


def test_router_encodes_once_and_scores_no_row_twice(models, monkeypatch):
    router = RewardRouter(models, encoder := WordEncoder())
    seen = []
    for category, model in models.items():
        original = model.rewards_of
        monkeypatch.setattr(
            model, "rewards_of", lambda *a, o=original, c=category: (seen.append((c, len(a[0]))), o(*a))[1]
        )
    before = encoder.calls
    router.rewards(PROMPTS, [demonstration(i) for i in range(24)], ["insult"] * 20 + ["privacy"] * 4)
    assert encoder.calls == before + 1
    assert seen == [("insult", 20), ("privacy", 4)]
    assert router.rewards([], [], []).shape == (0,)


def test_router_refuses_what_it_cannot_route(models):
    router = RewardRouter(models, WordEncoder())
    assert router.categories == ("insult", "privacy")
    with pytest.raises(DataError, match="did you mean 'insult'"):
        router.rewards(["a"], ["b"], ["insults"])
    with pytest.raises(DataError, match="2 prompts, 1 completions"):
        router.rewards(["a", "b"], ["b"], ["insult"])
    with pytest.raises(DataError, match="learned for 'insult'"):
        RewardRouter({"privacy": models["insult"]}, WordEncoder())
    with pytest.raises(DataError, match="at least one"):
        RewardRouter({}, WordEncoder())


def test_a_nan_reward_is_an_error_that_names_the_row(models, monkeypatch):
    router = RewardRouter(models, WordEncoder())
    monkeypatch.setattr(models["privacy"], "rewards_of", lambda u, *rest: np.full(len(u), np.nan))
    with pytest.raises(TrainingError, match=r"row 1 \(privacy\) is nan"):
        router.rewards(["a", "b"], ["c", "d"], ["insult", "privacy"])


def test_a_text_that_means_the_prompt_is_an_echo_whatever_its_words(models, monkeypatch):
    """The word encoder ignores order: the prompt backwards has cosine 1, so nothing is left above the worst reward."""
    model = models["insult"]
    monkeypatch.setattr(
        model, "text_quality", type("Blind", (), {"score": lambda self, prompts, texts: np.ones(len(texts))})()
    )
    backwards = [" ".join(prompt.split()[::-1]) for prompt in PROMPTS[:4]]
    known = model.normalisation
    assert model.rewards(PROMPTS[:4], backwards) == pytest.approx([(known.worst - known.mean) / known.scale] * 4)
    assert model.rewards(PROMPTS[:4], [demonstration(i) for i in range(4)]).min() > 0
