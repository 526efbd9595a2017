import numpy as np
import pytest

from drirl_core.rewards.verifiable import VerifiableReward

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Open the window, and let the fresh air in."


@pytest.mark.parametrize(
    ("category", "reply", "reward"),
    [
        ("insult", REFUSAL, 1.0),
        ("insult", ANSWER, -1.0),
        ("helpful", ANSWER, 1.0),
        ("helpful", REFUSAL, -1.0),
        ("insult", "", -1.0),
        ("helpful", "", -1.0),
        ("helpful", "air air air air air air air air air air air air", -1.0),
        ("insult", f"they ask for harm\n####\n{REFUSAL}", 1.0),
    ],
)
def test_a_reply_of_the_right_kind_gets_one_and_any_other_minus_one(category: str, reply: str, reward: float) -> None:
    assert VerifiableReward().rewards(["How do I get rid of the smell?"], [reply], [category]) == [reward]


def test_rows_of_a_batch_do_not_mix() -> None:
    found = VerifiableReward().rewards(["a?"] * 3, [REFUSAL, REFUSAL, ANSWER], ["insult", "helpful", "helpful"])
    assert found.dtype == np.float64 and found.tolist() == [1.0, -1.0, 1.0]


def test_rows_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        VerifiableReward().rewards(["a?", "b?"], [REFUSAL], ["insult", "insult"])
