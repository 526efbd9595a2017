"""Say each problem once: the same error of seven categories is one message, with its cause first."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_FORM = re.compile(r"(?P<asset>[a-z][a-z0-9_]*)(?: (?P<check>(?:breaks )?[a-z][a-z0-9_]*))?: (?P<text>.+)", re.DOTALL)
"""How a step and a check report a problem: `asset: text`, `asset check: text`, `asset breaks check: text`."""
_VARIES = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+(?:[.,]\d+)*")
"""What differs between equal problems of several assets: quoted examples and numbers."""
_MARK = "\0"


@dataclass(frozen=True)
class _Problem:
    """One message in parts; `asset` is empty for a message of another form."""

    message: str
    asset: str
    check: str
    text: str

    @property
    def kind(self) -> tuple[str, str]:
        """What problems of the same kind share."""
        return self.check, _VARIES.sub(_MARK, _without_name(self.text, self.asset))


def once(messages: Iterable[str]) -> list[str]:
    """Gather messages that say the same of several assets.

    Args:
        messages: each of the form `asset: text` or `asset check: text`; others are only freed of repetitions.

    Returns:
        The messages in the order in which they were first said. Of several with one text the text comes first, then the
        assets; of several that differ in numbers and examples the first one is complete and names the other assets.
    """
    kinds: dict[tuple[str, ...], list[_Problem]] = {}
    for message in dict.fromkeys(messages):
        found = _FORM.fullmatch(message)
        problem = _Problem(message, found["asset"], found["check"] or "", found["text"]) if found else None
        kinds.setdefault(problem.kind if problem else (message,), []).append(problem or _Problem(message, "", "", ""))
    return [_told(problems) for problems in kinds.values()]


def same_kind(first: str, second: str) -> bool:
    """Tell whether two messages of the form `asset: text` are one problem of two assets."""
    return len(once([first, second])) == 1


def _told(problems: Sequence[_Problem]) -> str:
    first, *others = problems
    if not others:
        return first.message
    names = ", ".join(problem.asset for problem in others)
    if all(problem.text == first.text for problem in others):
        cause = f"{first.check}: {first.text}" if first.check else first.text
        return f"{cause}\n  The same in {len(problems)} assets: {first.asset}, {names}"
    return f"{first.message}\n  The same, with other numbers or examples, in {len(others)} more: {names}"


def _without_name(text: str, asset: str) -> str:
    """Replace the name of the asset and that of its category, which is the end of it, by a mark."""
    parts = asset.split("_")
    for start in range(len(parts)):
        text = re.sub(rf"(?<![a-z0-9_]){re.escape('_'.join(parts[start:]))}(?![a-z0-9_])", _MARK, text)
    return text
