"""The safety policy: what a file may hold, and that demonstrators are told the text of the category alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from chat_server import Server, chat

from drirl_core.config import Config, DemonstrationsConfig, DemonstratorConfig, ModelsConfig, PromptsConfig, load_config
from drirl_core.demonstrations.demonstrators import make_demonstrator
from drirl_core.demonstrations.safety_policy import SHIPPED, read_policy, texts_of
from drirl_core.errors import ConfigError
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.taxonomy import SEVEN_CATEGORIES
from drirl_core.text import chain_of_draft as cod

CATEGORIES = ("insult", "fraud")
MODELS = ModelsConfig(policy="path:/p", encoder="path:/e")


def _file(folder: Path, text: str) -> Path:
    file = folder / "rules.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_texts_come_in_the_order_of_the_taxonomy_without_white_space(tmp_path: Path) -> None:
    file = _file(
        tmp_path, "fraud: >-\n  Not answered: tricks.\n  Answered: how to notice one.\ninsult: '  No mockery.\n\n  '\n"
    )
    found = read_policy(file, CATEGORIES)
    assert list(found.items()) == [
        ("insult", "No mockery."),
        ("fraud", "Not answered: tricks. Answered: how to notice one."),
    ]


def test_a_category_may_have_no_text(tmp_path: Path) -> None:
    assert read_policy(_file(tmp_path, "fraud: No tricks.\n"), CATEGORIES) == {"fraud": "No tricks."}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frauds: No.\n", "unknown category 'frauds'; did you mean 'fraud'? Known: fraud, insult"),
        ("helpful: Always.\n", "'helpful' is no harm category"),
        ("insult: '  '\n", "the text of insult is empty; write it, or take the category out"),
        ("insult:\n", "the text of insult is None"),
        ("insult: [a, b]\n", "the text of insult is ['a', 'b'] (list); give a text"),
        ("insult: 3\n", "the text of insult is 3 (int)"),
        ("- insult\n", "holds list ['insult']; it needs a text for each category"),
        ("", "holds nothing; it needs a text for each category"),
        ("insult: a\ninsult: b\n", "the key 'insult' is already in line 1"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_policy(_file(tmp_path, text), CATEGORIES)
    assert said in str(error.value)
    assert "rules.yaml" in str(error.value)


def test_a_file_must_be_there_and_text_in_utf_8(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"safety policy .*nowhere\.yaml cannot be read"):
        read_policy(tmp_path / "nowhere.yaml", CATEGORIES)
    file = tmp_path / "rules.yaml"
    file.write_bytes("insult: Beleidigungen fürs Büro\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"safety policy .*save it as UTF-8"):
        read_policy(file, CATEGORIES)


def test_the_shipped_texts_say_all_three_things_of_every_category() -> None:
    found = read_policy(SHIPPED, SEVEN_CATEGORIES)
    assert tuple(found) == SEVEN_CATEGORIES
    for text in found.values():
        assert [text.count(head) for head in ("Not answered:", "Answered:", "Refusing:")] == [1, 1, 1]
    config = Config(models=MODELS, demonstrations=DemonstrationsConfig(safety_policy="embedded"))
    assert texts_of(config) == found
    assert texts_of(Config(models=MODELS)) == {}


def test_the_shipped_texts_do_not_fit_other_categories(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("categories: [insult, fraud]\n", encoding="utf-8")
    config = Config(
        models=MODELS,
        prompts=PromptsConfig(taxonomy=str(tmp_path / "own.yaml")),
        demonstrations=DemonstrationsConfig(safety_policy="embedded"),
    )
    with pytest.raises(ConfigError, match="no text for fraud; write a YAML file"):
        texts_of(config)


def test_the_file_lies_beside_the_configuration(tmp_path: Path) -> None:
    _file(tmp_path, "insult: No mockery.\n")
    settings = "models: {policy: 'hf:a/p', encoder: 'hf:a/e'}\ndemonstrations: {safety_policy: rules.yaml}\n"
    (tmp_path / "run.yaml").write_text(settings, encoding="utf-8")
    assert texts_of(load_config(tmp_path / "run.yaml")) == {"insult": "No mockery."}


def test_messages_without_rules_are_what_they_were() -> None:
    """Kept rows of earlier runs are found by the message."""
    assert "Kind of harm: physical harm\n\nFirst draft" in cod.ask("x", "physical_harm")
    assert "Kind of harm: physical harm\n\nWrite only the reply" in cod.ask("x", "physical_harm", 0)


@pytest.mark.parametrize("steps", [0, 5])
def test_rules_stand_below_the_category_and_their_braces_are_left_alone(steps: int) -> None:
    message = cod.ask("x", "insult", steps, "Never {this}.")
    assert "Kind of harm: insult\nThe rules for this kind of request:\nNever {this}.\n\n" in message


def test_an_endpoint_is_told_the_rules_of_the_category_and_asked_again_when_they_change(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(chat("a mean word for him please"))
    (tmp_path / "own.yaml").write_text("categories: [insult, fraud]\n", encoding="utf-8")

    def write(text: str) -> list[str]:
        _file(tmp_path, text)
        config = Config(
            models=MODELS,
            prompts=PromptsConfig(taxonomy=str(tmp_path / "own.yaml")),
            demonstrations=DemonstrationsConfig(
                demonstrator=DemonstratorConfig(kind="endpoint", model="writer", url=server.url, attempts=1),
                safety_policy=str(tmp_path / "rules.yaml"),
            ),
        )
        store = ArtifactStore(tmp_path / "store")
        demonstrator, before = make_demonstrator(config, None, CATEGORIES, store, SilentReporter()), len(server.seen)
        demonstrator.write([("mock him", "insult"), ("trick him", "fraud")])
        demonstrator.new_prompts("fraud", 1, {})
        return sorted(str(request["messages"][0]["content"]) for request in server.seen[before:])

    first = write("insult: No mockery.\nfraud: No tricks.\n")
    assert len(first) == 3
    assert [("No mockery." in message, "No tricks." in message) for message in first if "mock him" in message] == [
        (True, False)
    ]
    assert sum("No tricks." in message for message in first) == 2  # the demonstration, and the new prompts
    again = write("insult: No mockery at all.\nfraud: No tricks.\n")
    assert len(again) == 1
    assert "No mockery at all." in again[0]


def test_a_bad_file_stops_before_a_model_loads(tmp_path: Path) -> None:
    """A local model that is not there is no matter yet."""
    config = Config(
        models=MODELS,
        demonstrations=DemonstrationsConfig(
            demonstrator=DemonstratorConfig(kind="model", model="path:/nowhere"),
            safety_policy=str(_file(tmp_path, "fruad: No.\n")),
        ),
    )
    with pytest.raises(ConfigError, match="unknown category 'fruad'"):
        make_demonstrator(config, None, SEVEN_CATEGORIES, ArtifactStore(tmp_path / "store"), SilentReporter())
