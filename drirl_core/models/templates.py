"""Chat templates: a fixed date and a chosen thinking mode, wherever a prompt is rendered with them.

Some templates print today's date, and many let a model think unless they are told not to. Neither may decide a result
unseen: the same inputs would give another policy on the next day, and pools would mix dates. So the template itself is
given defaults when the tokenizer is loaded. Our own code, TRL's trainers and the saved checkpoint then render a prompt
in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from drirl_core.errors import ModelError
from drirl_core.text.thoughts import closed, opened_by

FIXED_DATE = datetime(2024, 7, 26)
"""What every template takes for today; the date that Llama 3's own template falls back to."""

SWITCHES: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        "enable_thinking": ("false", "true"),
        "thinking": ("false", "true"),
        "reasoning": ("false", "true"),
        "thinking_budget": ("0", None),
    }
)
"""Variables by which templates switch thinking, with their values for off and on; None leaves the template's own."""

PROBE = "What is the capital of France?"
"""A prompt that is rendered to look at a template."""

_CLOCK = "strftime_now"
_BEGIN, _END = "{#- drirl: defaults of this template -#}", "{# drirl: end #}\n"
_OURS = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
_MENTIONED = re.compile(rf"\b(?:{'|'.join((_CLOCK, *SWITCHES))})\b")
_DIRECTIVES = "aAwdbBmyYHIpMSfjUWVGuDFTRcxXZz"
_WITHOUT_PADDING = "dmHIMSj"


def pinned(template: str, thinking: bool) -> str:
    """Give a template its defaults: a fixed date, and thinking off or on.

    Args:
        template: Jinja source; defaults given before are replaced.
        thinking: whether reasoning models may think.

    Returns:
        The template, with a block of defaults in front where it reads the date or a switch for thinking, else as it
        was. A caller who passes a switch still decides.
    """
    own = _OURS.sub("", template)
    names = _names(own)
    block = [_clock()] if _CLOCK in names else []
    for name, values in SWITCHES.items():
        value = values[thinking]
        if name in names and value is not None:
            block.append(f"{{% if {name} is not defined %}}{{% set {name} = {value} %}}{{% endif %}}")
    # A comment and one line break at the end: trim_blocks removes that break, so the template begins where it began.
    return f"{_BEGIN}{''.join(block)}{_END}{own}" if block else own


def reads_defaults(source: str) -> bool:
    """Return whether a text mentions what `pinned` gives a default: the clock, or a switch for thinking.

    Args:
        source: a template, or a JSON file that holds templates.
    """
    return bool(_MENTIONED.search(source))


def pin(tokenizer: Any, thinking: bool) -> None:
    """Give the templates of a tokenizer their defaults; see `pinned`.

    Args:
        tokenizer: its `chat_template` is one template, several by name, or None.
        thinking: whether reasoning models may think.
    """
    templates = tokenizer.chat_template
    if isinstance(templates, str):
        tokenizer.chat_template = pinned(templates, thinking)
    elif isinstance(templates, Mapping):
        tokenizer.chat_template = {name: pinned(text, thinking) for name, text in templates.items()}


def record(tokenizer: Any, thinking: bool) -> dict[str, str]:
    """Say what the rendering of prompts adds, for the metadata of an artifact.

    Args:
        tokenizer: with defaults, see `pin`.
        thinking: whether reasoning models may think.

    Returns:
        `template_date` where the template prints a date, and `thinking` where it knows thoughts; else nothing.
    """
    templates = tokenizer.chat_template
    source = templates.get("default", "") if isinstance(templates, Mapping) else templates or ""
    names = _names(_OURS.sub("", source))
    found = {"template_date": f"{FIXED_DATE:%Y-%m-%d}"} if _CLOCK in names else {}
    opened = opened_by(chat_text(tokenizer, PROBE)) is not None
    if opened and not thinking:
        found["thinking"] = "on, because the template opens a thought and has no switch that is known here"
    elif opened or names & SWITCHES.keys():
        found["thinking"] = "on" if thinking else "off"
    return found


def chat_text(tokenizer: Any, prompt: str) -> str:
    """Render one user message with the model's chat template, ready for the completion.

    Raises:
        ModelError: the template cannot render it.
    """
    try:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is a program of its own: jinja2 raises whatever that does
        raise ModelError(
            f"the chat template of {getattr(tokenizer, 'name_or_path', '') or 'the tokenizer'} cannot render one user "
            f"message ({type(error).__name__}: {error}); correct chat_template.jinja, or use another model"
        ) from error


def answer_text(tokenizer: Any, prompt: str) -> str:
    """Render one user message so that the answer comes next: a thought that the template opens is closed.

    Raises:
        ModelError: the template cannot render it.
    """
    return closed(chat_text(tokenizer, prompt))


def begun_text(tokenizer: Any, prompt: str, prefill: str) -> str:
    """Render one user message, ready for a completion that has to begin with given words.

    Args:
        tokenizer: of the policy.
        prompt: the user message.
        prefill: the words, which open the answer, so that a thought is closed before them; empty for none.

    Raises:
        ModelError: the template cannot render it.
    """
    return answer_text(tokenizer, prompt) + prefill if prefill else chat_text(tokenizer, prompt)


def _names(template: str) -> set[str]:
    """Return the names that a template reads, those of attributes left out."""
    import jinja2

    names, before = set(), ""
    try:
        for _, kind, value in jinja2.Environment(autoescape=False).lex(template):  # noqa: S701 - nothing is rendered
            if kind == "name" and before != ".":
                names.add(value)
            if kind != "whitespace":
                before = value
    except jinja2.TemplateSyntaxError:  # rendering says what is wrong, with the name of the model
        return set()
    return names


def _clock() -> str:
    """Return a macro that stands in for the clock: it fills a format with the fixed date."""
    table = {f"%{letter}": FIXED_DATE.strftime(f"%{letter}") for letter in _DIRECTIVES}
    table |= {f"%-{letter}": str(int(FIXED_DATE.strftime(f"%{letter}"))) for letter in _WITHOUT_PADDING}
    table["%e"] = f"{FIXED_DATE.day:2d}"
    steps = "".join(f" | replace({_quoted(directive)}, {_quoted(text)})" for directive, text in table.items())
    percent = " | replace('%%', '\\x00')", " | replace('\\x00', '%')"
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{ format{percent[0]}{steps}{percent[1]} }}}}{{%- endmacro -%}}"


def _quoted(text: str) -> str:
    return f'"{text}"'
