"""Look at the models and files of a run, without weights, and say what will not work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from drirl_core import taxonomy
from drirl_core.config import BEST_OF_N, Config, ModelsConfig
from drirl_core.demonstrations.safety_policy import texts_of
from drirl_core.errors import ConfigError, DrirlError
from drirl_core.graph.policies import CHECKPOINTS
from drirl_core.graph.rounds import ROUND_STAGES
from drirl_core.models.packages import package_problems
from drirl_core.models.references import described
from drirl_core.policy.options import option_problems
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter

POLICY_STAGES = frozenset(
    {
        *CHECKPOINTS.values(),
        *ROUND_STAGES,
        "completion_pool",
        "reward_model",
        "reference_classifiers",
        BEST_OF_N,
        "benchmark",
    }
)
"""Stages that load the policy, or what was made from it."""
OPTIONS = "options"
"""Argument of `python -m drirl_core.preflight` that limits the look to options and packages."""


@dataclass(frozen=True)
class Seen:
    """A policy as far as its files without weights show it.

    Args:
        reference: its reference.
        tokenizer: with the defaults of its chat template.
        model: its layers without values.
        context: tokens that it can read; None for no limit.
        said: what was found, in one line.
    """

    reference: str
    tokenizer: Any
    model: Any
    context: int | None
    said: str


def find_problems(project: Project) -> list[str]:
    """Look at everything; a model that is not on this machine and cannot be had without its weights is left out.

    Args:
        project: the configuration, its graph and its sources.

    Returns:
        One message per problem; none when all is well.
    """
    config = project.config
    policy, problems = None, []
    try:
        policy = look_at_policy(config.models.policy, config.models)
    except DrirlError as error:
        problems.append(str(error))
    checks: list[Callable[[], Iterator[str]]] = [
        lambda: option_problems(config),
        lambda: safety_policy_problems(config),
        lambda: package_problems(config),
        lambda: look_at_demonstrator(config),
        lambda: own_reward_problems(config),
        lambda: look_at_judges(project),
        lambda: look_at_labels(project),
    ]
    if policy is not None:
        seen = policy
        checks += [lambda: adapter_problems(config, seen), lambda: room_problems(project, seen)]
    for check in checks:
        try:
            problems += list(check())
        except DrirlError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))  # what two of them read is one problem


def require_sound(project: Project) -> None:
    """Refuse a run that cannot work.

    Args:
        project: the configuration, its graph and its sources.

    Raises:
        ConfigError: there are problems; the message names all of them.
    """
    refuse(find_problems(project))


def refuse(problems: list[str]) -> None:
    """Raise one error for all problems; none for none.

    Raises:
        ConfigError: there are some.
    """
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        listed = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, start=1))
        raise ConfigError(f"{len(problems)} problems would stop this run later:\n{listed}")


def look_at_policy(reference: str, models: ModelsConfig) -> Seen | None:
    """Look at a chat model without its weights.

    Args:
        reference: its reference.
        models: cache, and whether reasoning models may think.

    Returns:
        What was seen; None where the model is not on this machine.

    Raises:
        ModelError: its files do not fit together.
    """
    from drirl_core.models.generation import end_tokens, inherited_settings
    from drirl_core.models.loading import complete_special_tokens, tokenizer_at
    from drirl_core.models.probe import describe_policy, probe_policy
    from drirl_core.models.skeleton import skeleton

    folder = described(reference, models)
    if folder is None:
        return None
    model, tokenizer = skeleton(folder, reference), tokenizer_at(folder, reference, models)
    ends = end_tokens(tokenizer, inherited_settings(folder, reference))
    complete_special_tokens(tokenizer, ends)
    found = probe_policy(reference, tokenizer, model.config, len(model.get_input_embeddings().weight), ends)
    said = describe_policy(found, tokenizer, models.thinking)
    return Seen(reference, tokenizer, model, found["context"], said)


def look_at_demonstrator(config: Config) -> Iterator[str]:
    """Look at the model that writes demonstrations, where there is one.

    Args:
        config: the complete configuration.

    Raises:
        ModelError: its files do not fit together.
    """
    demonstrator = config.demonstrations.demonstrator
    if demonstrator.kind == "model" and demonstrator.model != config.models.policy:
        look_at_policy(demonstrator.model, config.models)
    yield from ()


def own_reward_problems(config: Config) -> Iterator[str]:
    """Say which reward functions of the user's own cannot be used.

    Args:
        config: the complete configuration.
    """
    from drirl_core.policy.own_rewards import load_own_rewards

    for one in config.policy.own_rewards:
        try:
            load_own_rewards([one])
        except ConfigError as error:
            yield str(error)


def safety_policy_problems(config: Config) -> Iterator[str]:
    """Say why the safety policy cannot be used, where there is one: the judge and the report read it hours later.

    Args:
        config: names the file.
    """
    try:
        texts_of(config)
    except ConfigError as error:
        yield str(error)


def look_at_judges(project: Project) -> Iterator[str]:
    """Look at weights and endpoint of the judges of the benchmarks, and what is recorded of them; the rules need none.

    Args:
        project: the configuration and its store.

    Raises:
        DrirlError: weights or the record cannot be read, or the endpoint cannot be used.
    """
    settings = project.config.benchmarks
    if {settings.judge, settings.second_judge} != {"rules", "none"}:
        from drirl_core.benchmarks.judges.recorded import recorded_errors
        from drirl_core.benchmarks.judging import Judges

        Judges.of(project.config, project.store, SilentReporter()).check()
        recorded_errors(project.config, project.store)  # the report reads them hours later
    yield from ()


def look_at_labels(project: Project) -> Iterator[str]:
    """Read the files of labels, where there are any: they are used hours later, and read strictly.

    Args:
        project: the files.

    Raises:
        DataError: one of them cannot be read.
    """
    if project.config.rewards.labels:
        from drirl_core.rewards.labels.exclusion import labelled_rows

        labelled_rows(project.config, project.graph.sources)
    yield from ()


def adapter_problems(config: Config, policy: Seen) -> Iterator[str]:
    """Say which adapters name layers that the policy does not have.

    Args:
        config: the complete configuration.
        policy: the policy.
    """
    from drirl_core.models.adapters import adapters_of

    sections = {"sft.lora": config.sft.lora} if config.policy.start == "sft" else {}
    sections |= {"dpo.lora": config.dpo.lora} if {"dpo", "dpo_s", "irft"} & {*config.baselines} else {}
    sections |= {"rewards.adapter": config.rewards.adapter.lora} if config.rewards.backbone == "adapter" else {}
    for section, lora in {**sections, "policy.lora": config.policy.lora}.items():
        try:
            adapters_of(lora, policy.model, section, policy.reference)
        except ConfigError as error:
            yield str(error)


def room_problems(project: Project, policy: Seen) -> Iterator[str]:
    """Say which prompts leave no room for a completion in what the policy can read.

    Args:
        project: the suites, and the sources of prompts.
        policy: the policy.

    Raises:
        DataError: a suite or a source cannot be read.
    """
    from drirl_core.benchmarks.room import suites_without_room
    from drirl_core.models.context import no_room, too_long
    from drirl_core.models.templates import PROBE, chat_text

    config, limit = project.config, policy.context
    if limit is None:
        return
    yield from suites_without_room(config.benchmarks, policy.tokenizer, limit)
    lengths = {
        "completions.max_new_tokens": config.completions.max_new_tokens,
        "policy.max_new_tokens": config.policy.max_new_tokens,
    }
    setting = max(lengths, key=lambda name: lengths[name])
    around = len(chat_text(policy.tokenizer, PROBE).encode()) - len(PROBE)
    # No tokenizer makes more tokens than a text has bytes, of which a character has four at most.
    if 4 * config.prompts.max_chars + around + lengths[setting] <= limit:
        return
    for place, prompt in _training_prompts(project):
        long = too_long(policy.tokenizer, [chat_text(policy.tokenizer, prompt)], lengths[setting], limit)
        if long:
            yield f"{place}: {no_room(prompt, long[0][1], lengths[setting], limit, setting)}"
            return


def _training_prompts(project: Project) -> Iterator[tuple[str, str]]:
    """Yield place and text of the prompts of all sources that are not too long or unreadable anyway."""
    from drirl_core.demonstrations.rows import read_columns
    from drirl_core.prompts.adapters import read_source

    config, sources = project.config, project.graph.sources
    categories = taxonomy.load_categories(config.prompts.taxonomy)
    longest = config.prompts.max_chars
    for source in config.prompt_sources:
        path = sources[f"source_{source.name}"]
        every = source not in config.prompts.sources
        for row in read_source(source, path, categories, all_files=every).rows:
            if not row.reason and len(row.prompt) <= longest:
                yield row.place, row.prompt
    helpful = config.demonstrations.helpful
    columns = ("prompt", "answer"), ("kind", "licence", "style", "twin_of")
    for row in read_columns(helpful, sources[f"source_{helpful.name}"], *columns):
        if row.failure is None:
            yield row.place, row.values["prompt"]
