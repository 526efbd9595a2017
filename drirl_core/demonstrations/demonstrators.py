"""Who writes demonstrations: a file of finished rows, a local chat model, or an endpoint.

All three implement one small protocol, so that the data set is built in the same way from each. What a model or an
endpoint wrote is kept in a row cache: after an interrupted run or a changed quota, only the missing rows are requested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from drirl_core.config import Config, DemonstratorConfig, ModelsConfig, VllmConfig
from drirl_core.demonstrations.endpoint import ChatEndpoint, PromptRefused
from drirl_core.demonstrations.new_prompts import collect_prompts
from drirl_core.demonstrations.rows import Row, losses_of, read_columns, read_dropped
from drirl_core.demonstrations.safety_policy import texts_of
from drirl_core.demonstrations.validate import Failure
from drirl_core.errors import nearest
from drirl_core.prompts.losses import SourceLosses
from drirl_core.reporting import Reporter
from drirl_core.store.artifacts import ArtifactStore
from drirl_core.store.rowcache import RowCache, content_key
from drirl_core.store.tables import prompt_id
from drirl_core.text import chain_of_draft as cod
from drirl_core.text.thoughts import cut_thoughts

ABSENT = "absent"
"""Reason when a file has no demonstration of a prompt; this is not a failure of the row."""

_BATCH = 16
_PARALLEL = 4
_ATTEMPT_STRIDE = 1_000_003  # seeds of different attempts must differ from those of different runs


@dataclass(frozen=True)
class Rejected:
    """A row of the demonstrator's own input that cannot be used.

    Args:
        prompt: as far as it could be read.
        category: as the row gives it.
        demonstration: as far as it could be read.
        failure: why, with the place in the file.
    """

    prompt: str
    category: str
    demonstration: str
    failure: Failure


class Demonstrator(Protocol):
    """Write demonstrations, and new prompts for a category that has too few."""

    @property
    def source(self) -> str:
        """Name that marks rows whose prompt this demonstrator gave."""
        ...

    @property
    def licence(self) -> str:
        """Licence of those rows."""
        ...

    @property
    def attempts(self) -> int:
        """How often to ask for the same prompt at most."""
        ...

    @property
    def finite(self) -> bool:
        """Whether it holds a fixed number of prompts, rather than writing more when asked again."""
        ...

    @property
    def rejected(self) -> Sequence[Rejected]:
        """Rows of its own input that cannot be used."""
        ...

    @property
    def losses(self) -> Sequence[SourceLosses]:
        """How many rows its own input lost, where it lost any."""
        ...

    @property
    def styles(self) -> Mapping[str, str]:
        """Style of the prompts of its own input that name one, by prompt_id."""
        ...

    def write(self, prompts: Sequence[tuple[str, str]], attempt: int = 0) -> list[str | Failure]:
        """Write one demonstration per prompt.

        Args:
            prompts: N pairs of prompt and category.
            attempt: 0, 1, ...; another attempt gives another text where the demonstrator can.

        Returns:
            N texts, not yet validated, or why there is none.
        """
        ...

    def new_prompts(self, category: str, n: int, existing: Mapping[str, str]) -> list[str]:
        """Give new prompts for a category that has too few.

        Args:
            category: the category.
            n: how many at most.
            existing: prompts known already, with their categories.

        Returns:
            Up to `n` prompts, none equal to a known one up to white space; not yet checked for near duplicates.
        """
        ...


class FileDemonstrator:
    """Finished demonstrations from a file; a prompt is found independently of its spacing and Unicode form.

    Args:
        config: names the source.
        path: the file.
        categories: known categories; rows of others are rejected.
        dropped: rows of the drop folder that have a demonstration; their prompts are in the pool already, so they give
            no new prompts.
    """

    attempts = 1
    finite = True

    def __init__(
        self, config: DemonstratorConfig, path: Path, categories: Sequence[str], dropped: Sequence[Row] = ()
    ) -> None:
        self.source, self.licence = config.source.name, config.source.licence
        self.rejected: list[Rejected] = []
        self.styles: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        self._prompts: dict[str, list[str]] = {category: [] for category in categories}
        self._places: dict[str, str] = {}
        rows = read_columns(config.source, path, ("prompt", "demonstration"), ("category", "style"))
        failures = [self._take(row, config.source.category or row.values["category"], fills_up=True) for row in rows]
        self.losses = losses_of(config.source, rows, failures)
        self.usable = failures.count(None)
        for row in dropped:
            self._take(row, row.values["category"], fills_up=False)

    def _take(self, row: Row, given: str, fills_up: bool) -> Failure | None:
        from drirl_core.prompts.adapters import label_key

        prompt, key = row.values["prompt"], prompt_id(row.values["prompt"])
        category = label_key(given).replace(" ", "_")
        failure = row.failure
        if failure is None and fills_up and given and category not in self._prompts:
            failure = Failure("unknown_category", f"{row.place}: {nearest(given, self._prompts)}")
        elif failure is None and key in self._places:
            failure = Failure("duplicate_prompt", f"{row.place}: the prompt is already in {self._places[key]}")
        if failure is not None:
            self.rejected.append(
                Rejected(prompt, category if category in self._prompts else given, row.values["demonstration"], failure)
            )
            return failure
        self._places[key], self._texts[key] = row.place, row.values["demonstration"]
        if style := row.values.get("style"):
            self.styles[key] = style
        if given and fills_up:
            self._prompts[category].append(prompt)
        return None

    def covers(self, prompt: str) -> bool:
        """Tell whether there is a demonstration of a prompt; whether it passes is not looked at."""
        return prompt_id(prompt) in self._texts

    def write(self, prompts: Sequence[tuple[str, str]], attempt: int = 0) -> list[str | Failure]:
        """Look the demonstrations up; the category of the pool counts, not that of the file."""
        absent = Failure(ABSENT, f"{self.source} holds no demonstration of this prompt")
        return [self._texts.get(prompt_id(prompt), absent) for prompt, _ in prompts]

    def new_prompts(self, category: str, n: int, existing: Mapping[str, str]) -> list[str]:
        """Return the first `n` prompts of the file, in its order, that are of this category and not in `existing`."""
        known = {prompt_id(prompt) for prompt in existing}
        return [prompt for prompt in self._prompts.get(category, []) if prompt_id(prompt) not in known][:n]


def _messages(prompts: Sequence[tuple[str, str]], max_step_words: int, rules: Mapping[str, str]) -> list[str]:
    """Return what a model is told, for prompts with their categories."""
    return [cod.ask(prompt, category, max_step_words, rules.get(category, "")) for prompt, category in prompts]


class ModelDemonstrator:
    """A local chat model, sampled through `drirl_core.models.sampling`.

    Args:
        config: model reference, attempts, length and temperature.
        max_step_words: largest number of words of a draft step, told to the model; 0 asks for answers without a draft.
        models: how to load it.
        store: keeps the rows.
        reporter: gets progress.
        seed: seed of the run.
        rules: texts of the safety policy by category, told to the model.
        vllm: the engine that samples it; None for transformers.
    """

    finite = False
    rejected: Sequence[Rejected] = ()
    losses: Sequence[SourceLosses] = ()
    styles: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        config: DemonstratorConfig,
        max_step_words: int,
        models: ModelsConfig,
        store: ArtifactStore,
        reporter: Reporter,
        seed: int,
        rules: Mapping[str, str] = MappingProxyType({}),
        vllm: VllmConfig | None = None,
    ) -> None:
        self._rules = rules
        self.source, self.licence, self.attempts = config.model, config.source.licence, config.attempts
        self._config, self._max_step_words, self._models = config, max_step_words, models
        self._store, self._reporter, self._seed, self._vllm = store, reporter, seed, vllm

    def write(self, prompts: Sequence[tuple[str, str]], attempt: int = 0) -> list[str | Failure]:
        """Sample one demonstration per prompt; a text cut by the length limit is a failure."""
        messages = _messages(prompts, self._max_step_words, self._rules)
        return self._sample(messages, self._config.max_new_tokens, attempt)

    def new_prompts(self, category: str, n: int, existing: Mapping[str, str]) -> list[str]:
        """Ask for prompts, one per line, until there are `n` or the attempts are used up."""

        def ask(message: str, tokens: int, attempt: int) -> str:
            reply = self._sample([message], tokens, attempt, cut_is_failure=False)[0]
            return reply if isinstance(reply, str) else ""

        return collect_prompts(ask, category, n, existing, self.attempts, self._rules.get(category, ""))

    def _sample(
        self, messages: Sequence[str], tokens: int, attempt: int, cut_is_failure: bool = True
    ) -> list[str | Failure]:
        from drirl_core.models.sampling import SamplingSettings, sample

        settings = SamplingSettings(tokens, self._config.temperature, _BATCH, self._seed + _ATTEMPT_STRIDE * attempt)
        rows = sample(
            self._config.model, messages, 1, settings,
            models=self._models, store=self._store, reporter=self._reporter, vllm=self._vllm,
        )  # fmt: skip
        cut = Failure(
            "bad_format",
            f"the text hit the length limit of {tokens} tokens; raise demonstrations.demonstrator.max_new_tokens",
        )
        return [_visible(c.text) if c.finished or not cut_is_failure else cut for (c,) in rows]


class EndpointDemonstrator:
    """A chat model behind an OpenAI-compatible endpoint; the key never leaves `endpoint.py`.

    Args:
        config: URL, model name, name of the key's variable, attempts, length and temperature.
        max_step_words: largest number of words of a draft step, told to the model; 0 asks for answers without a draft.
        store: keeps the completions.
        reporter: gets progress.
        endpoint: the endpoint; None makes it from `config`.
        rules: texts of the safety policy by category, told to the model.
    """

    finite = False
    rejected: Sequence[Rejected] = ()
    losses: Sequence[SourceLosses] = ()
    styles: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        config: DemonstratorConfig,
        max_step_words: int,
        store: ArtifactStore,
        reporter: Reporter,
        endpoint: ChatEndpoint | None = None,
        rules: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._rules = rules
        self.source, self.licence, self.attempts = config.model, config.source.licence, config.attempts
        self._config, self._max_step_words, self._reporter = config, max_step_words, reporter
        self._endpoint = endpoint or ChatEndpoint(config.url, config.model, config.api_key_env)
        self._cache = RowCache(store.cache_path("demonstrations"))

    def write(self, prompts: Sequence[tuple[str, str]], attempt: int = 0) -> list[str | Failure]:
        """Ask for one demonstration per prompt, a few at a time; a prompt the endpoint rejects is a failure.

        Raises:
            EndpointError: the endpoint cannot be used; the completions it gave are kept.
        """
        messages = _messages(prompts, self._max_step_words, self._rules)
        written: list[str | Failure] = []
        with ThreadPoolExecutor(_PARALLEL) as threads:
            try:
                for reply in threads.map(
                    lambda message: self._reply(message, self._config.max_new_tokens, attempt), messages
                ):
                    written.append(reply)
                    self._reporter.progress("demonstrations written", len(written), len(messages))
            finally:
                threads.shutdown(cancel_futures=True)  # after an error, the rest would fail in the same way
        return written

    def new_prompts(self, category: str, n: int, existing: Mapping[str, str]) -> list[str]:
        """Ask for prompts, one per line, until there are `n` or the attempts are used up.

        Raises:
            EndpointError: the endpoint cannot be used.
        """

        def ask(message: str, tokens: int, attempt: int) -> str:
            reply = self._reply(message, tokens, attempt)
            return reply if isinstance(reply, str) else ""

        return collect_prompts(ask, category, n, existing, self.attempts, self._rules.get(category, ""))

    def _reply(self, message: str, tokens: int, attempt: int) -> str | Failure:
        temperature = self._config.temperature
        key = content_key(self._endpoint.target, self._config.model, message, temperature, tokens, attempt)
        found = self._cache.get_many([key]).get(key)
        if found is not None:
            return _visible(found.decode())
        try:
            text = self._endpoint.reply(message, temperature=temperature, max_new_tokens=tokens)
        except PromptRefused as error:
            return Failure("endpoint_error", str(error))
        self._cache.put_many({key: text.encode("utf-8", "replace")})
        return _visible(text)


def make_demonstrator(
    config: Config,
    path: Path | None,
    categories: Sequence[str],
    store: ArtifactStore,
    reporter: Reporter,
    dropped: Path | None = None,
) -> Demonstrator:
    """Return the demonstrator the configuration asks for.

    Args:
        config: the complete configuration.
        path: file of demonstrations, for kind `file`; None for the one the configuration names.
        categories: known categories.
        store: keeps what a model or an endpoint wrote.
        reporter: gets progress.
        dropped: folder of the files that the drop folder accepted, for kind `file`; None without a drop folder.

    Raises:
        DataError: a file cannot be read.
        ConfigError: the URL of the endpoint or the safety policy cannot be used.
    """
    from drirl_core.graph.layout import source_path

    settings = config.demonstrations
    steps = settings.max_step_words if settings.format == "draft" else 0
    if settings.demonstrator.kind == "model":
        how = steps, config.models, store, reporter, config.seed
        return ModelDemonstrator(settings.demonstrator, *how, rules=texts_of(config), vllm=config.execution.engine)
    if settings.demonstrator.kind == "endpoint":
        return EndpointDemonstrator(settings.demonstrator, steps, store, reporter, rules=texts_of(config))
    inbox = config.operations.inbox.source
    rows = read_dropped(inbox, dropped) if inbox and dropped else ()
    return FileDemonstrator(settings.demonstrator, path or source_path(settings.demonstrator.source), categories, rows)


def _visible(text: str) -> str:
    """Return what a reasoning model says after its thoughts."""
    return cut_thoughts(text).strip()
