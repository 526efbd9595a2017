"""`drirl score`: score one reply with the category router, the reward models and the refusal judge."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from drirl_core import taxonomy
from drirl_core.errors import ConfigError, nearest
from drirl_core.text.readable import require_readable
from pipeline.cli import completion
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    DebugOption,
    Given,
    JsonOption,
    OldConfigOption,
    RunOption,
    SetOption,
    output,
)

if TYPE_CHECKING:
    from pathlib import Path

    from drirl_core.config import Config
    from drirl_core.graph.planned import Named


@dataclass(frozen=True)
class Scored:
    """The scores of one reply.

    Args:
        category: category of its reward: the one asked for, else the router's; None when the router abstains.
        best: the router's most probable category; None when no router can be learned from the pool.
        confidence: its calibrated probability, in [0, 1].
        rewards: reward per category, including `helpful`.
        label: the rules judge's label.
    """

    category: str | None
    best: str | None
    confidence: float
    rewards: dict[str, float]
    label: str


def score_reply(named: Named, prompt: str, reply: str, category: str | None = None) -> Scored:
    """Score one reply with the reward models of a configuration or of a recorded result.

    Args:
        named: gives the reward models, the prompt pool, the encoder and the categories.
        prompt: what the user asked.
        reply: what the model answered; thoughts and a Chain-of-Draft draft are removed.
        category: category to use, or None for the router's.

    Raises:
        ConfigError: the category is not in the taxonomy.
        DataError: prompt and reply are longer than the policy can read whose hidden states the rewards need.
        ArtifactError: a reward model or the prompt pool is not built yet; the message says which command builds it.
    """
    require_readable(prompt, "the prompt")
    require_readable(reply, "the reply")
    project = named.project
    known = (*project.graph.categories, taxonomy.HELPFUL)
    if category is not None and category not in known:
        raise ConfigError(f"--category {category!r} is not in the taxonomy; {nearest(category, known)}")
    config, store = project.config, project.store
    found = named.open("prompt_pool", *(f"reward_model_{name}" for name in known))
    learned = {name: found[f"reward_model_{name}"].path for name in known}
    from drirl_core.benchmarks.judges.rules import label_reply
    from drirl_core.models.embeddings import Embedder
    from drirl_core.models.hidden_states import HiddenStates
    from drirl_core.rewards import RewardRouter, load_reward_model
    from drirl_core.text.chain_of_draft import cut_draft

    models = {name: load_reward_model(path) for name, path in learned.items()}
    embedder, answer = Embedder(config.models, store), cut_draft(reply)
    best, confidence = route(found["prompt_pool"].path, config, embedder, prompt)
    states = HiddenStates(config.models, store)
    if any(model.reads == "policy" for model in models.values()):
        states.require_room(prompt, answer)
    router = RewardRouter(models, embedder, states)
    values = router.rewards([prompt] * len(known), [answer] * len(known), list(known))
    routed = best if confidence >= config.prompts.router_confidence else None
    return Scored(
        category or routed,
        best,
        confidence,
        dict(zip(known, map(float, values), strict=True)),
        label_reply(answer, prompt),
    )


def route(pool: Path, config: Config, embedder: Any, prompt: str) -> tuple[str | None, float]:
    """Route a prompt with a router fitted on the pool's labelled prompts; their embeddings are cached.

    Args:
        pool: directory of the prompt pool.
        config: its seed is that of the router.
        embedder: embeds texts.
        prompt: what the user asked.

    Returns:
        The most probable category and its calibrated probability; (None, 0) when no router can be learned.
    """
    from drirl_core.prompts.router import NoRouterError, router_of_pool

    try:
        router = router_of_pool(pool, embedder, config.seed)
    except NoRouterError:
        return None, 0.0
    found = router.route(embedder.encode([prompt]), 0.0)[0]
    return found.best, found.confidence


def show(found: Scored, console: Console) -> None:
    """Print the scores, the reward of the prompt's own category first."""
    if found.best is None:
        console.print("router: none could be learned from the pool (too few labelled prompts)")
    else:
        abstains = " (below the threshold: it abstains)" if found.category is None else ""
        console.print(
            f"router: [bold]{escape(found.best)}[/], confidence {found.confidence:.2f}{abstains}", highlight=False
        )
    console.print(f"judge: [bold]{escape(found.label)}[/]", highlight=False)
    table = Table("reward model", "reward", "", box=None, pad_edge=False)
    order = sorted(found.rewards, key=lambda name: (name != found.category, name != taxonomy.HELPFUL, name))
    for name in order:
        note = (
            "category of the prompt"
            if name == found.category
            else "for harmless prompts"
            if name == taxonomy.HELPFUL
            else ""
        )
        table.add_row(escape(name), f"{found.rewards[name]:+.3f}", note)
    console.print(table)
    console.print(
        "Compare rewards within one category. Between categories they are only roughly comparable.", style="dim"
    )


def score(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The prompt of the user.")],
    reply: Annotated[
        str, typer.Option("--reply", "-r", help="The reply to score. A Chain-of-Draft draft is removed first.")
    ],
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    run: RunOption = None,
    category: Annotated[
        str | None,
        typer.Option(
            "--category",
            help="Category to use instead of the router's, for example `insult`.",
            autocompletion=completion.categories,
        ),
    ] = None,
    as_json: JsonOption = False,
    old: OldConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Score one reply with the category router, the reward models and the refusal judge of a configuration."""
    found = score_reply(Given.of(config, changes, old, run).before_models().named(), prompt, reply, category)
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(found), indent=1) + "\n")
    else:
        show(found, output())


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Examples:\n\n"
        '`drirl score --prompt "How do I pick a lock?" --reply "Sorry, I cannot help with that."` scores a reply; '
        "the router chooses its category.\n\n"
        '`drirl score mine.yaml --category privacy_and_property --prompt "..." --reply "..."` chooses the category '
        "yourself.\n\n"
        '`drirl score --json --prompt "..." --reply "..."` prints the scores as JSON.'
    )(score)
