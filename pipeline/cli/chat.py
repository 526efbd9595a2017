"""`drirl chat`: completions of the base and the aligned policy for the same prompt, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from drirl_core.benchmarks.judges.rules import label_reply
from drirl_core.config import ModelsConfig, from_resolved
from drirl_core.errors import ArtifactError, ConfigError, DataError
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter
from drirl_core.store.artifacts import Artifact, ArtifactStore
from drirl_core.text.readable import require_readable

TITLES = {"base": "base", "sft": "SFT start", "dr_irl": "DR-IRL"}
_BORDERS = {"base": "white", "sft": "cyan", "dr_irl": "green"}
_LEAVE = ("", "exit", "quit", ":q")


class ChatPolicies:
    """The policies of the latest run, each loaded once, when it is first used.

    Args:
        project: gives the artifact store, the device and the maximum length of a reply.
        names: which policies answer: `base`, `sft`, `dr_irl`.

    Raises:
        ArtifactError: a policy has not been trained yet.
    """

    def __init__(self, project: Project, names: Sequence[str]) -> None:
        self._config, self._store = project.config, project.store
        aligned = trained(self._store, "policy_checkpoint")
        self.models = models_of(aligned, project.config.models)
        places: dict[str, Any] = {"base": self.models.policy, "dr_irl": aligned.path}
        if "sft" in names:
            places["sft"] = sft_start(self._store, aligned).path
        self._places = {name: places[name] for name in names}
        self._loaded: dict[str, Any] = {}

    def answers(self, prompt: str) -> dict[str, str]:
        """Return each policy's greedy reply, its thoughts and its Chain-of-Draft draft cut off.

        Raises:
            DataError: the prompt leaves no room for a reply in what a policy can read.
        """
        require_readable(prompt, "the prompt")
        from drirl_core.models.loading import load_policy
        from drirl_core.models.sampling import SamplingSettings, sample
        from drirl_core.text.chain_of_draft import cut_draft

        settings = SamplingSettings(self._config.benchmarks.max_new_tokens, 0.0, 1, self._config.seed)
        replies: dict[str, str] = {}
        for name, place in self._places.items():
            if name not in self._loaded:
                self._loaded[name] = load_policy(place, self.models)
            drawn = sample(
                self._loaded[name],
                [prompt],
                1,
                settings,
                models=self.models,
                store=self._store,
                reporter=SilentReporter(),
            )
            replies[name] = cut_draft(drawn[0][0].text)
        return replies


def trained(store: ArtifactStore, asset: str) -> Artifact:
    """Return the latest artifact of an asset.

    Raises:
        ArtifactError: there is none.
    """
    found = store.latest(asset)
    if found is None:
        raise ArtifactError(
            f"there is no {asset} under {store.place} yet; create one with `drirl run`, or pass the settings of "
            "another run with --config"
        )
    return found


def sft_start(store: ArtifactStore, aligned: Artifact) -> Artifact:
    """Return the checkpoint from which the training of the aligned policy started.

    Raises:
        ArtifactError: it started from the base model, or the checkpoint is gone.
    """
    version = aligned.manifest.get("inputs", {}).get("sft_checkpoint")
    if version is None:
        raise ArtifactError(
            "this policy started from the base model itself (policy.start is 'base'), so there is no SFT start; "
            "leave out --show sft"
        )
    return store.open("sft_checkpoint", version)


def models_of(aligned: Artifact, models: ModelsConfig) -> ModelsConfig:
    """Return the model settings with the base model and encoder that the aligned policy was trained with."""
    try:
        then = from_resolved(aligned.manifest["config"]).models
    except (KeyError, TypeError, ConfigError):  # written by an older version: use the current settings
        return models
    return dataclasses.replace(models, policy=then.policy, encoder=then.encoder)


def show(prompt: str, replies: Mapping[str, str], console: Console) -> None:
    """Print the replies to one prompt side by side, each with the label that the rules judge gives it."""
    width = max(24, (console.width - len(replies)) // len(replies))
    if width * len(replies) > console.width:  # too narrow for columns: one below the other
        width = console.width
    panels = [
        Panel(
            Text(reply or "(empty)"),
            title=TITLES[name],
            subtitle=label_reply(reply, prompt),
            border_style=_BORDERS[name],
            width=width,
        )
        for name, reply in replies.items()
    ]
    console.print(Text(f"> {prompt}", style="bold"))
    console.print(Columns(panels, padding=(0, 0)))


def converse(policies: ChatPolicies, console: Console) -> None:
    """Ask for prompts until an empty line, `exit` or the end of input."""
    console.print(
        "Type a prompt. An empty line or `exit` ends the chat. Each prompt is independent: earlier ones are not "
        "remembered.",
        style="dim",
    )
    while True:
        try:
            prompt = console.input("[bold]you>[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if prompt.lower() in _LEAVE:
            return
        try:
            with console.status("sampling"):
                replies = policies.answers(prompt)
        except DataError as error:  # this prompt cannot be read; the next one may be
            console.print(Text(f"Error: {error}", style="red"))
            continue
        show(prompt, replies, console)
