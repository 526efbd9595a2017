"""Text quality: ordinary prose scores 1, degenerate text loses, and what demonstrations do is tolerated."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from word_models import TOPICS, compliance, demonstration

from drirl_core.errors import ArtifactError, DataError
from drirl_core.rewards.probes import BROKEN, reword
from drirl_core.text.quality import KINDS, TextQuality, has_words

PROMPTS = [f"Tell me how to go about {topic} tonight" for topic in TOPICS]


@pytest.fixture(scope="module")
def quality() -> TextQuality:
    train = range(16)
    return TextQuality.learn(
        [PROMPTS[i] for i in train],
        [demonstration(i) for i in train],
        [compliance(i, k) for i in train for k in range(2)],
    )


def test_unseen_ordinary_prose_has_high_quality(quality):
    unseen = range(16, 24)
    assert quality.score([PROMPTS[i] for i in unseen], [demonstration(i) for i in unseen]).min() > 0.95
    assert quality.score([PROMPTS[i] for i in unseen], [reword(demonstration(i)) for i in unseen]).min() > 0.6


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "cut_off"])
def test_degenerate_text_has_low_quality(quality, name):
    unseen = range(16, 24)
    values = quality.score([PROMPTS[i] for i in unseen], [BROKEN[name](demonstration(i)) for i in unseen])
    assert values.max() < 0.35
    assert values.mean() < 0.3


def test_an_answer_at_the_length_limit_loses_little(quality):
    values = quality.score(PROMPTS[16:], [BROKEN["cut_off"](demonstration(i)) for i in range(16, 24)])
    assert (values < 0.75).all() and (values > 0.45).all()


def test_an_echo_of_the_prompt_has_low_quality(quality):
    assert quality.score(PROMPTS[:4], PROMPTS[:4]).max() == 0
    assert quality.score(PROMPTS[:4], [f"Sorry, but {prompt.lower()}." for prompt in PROMPTS[:4]]).max() < 0.3


def test_the_oddities_by_hand():
    """Usual length 8, no order model: 'no no no no' has 3 bigrams, 1 distinct: 2/3; 3 of 4 words repeat; 4 of 8 words."""
    bare = TextQuality({}, 8.0, frozenset(), {}, {})
    odd = bare.oddities("Tell me a joke now", "no no no no")
    assert odd["repeated"] == pytest.approx(2 / 3)
    assert odd["stutter"] == 0.75
    assert odd["short"] == 0.5
    assert odd["unfinished"] == 1.0
    assert odd["echo"] == 0.0
    assert bare.oddities("Tell me a joke now", "No. Tell me a story.")["echo"] == pytest.approx(
        3 / 5
    )  # tell me a, of five words
    assert bare.oddities("", "ab##")["noise"] == 0.5


def test_order_by_hand():
    """Classes <start> <word> <end> seen once each: p(word) = 2/7, log((1 / (2/7) + 5) / (1 + 5)) for both bigrams."""
    bare = TextQuality(
        {}, 1.0, frozenset(), {"<start>": 1, "<word>": 1, "<end>": 1}, {"<start> <word>": 1, "<word> <end>": 1}
    )
    assert bare.oddities("", "house")["disorder"] == pytest.approx(-np.log((3.5 + 5) / 6))


def test_markdown_is_no_noise_but_random_marks_are(quality):
    bare = TextQuality({}, 1.0, frozenset(), {}, {})
    assert bare.oddities("", "## Plan\n\n- **Eggs**\n- *Flour*")["noise"] == 0
    assert bare.oddities("", "{}[]@@ %% ~~ ab")["noise"] > 0.7


def test_what_demonstrations_do_is_tolerated():
    """Poems that repeat half of their bigrams have high quality where the demonstrations are such poems."""
    poems = [
        f"row row the {word} row row the {word} gently now" for word in ("boat", "raft", "ship", "punt", "tug", "ark")
    ]
    own = TextQuality.learn([""] * 6, poems, [])
    assert own.score([""], ["row row the canoe row row the canoe gently now"])[0] > 0.9


def test_text_without_words_has_quality_0(quality):
    assert quality.score(["x", "x", "x"], ["", " \n", "?!"]).tolist() == [0, 0, 0]
    assert not has_words("...") and has_words("3") and has_words("不")


def test_other_scripts_are_measured():
    texts = ["我不能帮你做这件事，因为会伤害别人。", "我不会写这种话，这会让人难过。", "我不能这样做，因为这是不对的。"]
    own = TextQuality.learn([""] * 3, texts, [])
    assert own.score([""], ["我不能写这件事，因为会让人难过。"])[0] > 0.9
    assert own.score([""], ["我不能我不能我不能我不能我不能我不能"])[0] < 0.1


def test_json_round_trip_is_exact_and_damage_is_refused(quality):
    text = json.dumps(quality.to_json())
    restored = TextQuality.from_json(json.loads(text))
    assert (
        restored.score(PROMPTS, [compliance(i, 0) for i in range(24)]).tolist()
        == quality.score(PROMPTS, [compliance(i, 0) for i in range(24)]).tolist()
    )
    damaged = json.loads(text)
    del damaged["tolerance"]["echo"]
    with pytest.raises(ArtifactError, match="echo"):
        TextQuality.from_json(damaged)


def test_learning_needs_a_demonstration_with_words():
    with pytest.raises(DataError, match="no demonstration"):
        TextQuality.learn(["x"], ["..."], [])


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.text(max_size=200))
def test_any_text_has_a_quality_between_0_and_1(quality, prompt, text):
    value = quality.score([prompt], [text])[0]
    assert 0 <= value <= 1
    assert has_words(text) or value == 0
    assert set(quality.tolerance) == set(KINDS)
