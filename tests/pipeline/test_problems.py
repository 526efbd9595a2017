"""One message for one problem, however many assets have it."""

import pytest

from pipeline.cli.progress import PlainView, RunState
from pipeline.running.problems import once, same_kind

SEVEN = ("insult", "unfairness", "crimes", "physical_harm", "mental_health", "privacy_and_property", "ethics")
MISSING = "source ours: /data/d.csv has no column 'demonstration' for demonstration. Columns found: a, b"


def test_the_same_error_of_seven_categories_is_one_message_with_its_cause_first():
    (told,) = once(f"safety_dataset_{name}: {MISSING}" for name in SEVEN)
    cause, names = told.splitlines()
    assert cause == MISSING
    assert names == "  The same in 7 assets: " + ", ".join(f"safety_dataset_{name}" for name in SEVEN)


def test_errors_that_differ_in_numbers_and_examples_are_one_message_as_well():
    texts = [
        f"safety_dataset_{name}: {n} rows cannot be used (bad_format {n}); the first because no line '####' in "
        f"'I am sorry about the {name}'. Category {name} has 0 usable rows"
        for n, name in enumerate(SEVEN, start=3)
    ]
    (told,) = once(texts)
    first, others = told.splitlines()
    assert first == texts[0]
    assert others == "  The same, with other numbers or examples, in 6 more: " + ", ".join(
        f"safety_dataset_{name}" for name in SEVEN[1:]
    )


def test_checks_and_broken_promises_are_gathered_in_the_same_way():
    told = once(f"reward_model_{name} accuracy_floor: {n} % of the pairs" for n, name in enumerate(SEVEN))
    assert told[0].startswith("reward_model_insult accuracy_floor: 0 % of the pairs\n  The same, with other numbers")
    told = once(f"reward_model_{name} breaks accuracy_floor: 0 %" for name in SEVEN)
    assert told[0].startswith("breaks accuracy_floor: 0 %\n  The same in 7 assets: reward_model_insult, ")


def test_different_problems_stay_apart_and_in_order():
    messages = [
        "safety_dataset_a: no column 'x'",
        "helpful_dataset: helpful_dataset needs safety_dataset_a, which has not been materialized",
        "safety_dataset_b: no row",
        "safety_dataset_c check_a: 3",
        "safety_dataset_c check_b: 3",
        "Marked as failed: the process is gone.",
    ]
    assert once(messages) == messages
    assert once([messages[5], messages[5]]) == [messages[5]]
    assert once([]) == []


@pytest.mark.parametrize(
    ("second", "same"),
    [
        ("reward_model_b: the loss of b is 3.5 after 10 steps", True),
        ("reward_model_b: the loss of c is 3.5 after 10 steps", False),
        ("reward_model_b: the reward of b is 3.5 after 10 steps", False),
        ("no form at all", False),
    ],
)
def test_the_name_of_the_category_does_not_matter(second, same):
    assert same_kind("reward_model_a: the loss of a is 2.25 after 7 steps", second) is same


class Event:
    """One event as the progress view reads it."""

    def __init__(self, kind, message, **data):
        self.kind, self.message, self.asset, self.data = kind, message, None, data


def test_while_a_run_goes_on_a_failure_is_shown_by_its_beginning_alone(capsys):
    """The complete message is printed when the run has ended; the worker's own log lines would be a third copy."""
    from rich.console import Console

    (told,) = once(f"safety_dataset_{name}: {MISSING * 3}" for name in SEVEN)
    state = RunState([], {})
    view = PlainView(state, Console(width=400))
    with view:
        view.take(Event("log", f"[safety_dataset_insult] failed: {MISSING}"))
        view.take(Event("log", "[safety_dataset_ethics] failed with the same error as safety_dataset_insult"))
        view.take(Event("log", f"failed: {MISSING}"))
        view.take(Event("failure", told, step="dataset_by_category"))
        view.take(Event("failure", "no memory", step="a"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(" ...") and "FAILED source ours: /data/d.csv" in lines[0] and len(lines[0]) < 130
    assert lines[1].endswith("FAILED no memory")
    assert state.failures == [told, "no memory"]
