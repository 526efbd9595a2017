import dataclasses

import numpy as np
import pytest
import torch
from word_models import WordEncoder, compliance, dataset_rows, demonstration, joined_pool, pool_rows

from drirl_core.config import RewardsConfig
from drirl_core.errors import DataError, TrainingError
from drirl_core.rewards.backbones.encoder import embed_pool
from drirl_core.rewards.fit import fit, losses
from drirl_core.rewards.model import EMPTY_MARGIN
from drirl_core.rewards.pairs import Reply, join_pool
from drirl_core.testing import RecordingReporter

CONFIG = RewardsConfig(backbone="embedding", epochs=12, hidden=8)


def run(prompts=None, config=CONFIG, seed=0, reporter=None, category="insult", own_answers=False):
    return fit(
        category,
        joined_pool() if prompts is None else prompts,
        WordEncoder(),
        config,
        seed,
        reporter or RecordingReporter(),
        own_answers,
    )


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_demonstrations_of_unseen_prompts_come_out_ahead(fitted):
    model = fitted["insult"].model
    held = [p for p in joined_pool() if p.split == "test"]
    own = model.rewards([p.prompt for p in held], [p.answer for p in held])
    for policy in ("base", "corrupted"):
        for k in range(2 if policy == "base" else 1):
            texts = [[r.answer for r in p.replies if r.policy == policy][k] for p in held]
            assert (own > model.rewards([p.prompt for p in held], texts)).all()


@pytest.mark.parametrize("objective", ["maxent", "bradley_terry", "linear", "classifier"])
@pytest.mark.parametrize("hidden", [0, 8])
def test_every_objective_and_head_learns(objective, hidden):
    result = run(config=dataclasses.replace(CONFIG, objective=objective, hidden=hidden, epochs=25))
    assert result.curve[result.best_epoch - 1].validation_loss < result.curve[0].validation_loss
    assert result.curve[result.best_epoch - 1].validation_accuracy == 1.0


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = run()
    assert torch.equal(torch.rand(3), expected)
    second, other = run(), run(seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(weights(first.model).values(), weights(second.model).values(), strict=True)
    )
    assert first.model.normalisation == second.model.normalisation
    assert first.curve == second.curve
    assert not torch.equal(weights(first.model)["head.1.weight"], weights(other.model)["head.1.weight"])


def test_the_best_epoch_is_kept_and_fitting_stops_when_it_does_not_improve():
    """A learning rate far too high makes later epochs worse than an early one."""
    wild = run(config=dataclasses.replace(CONFIG, learning_rate=0.3, epochs=60))
    losses_by_epoch = [point.validation_loss for point in wild.curve]
    assert wild.best_epoch == int(np.argmin(losses_by_epoch)) + 1
    assert len(wild.curve) < 60
    pool = embed_pool([p for p in joined_pool() if p.split == "validation"], WordEncoder(), wild.model.text_quality)
    config = dataclasses.replace(CONFIG, learning_rate=0.3, epochs=60)
    assert float(losses(wild.model, pool, config).mean().detach()) == pytest.approx(min(losses_by_epoch), rel=1e-5)


def test_rewards_of_the_training_pool_have_mean_0_and_deviation_1(fitted):
    model = fitted["insult"].model
    train = [p for p in joined_pool() if p.split == "train"]
    prompts = [p.prompt for p in train for _ in range(1 + len(p.replies))]
    values = model.rewards(prompts, [text for p in train for text in (p.answer, *(r.answer for r in p.replies))])
    assert values.mean() == pytest.approx(0, abs=1e-6)
    assert values.std() == pytest.approx(1, abs=1e-6)


def test_an_empty_reply_is_below_the_worst_reply_of_the_pool(fitted):
    model = fitted["insult"].model
    train = [p for p in joined_pool() if p.split == "train"]
    prompts = [p.prompt for p in train for _ in p.replies]
    worst = model.rewards(prompts, [r.answer for p in train for r in p.replies]).min()
    empty = model.rewards([train[0].prompt] * 3, ["", "  \n", "asks for harm\n####\n"])
    assert (empty <= worst - EMPTY_MARGIN + 1e-9).all()
    assert (empty < 0).all()


def test_pools_may_be_ragged_and_hold_empty_replies():
    rows = [row for row in pool_rows() if not (row["prompt_id"] == "p01" and row["sample"] == 1)]
    for row in rows:
        if row["prompt_id"] == "p02":
            row["answer"] = ""
    result = run(join_pool(dataset_rows(), rows, "insult"))
    assert np.isfinite(result.curve[-1].train_loss)


def test_a_corrupted_row_counts_as_it_will_be_scored(fitted):
    """A fully broken row has text quality 0, so its reward in the loss is the worst one and sends the head no gradient."""
    model = fitted["insult"].model
    prompts = [p for p in joined_pool() if p.split == "train"]
    pool = embed_pool(prompts, WordEncoder(), model.text_quality)
    assert float(pool.text_quality[pool.corrupted].min()) == 0
    only_broken = dataclasses.replace(pool, mask=pool.mask & pool.corrupted & (pool.text_quality == 0))
    part = only_broken.part(only_broken.mask.any(dim=1).nonzero().squeeze(1))
    config = dataclasses.replace(CONFIG, objective="bradley_terry", centre=0.0)
    model.zero_grad()
    vectors = part.others[1].clone().requires_grad_()
    losses(model, dataclasses.replace(part, others=(part.others[0], vectors)), config).sum().backward()
    assert float(vectors.grad.abs().sum()) == 0
    real = dataclasses.replace(pool, mask=pool.mask & ~pool.corrupted)
    vectors = real.others[1].clone().requires_grad_()
    losses(model, dataclasses.replace(real, others=(real.others[0], vectors)), config).sum().backward()
    assert float(vectors.grad[~pool.corrupted & pool.mask].abs().sum()) > 0


