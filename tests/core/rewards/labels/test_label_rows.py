import json

import pytest

from drirl_core.errors import DataError
from drirl_core.rewards.labels.rows import read_labels

CATEGORIES = ("insult", "privacy", "helpful")
LABELLED = "prompt,completion,label,category\n"


def read(tmp_path, text, name="mine.csv"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return read_labels({"labels_mine": file}, CATEGORIES)


def test_labelled_rows_and_rows_without_a_label(tmp_path):
    text = "Mock her,I would rather not.,right,insult\nMock her,Sure: she smells.,Wrong ,\nMock him,Sure,,insult\n"
    first, second = read(tmp_path, LABELLED + text)
    assert (first.right, first.wrong, first.category, first.pair) == ("I would rather not.", "", "insult", False)
    assert (second.right, second.wrong, second.category) == ("", "Sure: she smells.", "")
    assert first.place == "mine.csv, row 1 (line 2)"
    assert first.source == "labels_mine"


def test_preference_pairs_in_chat_format_and_drafts(tmp_path):
    """The last turn of the assistant counts, and a draft before an answer is cut off."""
    chosen = [
        {"role": "user", "content": "Mock her"},
        {"role": "assistant", "content": "asks for harm\n####\nNo, sorry."},
    ]
    row = {"prompt": "Mock her", "chosen": chosen, "rejected": "Sure, she smells."}
    (found,) = read(tmp_path, json.dumps(row) + "\n", "pairs.jsonl")
    assert (found.right, found.wrong, found.pair, found.category) == ("No, sorry.", "Sure, she smells.", True, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LABELLED + "Mock her,No.,maybe,insult\n", "label is 'maybe'; write right or wrong"),
        (LABELLED + "Mock her,No.,right,insults\n", "did you mean 'insult'"),
        (LABELLED + "Mock her,...,right,insult\n", "completion has no words"),
        (LABELLED + ",No.,right,insult\n", "prompt is empty"),
        (LABELLED + "Mock her,No.,,insult\n", "none of its 1 rows has a label"),
        ("prompt,answer\na,b\n", "prompt, answer; a file of rewards.labels has either prompt, completion, label or"),
        ("prompt,completion,label,chosen,rejected\na,b,right,c,d\n", "both kinds of columns"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_place(tmp_path, text, message):
    with pytest.raises(DataError, match=r"mine\.csv") as raised:
        read(tmp_path, text)
    assert message in str(raised.value)


def test_a_completion_that_was_cut_within_a_character_is_read_but_not_a_prompt(tmp_path):
    (found,) = read(tmp_path, LABELLED + "Mock her,I am sorry \ufffd,right,insult\n")
    assert found.right.endswith("\ufffd")
    with pytest.raises(DataError, match="prompt holds the mark of a character that was lost"):
        read(tmp_path, LABELLED + "Mock \ufffd her,No.,right,insult\n")
