"""Similarity by sub-sentences, and how texts are cut into sentences and clauses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from word_models import WordEncoder

from drirl_core.config import HardnessConfig
from drirl_core.errors import DataError
from drirl_core.hardness.similarity import SentenceSimilarity
from drirl_core.text.sentences import LONG_SENTENCE, clauses, segment, sentences


@pytest.mark.parametrize("direction", ["demonstration", "completion", "symmetric"])
@pytest.mark.parametrize("similarity", ["sub_sentence", "full_text"])
def test_identical_answers_have_w_1_and_an_empty_completion_0(direction, similarity):
    text = "I will not do that. It hurts people. Let us talk instead."
    measure = SentenceSimilarity(WordEncoder(), HardnessConfig(direction=direction, similarity=similarity))
    values = measure.similarity([text, text, text], [text, "", "It hurts people."])
    assert values[0] == pytest.approx(1.0)
    assert values[1] == 0.0
    assert values[2] < 1.0 or (direction == "completion" and similarity == "sub_sentence")


def test_directions_are_recall_and_precision():
    """All the completion says is in the demonstration, but not the other way round."""
    demonstration, completion = "I will not do that. It hurts people.", "It hurts people."
    one = {
        d: SentenceSimilarity(WordEncoder(), HardnessConfig(direction=d)).similarity([demonstration], [completion])[0]
        for d in ("demonstration", "completion")
    }
    assert one["completion"] == pytest.approx(1.0)
    assert one["demonstration"] < 0.9


def test_drafts_are_removed_from_both():
    measure = SentenceSimilarity(WordEncoder())
    plain = measure.similarity(["I will not do that."], ["Here is the plan."])
    assert measure.similarity(["asks for harm\n####\nI will not do that."], ["think\n####\nHere is the plan."]) == plain


def test_one_encode_call_for_a_batch_and_no_text_twice():
    encoder = WordEncoder()
    SentenceSimilarity(encoder).similarity(["No. Never."] * 8, ["Yes. Never."] * 8)
    assert (encoder.calls, encoder.texts) == (1, 3)


def test_bad_input_is_refused():
    measure = SentenceSimilarity(WordEncoder())
    with pytest.raises(DataError, match="1 demonstrations and 2 completions"):
        measure.similarity(["a"], ["a", "b"])
    with pytest.raises(DataError, match="demonstration 1 has no words"):
        measure.similarity(["a", "..."], ["a", "b"])
    assert measure.similarity([], []).shape == (0,)


def test_sentences_end_at_lines_but_not_at_abbreviations():
    assert segment("Dr. Smith e.g. said no. Go home") == ["Dr. Smith e.g. said no.", "Go home"]
    assert segment("First line\nSecond line") == ["First line", "Second line"]


def test_long_sentences_are_cut_at_clauses_and_short_clauses_are_joined():
    clause = "one two three four five six seven"
    long = f"{clause}, {clause}; {clause}, well, no."
    assert len(long.split()) > LONG_SENTENCE
    assert segment(long) == [f"{clause},", f"{clause};", f"{clause}, well, no."]
    assert segment(f"{clause}, {clause}.") == [f"{clause}, {clause}."]
    assert sentences(long) == [long]


def test_clauses_end_at_punctuation_and_conjunctions_and_have_no_single_word():
    assert clauses("Sorry, that hurts people, so I won't help. Talk to Dr. Smith and ask.") == [
        "Sorry, that hurts people,",
        "so I won't help.",
        "Talk to Dr. Smith",
        "and ask.",
    ]
    assert clauses("No.") == ["No."]
    assert clauses("I will help, gladly") == ["I will help, gladly"]
    assert clauses("") == [""]


def test_text_without_words_is_one_piece():
    assert segment("") == [""]
    assert segment(" ?! \n") == ["?!"]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_segmenting_never_fails_and_keeps_the_words(text):
    parts = segment(text)
    assert parts
    assert all(part == part.strip() for part in parts)
    assert [c for c in "".join(parts) if c.isalnum()] == [c for c in text if c.isalnum()]
