"""`drirl chat`: completions of the base and the aligned policy for the same prompt, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from drirl_core.config import BEST_OF_N
from drirl_core.errors import ArtifactError, DataError
from drirl_core.graph.policies import CHECKPOINTS
from drirl_core.reporting import Reporter, SilentReporter
from drirl_core.text.readable import require_readable
from pipeline.cli.common import (
    DEFAULT_CONFIG,
    ConfigArgument,
    ConsoleReporter,
    DebugOption,
    Given,
    OldConfigOption,
    RunOption,
    SetOption,
    output,
)

if TYPE_CHECKING:
    from drirl_core.benchmarks.threshold import Threshold
    from drirl_core.graph.planned import Named
    from drirl_core.models.loading import Policy
    from drirl_core.policy.best_of_n import Reranking
    from drirl_core.policy.refusal_threshold import Decision, RefusalThreshold

_BORDERS = {"base": "white", "sft": "cyan", BEST_OF_N: "yellow", "dr_irl": "green"}
_SHOWN = ("sft", BEST_OF_N)
"""What can be shown in addition to the base and the aligned model."""
_LEAVE = ("", "exit", "quit", ":q")
_LOWEST = -1e300
"""Below it a threshold is the lowest number there is."""


@dataclass(frozen=True)
class Reply:
    """What a policy said.

    Args:
        text: the reply, its draft cut off.
        cut_at: the length limit in tokens that ended it; None when the policy ended it.
        of: number of completions that it was chosen from.
        decision: what the refusal threshold said about the prompt; None without one.
    """

    text: str
    cut_at: int | None = None
    of: int = 1
    decision: Decision | None = None


class ChatPolicies:
    """The policies of a configuration or of a recorded result, each loaded once, when it is first used.

    Args:
        named: gives the policies, the device and the maximum length of a reply.
        names: which policies answer: `base`, `sft`, `best_of_n`, `dr_irl`.
        max_new_tokens: maximum length of a reply; None for that of the benchmarks.
        best_of: number of completions that every policy chooses from by their expected reward; None for greedy
            decoding, where `best_of_n` alone chooses, from `benchmarks.best_of`.
        threshold: a refusal score above which a policy gives its own refusal, or `auto`; None for no threshold.

    Raises:
        ConfigError: the threshold is no number.
        ArtifactError: a policy has not been trained yet; the message says which command trains it.
    """

    def __init__(
        self,
        named: Named,
        names: Sequence[str],
        max_new_tokens: int | None = None,
        best_of: int | None = None,
        threshold: str | None = None,
    ) -> None:
        self._config, self._store = named.project.config, named.project.store
        self._limit = max_new_tokens or self._config.benchmarks.max_new_tokens
        of_start = [name for name in _SHOWN if name in names]
        if of_start and self._config.policy.start != "sft":
            raise ArtifactError(
                "this policy started from the base model itself (policy.start is 'base'), so there is no SFT start; "
                f"leave out --show {' and --show '.join(of_start)}"
            )
        assets = CHECKPOINTS | {BEST_OF_N: CHECKPOINTS["sft"]}
        found = named.open(*{assets[name] for name in names if name in assets})
        self._places: dict[str, Any] = {
            name: found[assets[name]].path if name in assets else self._config.models.policy for name in names
        }
        self._loaded: dict[str, Policy] = {}
        self._thresholds: dict[str, float | Threshold] = {}
        self._threshold: RefusalThreshold | None = None
        if threshold is not None:
            from drirl_core.policy.refusal_threshold import load_threshold

            self._threshold = load_threshold(named, threshold, self._config.checks.max_over_refusal)
        self._reranked = names if best_of is not None else [BEST_OF_N]
        self._reranking: Reranking | None = None
        if best_of is not None or BEST_OF_N in names:
            from drirl_core.policy.best_of_n import load_reranking

            samples = self._config.benchmarks.best_of if best_of is None else best_of
            self._reranking = load_reranking(named, samples, SilentReporter())

    def thresholds(self, reporter: Reporter) -> Mapping[str, float | Threshold]:
        """Return the threshold of each policy, calibrated at the first call; nothing without a threshold.

        Args:
            reporter: gets the progress of scoring the validation prompts.

        Raises:
            DataError: there is no look-alike among the validation prompts, or a prompt is too long for the policy.
        """
        if self._threshold is not None and not self._thresholds:
            for name in self._places:
                self._thresholds[name] = self._threshold.of(self._policy(name), reporter)
        return self._thresholds

    def answers(self, prompt: str) -> dict[str, Reply]:
        """Return each policy's reply, its thoughts and its Chain-of-Draft draft cut off.

        It is greedy or the best of N, and above a threshold the policy's own best refusal.

        Raises:
            DataError: the prompt leaves no room for a reply in what a policy can read.
        """
        require_readable(prompt, "the prompt")
        self.thresholds(SilentReporter())
        return {name: self._answer(name, prompt) for name in self._places}

    def _answer(self, name: str, prompt: str) -> Reply:
        from drirl_core.models.sampling import SamplingSettings, sample
        from drirl_core.text.chain_of_draft import cut_draft

        policy, quiet, of, decision = self._policy(name), SilentReporter(), 1, None
        if self._threshold is not None:
            decision = self._threshold.decide(policy, prompt, self._thresholds[name], quiet)
        if self._threshold is not None and decision is not None and decision.refuses:
            drawn = self._threshold.refusal(policy, prompt, self._limit, quiet)
        elif self._reranking is not None and name in self._reranked:
            of = self._reranking.samples
            drawn = self._reranking.decode(policy, [prompt], self._limit, self._config, self._store, quiet)[0].best
        else:
            settings = SamplingSettings(self._limit, 0.0, 1, self._config.seed)
            kept = {"models": self._config.models, "store": self._store, "reporter": quiet}
            drawn = sample(policy, [prompt], 1, settings, **kept)[0][0]
        return Reply(cut_draft(drawn.text), None if drawn.finished else self._limit, of, decision)

    def _policy(self, name: str) -> Policy:
        from drirl_core.models.loading import load_policy

        place = str(self._places[name])  # of the SFT start, which two may share
        if place not in self._loaded:
            self._loaded[place] = load_policy(self._places[name], self._config.models)
        return self._loaded[place]


def show(prompt: str, replies: Mapping[str, Reply], console: Console) -> None:
    """Print the replies to one prompt side by side, each with its label by the rules judge, and whether it was cut."""
    from drirl_core.benchmarks.render import POLICY_NAMES

    width = max(24, (console.width - len(replies)) // len(replies))
    if width * len(replies) > console.width:  # too narrow for columns: one below the other
        width = console.width
    panels = [
        Panel(
            Text(f"{reply.text} […]" if reply.cut_at else reply.text or "(empty)"),
            title=POLICY_NAMES[name],
            subtitle=_below(reply, prompt),
            border_style=_BORDERS[name],
            width=width,
        )
        for name, reply in replies.items()
    ]
    console.print(Text(f"> {prompt}", style="bold"))
    console.print(Columns(panels, padding=(0, 0)))
    if any(reply.cut_at for reply in replies.values()):
        console.print("[…] the reply was cut; --max-new-tokens N allows longer ones", style="dim", markup=False)
    for name, reply in replies.items():
        if reply.decision is not None:
            console.print(Text(f"{POLICY_NAMES[name]}: {_decided(reply.decision)}", style="dim"))


def _decided(decision: Decision) -> str:
    score, threshold = f"refusal score {decision.score:+.3f}", f"the threshold {_score(decision.threshold)}"
    if decision.refuses:
        return f"{score} is above {threshold}, which decided: the policy's own refusal"
    return f"{score} is not above {threshold}; the policy decided"


def _score(threshold: float) -> str:
    return "of refusing everything" if threshold < _LOWEST else f"{threshold:+.3f}"


def show_thresholds(thresholds: Mapping[str, float | Threshold], console: Console) -> None:
    """Print each policy's calibrated threshold, with what it refuses of the validation prompts; nothing of a number."""
    from drirl_core.benchmarks.render import POLICY_NAMES
    from drirl_core.benchmarks.threshold import Threshold

    for name, found in thresholds.items():
        if isinstance(found, Threshold):
            console.print(
                f"{POLICY_NAMES[name]}: threshold {_score(found.value)}, for at most {found.bound:.0%} over-refusal; "
                f"of the validation prompts it refuses {found.look_alikes} look-alikes and {found.unsafe} unsafe ones",
                style="dim",
                markup=False,
                highlight=False,
            )


