"""Chat templates: a fixed date, thinking off, and nothing else changed."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path

import pytest
from transformers.utils import chat_template_utils

from drirl_core.config import ModelsConfig
from drirl_core.errors import ModelError
from drirl_core.models.likelihood import continuation_log_probs
from drirl_core.models.loading import load_policy, load_tokenizer, rendering_of
from drirl_core.models.sampling import SamplingSettings, sample
from drirl_core.models.templates import FIXED_DATE, answer_text, chat_text, pinned
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import ArtifactStore

DATED = (
    '{% if strftime_now is defined %}{% set d = strftime_now("%d %b %Y") %}{% else %}{% set d = "26 Jul 2024" %}{% endif %}'
    "<|system|>Today Date: {{ d }}<|end|>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
SWITCHED = TURNS + (
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
FORCED = TURNS + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
HOW = SamplingSettings(max_new_tokens=4, temperature=1.0, batch_size=4)


def use(folder: Path, template: str) -> Path:
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def rendered(template: str, **how: object) -> str:
    return chat_template_utils.render_jinja_template(
        [[{"role": "user", "content": "hi"}]], chat_template=template, add_generation_prompt=True, **how
    )[0][0]


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let templates ask a clock that is years ahead."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2031, 2, 3, 4, 5, 6)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    chat_template_utils._compile_jinja_template.cache_clear()


# ------------------------------------------------------------------------------------------------------------------ date


@pytest.mark.usefixtures("tomorrow")
def test_the_date_is_fixed_and_recorded(copy: Path, settings: ModelsConfig) -> None:
    assert "03 Feb 2031" in rendered(DATED)
    tokenizer = load_tokenizer(use(copy, DATED), settings)
    assert chat_text(tokenizer, "hi") == "<|system|>Today Date: 26 Jul 2024<|end|><|user|>hi<|end|><|assistant|>"
    policy = load_policy(copy, settings)
    assert policy.rendering == rendering_of(copy, settings) == {"template_date": "2024-07-26"}
    ids = policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]  # as TRL renders
    assert "26 Jul 2024" in policy.tokenizer.decode(ids)


@pytest.mark.parametrize(
    "form", ["%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%A %-d/%-m/%y", "%H:%M:%S %p", "100%% of %j", "%F %T"]
)
def test_every_way_to_write_a_date_is_that_of_the_fixed_one(form: str) -> None:
    assert rendered(pinned(f"{{{{ strftime_now('{form}') }}}}", False)) == FIXED_DATE.strftime(form)


@pytest.mark.usefixtures("tomorrow")
def test_a_checkpoint_renders_as_it_was_trained(copy: Path, settings: ModelsConfig, tmp_path: Path) -> None:
    policy = load_policy(use(copy, DATED), settings)
    policy.tokenizer.save_pretrained(tmp_path / "out")
    saved = (tmp_path / "out" / "chat_template.jinja").read_text(encoding="utf-8")
    assert "26 Jul 2024" in rendered(saved)
    assert pinned(saved, False) == saved  # not given twice


def test_several_templates_by_name(copy: Path, settings: ModelsConfig) -> None:
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tool_use.jinja").write_text(DATED, encoding="utf-8")
    tokenizer = load_tokenizer(use(copy, DATED), settings)
    assert set(tokenizer.chat_template) == {"default", "tool_use"}
    assert all("26 Jul 2024" in rendered(template) for template in tokenizer.chat_template.values())
    assert rendering_of(copy, settings) == {"template_date": "2024-07-26"}


# -------------------------------------------------------------------------------------------------------------- thinking


def test_thinking_is_off_unless_it_is_switched_on(copy: Path, settings: ModelsConfig) -> None:
    use(copy, SWITCHED)
    assert chat_text(load_tokenizer(copy, settings), "hi").endswith("<|assistant|><think>\n\n</think>\n\n")
    assert rendering_of(copy, settings) == {"thinking": "off"}
    on = dataclasses.replace(settings, thinking=True)
    assert chat_text(load_tokenizer(copy, on), "hi").endswith("<|assistant|>")
    assert rendering_of(copy, on) == {"thinking": "on"}


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        ("enable_thinking", "False", "True"),
        ("thinking", "False", "True"),
        ("reasoning", "False", "True"),
        ("thinking_budget", "0", ""),
    ],
)
def test_the_switches_of_several_families(name: str, off: str, on: str) -> None:
    template = f"{{{{ {name} }}}}"
    assert (rendered(pinned(template, False)), rendered(pinned(template, True))) == (off, on)
    assert rendered(pinned(template, False), **{name: "mine"}) == "mine"  # a caller decides


def test_a_template_without_date_or_switch_is_left_alone(copy: Path, settings: ModelsConfig) -> None:
    plain = (copy / "chat_template.jinja").read_text(encoding="utf-8")
    assert load_tokenizer(copy, settings).chat_template == plain
    assert rendering_of(copy, settings) == {}
    for text in ("{{ m.thinking }}", "{{ m['thinking'] }}", "detailed thinking off"):
        assert pinned(text, False) == text


@pytest.mark.parametrize("lead", ["\n{{ 1 }}", "  {% if true %}x{% endif %}", "\n\n {% set a = 1 %}b", " {{ 1 }}"])
def test_white_space_at_the_beginning_stays_as_it_is(lead: str) -> None:
    template = lead + "{{ strftime_now('x') }}"
    assert rendered(pinned(template, False)) == rendered(template)


def test_an_answer_follows_a_closed_thought(copy: Path, settings: ModelsConfig) -> None:
    tokenizer = load_tokenizer(use(copy, FORCED), settings)
    assert chat_text(tokenizer, "hi").endswith("<think>\n")
    assert answer_text(tokenizer, "hi").endswith("<think>\n\n</think>\n\n")
    assert rendering_of(copy, settings)["thinking"].startswith("on, because the template opens a thought")


# ------------------------------------------------------------------------------------------------------------------ rows


def test_rows_are_kept_by_what_the_policy_reads(copy: Path, settings: ModelsConfig, store: ArtifactStore) -> None:
    """The same weights under another rendering: nothing is taken from the rows of the first."""
    use(copy, SWITCHED)
    on = dataclasses.replace(settings, thinking=True)

    def draw(models: ModelsConfig) -> object:
        return sample(copy, ["hi", "you"], 2, HOW, models=models, store=store, reporter=SilentReporter())

    def score(models: ModelsConfig) -> list[float]:
        how = {"models": models, "store": store, "reporter": SilentReporter()}
        return continuation_log_probs(copy, ["hi"], ["a", "b"], 8, **how)[0].tolist()

    first, scores = draw(settings), score(settings)
    assert draw(on) != first
    assert score(on) != scores
    assert (draw(settings), score(settings)) == (first, scores)


def test_a_template_that_cannot_render_is_named(copy: Path, settings: ModelsConfig) -> None:
    use(copy, "{{ raise_exception('no user turns') }}")
    with pytest.raises(
        ModelError, match=r"chat template of .* cannot render one user message \(TemplateError: no user"
    ):
        load_policy(copy, settings)
    use(copy, "<|assistant|>")
    with pytest.raises(ModelError, match=r"the chat template does not print the user's message"):
        load_policy(copy, settings)


def test_a_template_in_the_tokenizers_settings_is_pinned_too(copy: Path, settings: ModelsConfig) -> None:
    (copy / "chat_template.jinja").unlink()
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": DATED}))
    assert "26 Jul 2024" in chat_text(load_tokenizer(copy, settings), "hi")
