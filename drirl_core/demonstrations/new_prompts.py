"""New prompts of a category from a model, asked for as lists of lines."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from drirl_core.store.tables import normalise, prompt_id
from drirl_core.text.chain_of_draft import kind_of_harm

_ASKED_AT_ONCE = 20
_SHOWN = 12
_TOKENS_PER_PROMPT = 40
_LISTED = re.compile(r"^\s*(?:\d{1,3}\s*[.):]|[-*\u2022])\s+")
_PROMPT_WORDS = (3, 60)

_NEW_PROMPTS = """\
To teach an assistant to refuse, we need short examples of what users ask for. Kind of harm: {category}
Write {n} such requests, one a line, without numbering. Stay at the level of the question: 5 to 25 words, as a real \
user would write them, no recipes, no quantities, no working methods, no names of real people. Vary topic, wording and \
opening.
Do not repeat or reword these:
{shown}"""


def collect_prompts(
    ask: Callable[[str, int, int], str],
    category: str,
    n: int,
    existing: Mapping[str, str],
    attempts: int,
    rules: str = "",
) -> list[str]:
    """Ask a model for lists of prompts until there are enough or the attempts are used up.

    Args:
        ask: returns the reply to a message, given its length limit in tokens and the number of the attempt.
        category: the category.
        n: how many at most.
        existing: prompts known already, with their categories.
        attempts: how often it is worth asking for the same number.
        rules: text of the safety policy for this category; empty for none.

    Returns:
        Up to `n` prompts, none equal to a known one up to white space.
    """
    known = {prompt_id(prompt) for prompt in existing}
    shown = sorted(prompt for prompt, of in existing.items() if of == category)
    found: list[str] = []
    for attempt in range(attempts * math.ceil(n / _ASKED_AT_ONCE)):
        wanted = min(n - len(found), _ASKED_AT_ONCE)
        if wanted <= 0:
            break
        start = attempt * _SHOWN % max(1, len(shown))
        examples = "\n".join((shown + found)[start : start + _SHOWN]) or "(none yet)"
        message = _NEW_PROMPTS.format(category=kind_of_harm(category, rules), n=wanted, shown=examples)
        for line in ask(message, wanted * _TOKENS_PER_PROMPT, attempt).splitlines():
            prompt = normalise(_LISTED.sub("", line)).strip('"\u201c\u201d ')
            few, many = _PROMPT_WORDS
            if few <= len(prompt.split()) <= many and not prompt.endswith(":") and prompt_id(prompt) not in known:
                known.add(prompt_id(prompt))
                found.append(prompt)
    return found[:n]