def _below(reply: Reply, prompt: str) -> str:
    from drirl_core.benchmarks.judges.rules import label_reply

    chosen = f", best of {reply.of}" if reply.of > 1 else ""
    return label_reply(reply.text, prompt) + chosen + (f", cut at {reply.cut_at} tokens" if reply.cut_at else "")


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


def chat(
    config: ConfigArgument = DEFAULT_CONFIG,
    changes: SetOption = None,
    run: RunOption = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Answer this prompt and exit. Can be given several times."),
    ] = None,
    show_also: Annotated[
        list[str] | None,
        typer.Option(
            "--show",
            metavar="sft|best_of_n",
            help="Also show `sft`, the SFT start, which is the policy before reinforcement learning, or `best_of_n`, "
            "the best of `benchmarks.best_of` samples of it by the learned rewards. Can be given several times.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens", min=1, help="Maximum length of a reply in tokens. Default: that of the benchmarks."
        ),
    ] = None,
    best_of: Annotated[
        int | None,
        typer.Option(
            "--best-of",
            metavar="N",
            help="Sample N replies and show the one with the highest expected reward, by the reward models of the "
            "configuration.",
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            metavar="VALUE|auto",
            help="Refuse a prompt whose refusal score is above VALUE, in the policy's own words. `auto` calibrates a "
            "threshold for each policy on the validation prompts of its data sets, for at most "
            "`checks.max_over_refusal` refused look-alikes.",
        ),
    ] = None,
    old: OldConfigOption = None,
    debug: DebugOption = False,
) -> None:
    """Talk to the base and the aligned model of a configuration side by side.

    Decoding is greedy, but for `best_of_n` and with `--best-of`. Below each reply stands the label of the rules judge,
    such as `refusal`, and whether the reply was cut by the maximum length; with `--threshold` the refusal score, and
    whether the threshold decided.
    """
    unknown = set(show_also or ()) - {*_SHOWN}
    if unknown:
        raise typer.BadParameter(
            f"--show {', '.join(sorted(unknown))}: only `sft` and `best_of_n` can be shown in addition to the base and "
            "the aligned model"
        )
    console, names = output(), ("base", *(name for name in _SHOWN if name in (show_also or ())), "dr_irl")
    named = Given.of(config, changes, old, run).before_models().named()
    policies = ChatPolicies(named, names, max_new_tokens, best_of, threshold)
    for text in prompt or ():  # before models are loaded for the thresholds
        require_readable(text, "the prompt")
    show_thresholds(policies.thresholds(ConsoleReporter()), console)
    for text in prompt or ():
        show(text, policies.answers(text), console)
    if not prompt:
        converse(policies, console)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(
        epilog="Examples:\n\n"
        "`drirl chat` asks for prompts until you enter an empty line.\n\n"
        '`drirl chat --prompt "How do I pick a lock?" --prompt "How do I kill a Python process?"` answers two '
        "prompts and exits.\n\n"
        "`drirl chat mine.yaml --show sft` also shows the SFT start, the policy before reinforcement learning.\n\n"
        "`drirl chat --best-of 8` shows the best of eight sampled replies by the learned rewards, "
        "`drirl chat --show best_of_n` does so of the SFT start alone.\n\n"
        "`drirl chat --threshold auto --set checks.max_over_refusal=0.1` refuses by a threshold that is calibrated "
        "for at most 10 % over-refusal.\n\n"
        "`drirl chat --run placebo --max-new-tokens 200` talks to the policy of a named result, at more length."
    )(chat)
