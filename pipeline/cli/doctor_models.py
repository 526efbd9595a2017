"""What `drirl doctor` finds in models before a run loads them: files that fit together, adapters, and lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from drirl_core.config import Config
from drirl_core.errors import DrirlError
from drirl_core.project import Project
from pipeline.cli.doctor_checks import Check


def check_policy(project: Project) -> Iterator[Check]:
    """Render a turn, compare tokens with rows, adapters with layers, and prompts with what the policy can read.

    Args:
        project: the configuration, its graph and its sources.
    """
    from drirl_core.preflight import looking

    config = project.config
    try:
        policy = looking.look_at_policy(config.models.policy, config.models)
    except DrirlError as error:
        yield Check("policy tokens and template", "fail", str(error))
        return
    if policy is None:
        return
    yield Check("policy tokens and template", "ok", policy.said)
    yield _one("demonstrator", lambda: looking.look_at_demonstrator(config), "fits together, where there is one")
    yield _one("adapters", lambda: looking.adapter_problems(config, policy), "every target is a layer of the policy")
    yield _one("lengths", lambda: looking.room_problems(project, policy), "every prompt leaves room for its completion")


def check_options(config: Config) -> Iterator[Check]:
    """Make TRL's arguments with the user's options, and look for the trackers' packages, where there are any.

    Args:
        config: the complete configuration.
    """
    from drirl_core.policy.options import option_problems, options_in

    given = [f"{section}: {', '.join(options)}" for section, options in options_in(config).items()]
    given += [f"execution.report_to: {', '.join(config.execution.report_to)}"] if config.execution.report_to else []
    if given:
        yield _one("training options", lambda: option_problems(config), "; ".join(given))


def check_sampler(config: Config) -> Check:
    """Look for the package of the sampler that the configuration chooses.

    Args:
        config: names the sampler, and where its engine is.
    """
    from drirl_core.models.packages import vllm_problems

    where = (
        f" in {config.execution.vllm.python}"
        if config.execution.sampler == "vllm" and config.execution.vllm.python
        else ""
    )
    return _one("sampler", lambda: vllm_problems(config.execution), f"{config.execution.sampler}{where}")


def check_quantization(config: Config) -> Iterator[Check]:
    """Look for the package that holds weights in four bits, where they are to be held so.

    Args:
        config: says how weights are held.
    """
    from drirl_core.models.packages import quantization_problems

    chosen = config.models.quantization
    if chosen != "none":
        yield _one("quantization", lambda: quantization_problems(chosen), f"{chosen}: bitsandbytes is here")


def check_encoder(config: Config) -> Check:
    """Load the sentence encoder and encode a long text.

    Args:
        config: names the encoder.
    """
    from drirl_core.models.loading import load_encoder
    from drirl_core.models.probe import probe_encoder

    try:
        said = probe_encoder(config.models.encoder, load_encoder(config.models.encoder, config.models))
    except DrirlError as error:
        return Check("encoder on a long text", "fail", str(error))
    return Check("encoder on a long text", "ok", said)


def _one(name: str, look: Callable[[], Iterator[str]], fine: str) -> Check:
    """Return one check for everything that a look finds."""
    try:
        problems = list(look())
    except DrirlError as error:
        problems = [str(error)]
    return Check(name, "fail", "; ".join(problems)) if problems else Check(name, "ok", fine)