def test_the_curve_is_reported():
    reporter = RecordingReporter()
    result = run(reporter=reporter)
    assert [step for step, _ in reporter.steps] == [1, 10]
    assert [point.epoch for point in result.curve] == list(range(1, 13))
    assert set(reporter.steps[0][1]) == {"train_loss", "validation_loss", "validation_accuracy"}
    assert any(f"epoch {result.best_epoch}" in line for line in reporter.lines)


def test_identical_texts_everywhere_give_a_reward_constant_error():
    same = "I will not do that, because it would hurt somebody badly today."
    rows = [{**row, "prompt": "Tell me", "answer": same, "demonstration": same} for row in dataset_rows()]
    pool = [{**row, "answer": same} for row in pool_rows(corrupted=False)]
    with pytest.raises(TrainingError, match="reward constant"):
        run(join_pool(rows, pool, "insult"))


def test_nan_says_what_to_change():
    class BrokenEncoder(WordEncoder):
        def encode(self, texts, reporter=None):
            return super().encode(texts) * np.float32("nan")

    with pytest.raises(TrainingError, match=r"rewards\.learning_rate"):
        fit("insult", joined_pool(), BrokenEncoder(), CONFIG, 0, RecordingReporter())


def test_missing_splits_and_empty_pools_are_named():
    with pytest.raises(DataError, match="0 validation"):
        run([p for p in joined_pool() if p.split == "train"])
    rows = [{**row, "answer": ""} for row in pool_rows()]
    with pytest.raises(DataError, match="none of 16 prompts"):
        run(join_pool(dataset_rows(), rows, "insult"))


def test_join_refuses_a_pool_of_another_data_set():
    with pytest.raises(DataError, match="completion_pool_insult"):
        join_pool(dataset_rows()[1:], pool_rows(), "insult")
    with pytest.raises(DataError, match="1 prompts without completions"):
        join_pool(dataset_rows(), [row for row in pool_rows() if row["prompt_id"] != "p05"], "insult")
    train_only = [{**row, "split": "train"} for row in dataset_rows()]
    with pytest.raises(DataError, match="validation"):
        join_pool(train_only, pool_rows(), "insult")


def test_join_leaves_resampled_copies_out():
    doubled = [*dataset_rows(), {**dataset_rows()[1], "origin": "resampled"}]
    assert join_pool(doubled, pool_rows(), "insult") == joined_pool()
    assert demonstration(1) == joined_pool()[1].answer and compliance(1, 0) in [
        r.answer for r in joined_pool()[1].replies
    ]


def _with_start(prompts, answer):
    """Give every prompt one sample of the SFT start, worded as its demonstration."""
    return [dataclasses.replace(p, replies=(*p.replies, Reply("sft", 0, answer(p)))) for p in prompts]


def test_samples_of_the_start_do_not_count_against_the_demonstration():
    own = _with_start(joined_pool(), lambda p: p.answer)
    alone, ignored = run(), run(own)
    assert all(
        torch.equal(a, b) for a, b in zip(weights(alone.model).values(), weights(ignored.model).values(), strict=True)
    )
    counted = run(own, config=dataclasses.replace(CONFIG, negatives="all"))
    assert counted.curve[-1].validation_loss > alone.curve[-1].validation_loss + 0.1  # nothing tells the two apart
    classifier = dataclasses.replace(CONFIG, objective="classifier")
    assert run(own, config=classifier).curve != run(config=classifier).curve  # which reads all samples


def test_in_the_helpful_set_those_of_the_initial_model_do_not_count():
    """It answers harmless prompts as the demonstrations do; the start may have begun to refuse them."""
    pool = joined_pool("helpful")
    without = [
        dataclasses.replace(p, replies=tuple(reply for reply in p.replies if reply.policy != "base")) for p in pool
    ]
    ours, theirs = (weights(run(own, category="helpful").model) for own in (pool, without))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    refusing = _with_start(pool, lambda p: "no no no")
    assert run(refusing, category="helpful").curve != run(pool, category="helpful").curve
    both = run(pool, config=dataclasses.replace(CONFIG, negatives="all"), category="helpful")
    assert both.curve != run(pool, category="helpful").curve


def test_a_start_that_learned_own_answers_does_not_count_in_the_helpful_set_either():
    unsafe, pool = (
        [
            dataclasses.replace(p, replies=(*p.replies, Reply("refusal", 0, "no no no")))
            for p in _with_start(joined_pool(category), lambda p: p.answer)
        ]
        for category in ("insult", "helpful")
    )
    made = [tuple(reply for reply in p.replies if reply.policy not in ("base", "sft")) for p in pool]
    alone = [dataclasses.replace(p, replies=replies) for p, replies in zip(pool, made, strict=True)]
    ours, theirs = (weights(run(own, category="helpful", own_answers=True).model) for own in (pool, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert run(pool, category="helpful").curve != run(alone, category="helpful").curve
    harm = (run(unsafe, own_answers=own).curve for own in (True, False))
    assert next(harm) == next(harm)  # unsafe prompts have no own answers


def test_a_pool_of_the_start_alone_needs_samples_of_the_initial_model():
    alone = [dataclasses.replace(p, replies=(Reply("sft", 0, "x y"),)) for p in joined_pool()]
    with pytest.raises(DataError, match=r"have completions of sft alone.*samples: \{base: 1, sft: 2\}"):
        run(alone)
    run(alone, config=dataclasses.replace(CONFIG, negatives="all"))
