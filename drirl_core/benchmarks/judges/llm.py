"""The llm judge: a model behind an OpenAI-compatible endpoint grades replies by a rubric.

Verdicts are kept per reply, so that none is paid for twice. An answer that cannot be read is requested once more; then
the reply is `invalid`. Unusable text (empty, echo, degenerate) is labelled by the rules and never sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from drirl_core.benchmarks.judges.rubrics import RUBRICS, message, parse
from drirl_core.benchmarks.judges.rules import UNUSABLE, label_reply
from drirl_core.benchmarks.judges.verdicts import INVALID, Verdict
from drirl_core.config import LlmJudgeConfig
from drirl_core.demonstrations.endpoint import ChatEndpoint, PromptRefused, chat_target
from drirl_core.reporting import Reporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key
from drirl_core.text.chain_of_draft import cut_draft

TRIES = 2
"""Requests per reply whose answer cannot be read."""
_SECTION = "benchmarks.llm"
_UNKNOWN = ("accuracy", "low", "high", "precision", "recall", "f1")


@dataclass(frozen=True)
class Bill:
    """What judging replies would cost.

    Args:
        replies: how many there are.
        unusable: those that the rules label, and that are never sent.
        kept: those whose verdict is in the store.
        calls: messages to send; equal replies to equal prompts are one. One that cannot be read is sent `TRIES` times.
        characters: in these messages.
    """

    replies: int
    unusable: int
    kept: int
    calls: int
    characters: int


def identity_of(config: LlmJudgeConfig) -> str:
    """Return a digest of all that decides a judge's verdicts, beside the texts that it reads.

    Neither the key of the endpoint nor the number of requests at a time decides one. A safety policy does, but is told
    by category, and labelled replies have none: measurements are those of the judge without it.

    Args:
        config: endpoint and rubric.
    """
    return content_key(
        chat_target(config.url), config.model, RUBRICS[config.rubric].digest, config.max_new_tokens, TRIES
    )[:16]


class LlmJudge:
    """Grade replies by a rubric through an endpoint.

    Args:
        config: endpoint and rubric.
        store: keeps the verdicts.
        reporter: gets progress.
        endpoint: the endpoint; None for the one that `config` names.
        rules: texts of the safety policy by category; a verdict is asked for again when the text of its category
            changes.

    Raises:
        ConfigError: the URL cannot be used.
    """

    def __init__(
        self,
        config: LlmJudgeConfig,
        store: ArtifactStore,
        reporter: Reporter,
        endpoint: ChatEndpoint | None = None,
        rules: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._rules = rules
        self._config, self._reporter, self._rubric = config, reporter, RUBRICS[config.rubric]
        self._endpoint = endpoint or ChatEndpoint(config.url, config.model, config.api_key_env, section=_SECTION)
        self._cache = RowCache(store.cache_path("verdicts"))

    @property
    def record(self) -> Mapping[str, Any]:
        """Model, rubric and, where it is told one, a digest of the safety policy; its error is not known here."""
        named: dict[str, Any] = {"judge": "llm", "model": self._config.model, "rubric": self._config.rubric}
        if self._rules:
            named["safety_policy"] = content_key(dict(self._rules))[:12]
        return {**named, "data": "", "n": 0, **dict.fromkeys(_UNKNOWN)}

    @property
    def identity(self) -> str:
        """Digest of all that decides its verdicts, see `identity_of`."""
        return identity_of(self._config)

    def check(self) -> None:
        """Send one short message.

        Raises:
            EndpointError: the endpoint cannot be used: key, address or model are wrong.
            ModelError: the endpoint rejects every message.
        """
        try:
            self._endpoint.reply("Answer with the word: ready", temperature=0.0, max_new_tokens=16)
        except PromptRefused as error:
            if "length limit" not in str(error):  # a model that thinks first; the endpoint itself works
                raise

    def verdicts(self, prompts: Sequence[str], replies: Sequence[str], categories: Sequence[str] = ()) -> list[Verdict]:
        """Judge N replies to N prompts, a few at a time; equal ones are judged once.

        Args:
            prompts: N prompts.
            replies: N replies.
            categories: of the N prompts, by which the rules are chosen; none tells no rules.

        Raises:
            EndpointError: the endpoint cannot be used; the verdicts it gave are kept.
        """
        found, keys, known, missing = self._sort(prompts, replies, categories)
        known |= self._ask_all(missing)
        return [_read(known[keys[i]]) if i in keys else verdict for i, verdict in enumerate(found)]

    def bill(self, prompts: Sequence[str], replies: Sequence[str]) -> Bill:
        """Say what judging N replies to N prompts would cost, and send nothing."""
        _, keys, known, missing = self._sort(prompts, replies)
        kept = sum(key in known for key in keys.values())
        return Bill(len(prompts), len(prompts) - len(keys), kept, len(missing), sum(map(len, missing.values())))

    def _sort(
        self, prompts: Sequence[str], replies: Sequence[str], categories: Sequence[str] = ()
    ) -> tuple[list[Verdict], dict[int, str], dict[str, bytes], dict[str, str]]:
        """Return the rules' verdicts, keys of the usable replies, kept rows, and the messages that are missing."""
        found = [Verdict(label_reply(reply, prompt)) for prompt, reply in zip(prompts, replies, strict=True)]
        rules = [self._rules.get(category, "") for category in categories] or [""] * len(prompts)
        asked = {
            i: message(self._rubric, prompts[i], cut_draft(replies[i]).strip(), rules[i])
            for i, verdict in enumerate(found)
            if verdict.label not in UNUSABLE
        }
        keys = {i: self._key(text) for i, text in asked.items()}
        known = self._cache.get_many(keys.values())
        missing = {keys[i]: text for i, text in asked.items() if keys[i] not in known}
        return found, keys, known, missing

    def _key(self, text: str) -> str:
        config = self._config
        return content_key(self._endpoint.target, config.model, self._rubric.digest, text, config.max_new_tokens, TRIES)

    def _ask_all(self, missing: Mapping[str, str]) -> dict[str, bytes]:
        written: dict[str, bytes] = {}
        with ThreadPoolExecutor(self._config.parallel) as threads:
            try:
                for key, row in zip(missing, threads.map(self._ask, missing, missing.values()), strict=True):
                    written[key] = row
                    self._reporter.progress("replies judged", len(written), len(missing))
            finally:
                threads.shutdown(cancel_futures=True)  # after an error, the rest would fail in the same way
        return written

    def _ask(self, key: str, text: str) -> bytes:
        """Return the verdict on one message, which is stored at once."""
        verdict, reason = None, ""
        for _ in range(TRIES):
            try:
                verdict = parse(
                    self._rubric,
                    self._endpoint.reply(text, temperature=0.0, max_new_tokens=self._config.max_new_tokens),
                )
                reason = "" if verdict else "the answer is not the JSON asked for"
            except PromptRefused as error:
                reason = str(error)
            if verdict:
                break
        verdict = verdict or Verdict(INVALID, {"reason": reason})
        row = json.dumps({"label": verdict.label, "details": dict(verdict.details)}).encode()
        self._cache.put_many({key: row})
        return row


def _read(row: bytes) -> Verdict:
    found = json.loads(row)
    return Verdict(found["label"], found["details"])
