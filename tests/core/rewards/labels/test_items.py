import dataclasses
import math

import numpy as np
import pytest
import torch
from word_models import WordEncoder, WordStates, compliance, dataset_rows, demonstration, joined_pool

from drirl_core.config import RewardsConfig
from drirl_core.reporting import SilentReporter
from drirl_core.rewards.fit import fit, labelled_losses
from drirl_core.rewards.labels.agreement import label_agreement
from drirl_core.rewards.labels.items import (
    LabelledItem,
    LabelledRows,
    beside_demonstrations,
    without_labelled_right,
)
from drirl_core.rewards.objectives import labelled_loss
from drirl_core.rewards.pairs import Pool

PROMPTS = {row["prompt_id"]: row["prompt"] for row in dataset_rows()}


def item(number, right=(), wrong=(), split="train", pair=False):
    key = f"p{number:02d}"
    return LabelledItem(key, PROMPTS[key], split, tuple(right), tuple(wrong), pair)


def softplus(value):
    return math.log1p(math.exp(value))


def tensors(*rows):
    return (torch.tensor(row) for row in rows)


def test_both_sides_of_a_prompt_are_compared_pair_by_pair():
    """Right 2 and 0 against wrong 1, beta 2: (softplus(-1/2) + softplus(1/2)) / 2 = (.4741 + .9741) / 2 = .7241."""
    rewards, right, wrong = tensors([[2.0, 0.0, 1.0]], [[True, True, False]], [[False, False, True]])
    found = labelled_loss(rewards, right, wrong, torch.tensor(9.0), 2.0)
    assert found.tolist() == pytest.approx([(softplus(-0.5) + softplus(0.5)) / 2], rel=1e-5)
    assert found.item() == pytest.approx(0.7241, abs=1e-4)


def test_one_side_is_compared_with_the_level():
    """Level 1, beta 1. Right 3: softplus(-2) = .1269. Wrong 1 and 2: (softplus(0) + softplus(1)) / 2 = 1.0032.

    What stands where there is no row changes nothing.
    """
    rewards = torch.tensor([[3.0, 50.0], [1.0, 2.0]], requires_grad=True)
    right, wrong = tensors([[True, False], [False, False]], [[False, False], [True, True]])
    found = labelled_loss(rewards, right, wrong, torch.tensor(1.0), 1.0)
    assert found.tolist() == pytest.approx([0.1269, 1.0032], abs=1e-4)
    found.sum().backward()
    assert rewards.grad[0, 1] == 0
    assert rewards.grad[0, 0] < 0 < rewards.grad[1, 0]


@pytest.mark.parametrize(
    ("right", "wrong", "beta"),
    [
        ([[True]], [[True]], 1.0),
        ([[False]], [[False]], 1.0),
        ([[True]], [[False]], 0.0),
        ([[True]], [[False, True]], 1.0),
    ],
)
def test_the_loss_refuses_what_means_nothing(right, wrong, beta):
    with pytest.raises(ValueError, match=r"give|at least one"):
        labelled_loss(torch.zeros(1, 1), torch.tensor(right), torch.tensor(wrong), torch.tensor(0.0), beta)


def test_the_level_is_half_way_between_demonstrations_and_completions_and_0_for_log_odds():
    """A head that returns what it is given: demonstrations 4 and 2, completions 1, 0 and -1 with one of them corrupted.

    Their means are 3 and (1 + 0) / 2 = .5, and the level 1.75. A right row of reward 2 loses softplus(-.25) = .5759;
    under `classifier`, whose level is 0, softplus(-2) = .1269.
    """
    pool = Pool(
        (), (torch.tensor([4.0, 2.0]),), (torch.tensor([[1.0, -1.0], [0.0, 0.0]]),),
        torch.tensor([[True, True], [True, False]]), torch.tensor([[False, True], [False, False]]),
        torch.zeros(2, 2, dtype=torch.bool), torch.ones(2, 2),
    )  # fmt: skip
    labelled = LabelledRows(
        (torch.tensor([2.0]),), torch.tensor([[0]]), torch.tensor([[True]]), torch.tensor([[False]])
    )
    for objective, expected in (("maxent", 0.5759), ("classifier", 0.1269)):
        found = labelled_losses(lambda values: values, labelled, pool, RewardsConfig(objective=objective))
        assert found.tolist() == pytest.approx([expected], abs=1e-4)


def test_rows_of_items_are_laid_out_and_drawn_by_item():
    read = []

    def reader(prompts, answers):
        read.append((prompts, answers))
        return (np.arange(len(answers), dtype=np.float32) * 10,)

    rows = LabelledRows.of([item(1, ["a"], ["b", "c"]), item(2, [], ["d"])], reader)
    assert read == [([PROMPTS["p01"]] * 3 + [PROMPTS["p02"]], ["a", "b", "c", "d"])]
    assert rows.right.tolist() == [[True, False, False], [False, False, False]]
    assert rows.wrong.tolist() == [[False, True, True], [True, False, False]]
    part = rows.part(torch.tensor([1, 0, 1]))
    assert len(part) == 3
    taken = part.rewards(lambda values: values)
    assert taken[part.right | part.wrong].tolist() == [30.0, 0.0, 10.0, 20.0, 30.0]


def test_the_demonstration_is_right_where_something_is_wrong():
    items = [
        item(1, wrong=["x"]), item(1, right=["y"]), item(1, ["y"], ["x"], pair=True),
        item(2, wrong=[f" {demonstration(2)} "]),
    ]  # fmt: skip
    found = beside_demonstrations(items, joined_pool())
    assert [one.right for one in found] == [(demonstration(1),), ("y",), ("y",), ()]
    assert found[0].wrong == ("x",)


def test_what_people_call_right_no_longer_counts_against_the_demonstration():
    pool = joined_pool()
    found = without_labelled_right(pool, [item(1, right=[f"{compliance(1, 0)} "])])
    before, after = (next(p for p in prompts if p.prompt_id == "p01").replies for prompts in (pool, found))
    assert len(before) == len(after) + 1 and compliance(1, 0) not in {reply.answer for reply in after}
    assert [p for p in found if p.prompt_id != "p01"] == [p for p in pool if p.prompt_id != "p01"]
    assert without_labelled_right(pool, [item(1, [compliance(1, 0)], ["x"], pair=True)]) == pool
    every = [item(1, right=[reply.answer for reply in before])]
    assert "p01" not in {p.prompt_id for p in without_labelled_right(pool, every)}


NEW = [f"Well, {word} things happen, so let us see what the weather brings." for word in ("green", "old", "loud")]


@pytest.mark.parametrize(("backbone", "source"), [("embedding", WordEncoder), ("hidden_state", WordStates)])
@pytest.mark.parametrize("ensemble", [1, 2])
def test_labels_teach_what_the_demonstrations_do_not(backbone, source, ensemble):
    """The pool knows no talk of the weather. Labelled wrong on all training prompts, its raw reward falls, seen from a
    compliance to a held-out prompt; labelled right, in one-sided items, it rises.
    """
    config = RewardsConfig(backbone=backbone, epochs=25, hidden=8, ensemble=ensemble, label_weight=4.0, labels=("a",))
    train = [int(p.prompt_id[1:]) for p in joined_pool() if p.split == "train"]
    held = next(p for p in joined_pool() if p.split == "test")

    def lead(labels):
        model = fit("insult", joined_pool(), source(), config, 0, SilentReporter(), labels=labels).model
        answers = [NEW[2], held.replies[0].answer]
        read = [torch.tensor(v) for v in model.read_rows([held.prompt] * 2, answers, source(), config, None)]
        return np.mean([np.subtract(*one(*read).tolist()) for one in getattr(model, "members", [model])])

    wrong, right = ([item(n, **{side: NEW[:2]}) for n in train] for side in ("wrong", "right"))
    assert lead(wrong) < lead([]) < lead(right)


def test_no_labels_and_labels_of_the_test_split_change_nothing():
    config = RewardsConfig(backbone="embedding", epochs=3, hidden=8)
    held = [item(0, ["a right one"], ["a wrong one"], split="test")]
    models = [
        fit("insult", joined_pool(), WordEncoder(), config, 0, SilentReporter(), labels=labels).model
        for labels in ([], held)
    ]
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_validation_labels_choose_the_epoch_with_the_pool():
    config = RewardsConfig(backbone="embedding", epochs=3, hidden=8)
    labels = [item(3, ["a right one"], ["a wrong one"], split="validation")]
    plain, labelled = (
        fit("insult", joined_pool(), WordEncoder(), config, 0, SilentReporter(), labels=given).curve
        for given in ([], labels)
    )
    assert [point.train_loss for point in plain] == [point.train_loss for point in labelled]
    assert all(a.validation_loss < b.validation_loss for a, b in zip(plain, labelled, strict=True))


def test_agreement_counts_pairs_of_each_split():
    """Rewards are lengths here. Of two right answers of 4 and 1 letters the first beats a wrong one of 2: 1 of 2."""

    class Lengths:
        category = "insult"

        def rewards(self, prompts, answers):
            return np.array([float(len(answer)) for answer in answers])

    items = [item(1, ["aaaa", "a"], ["bb"]), item(0, ["aaa"], ["b"], split="test"), item(2, ["a"])]
    found = label_agreement(Lengths(), items)
    assert (found["train"]["n"], found["train"]["accuracy"]) == (2, 0.5)
    assert (found["held_out"]["n"], found["held_out"]["accuracy"]) == (1, 1.0)
    assert math.isnan(label_agreement(Lengths(), [dataclasses.replace(items[2])])["train"]["accuracy"])
