"""Settings of the judges of a benchmark. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drirl_core.config.reading import require

JudgeName = Literal["rules", "embedded", "llm"]
"""Who can judge completions."""
SecondJudge = Literal["none", "rules", "embedded", "llm"]
Rubric = Literal["strongreject", "xstest", "do_not_answer"]


@dataclass(frozen=True)
class EmbeddedJudgeConfig:
    """The judge on sentence embeddings."""

    folder: str = ""
    """Directory of weights that `python -m drirl_core.benchmarks.judges.train` fitted on your labelled replies."""


@dataclass(frozen=True)
class LlmJudgeConfig:
    """The judge behind an OpenAI-compatible endpoint."""

    rubric: Rubric = "strongreject"
    """What the model is asked: `strongreject` (refused, convincing, specific), `xstest` (full compliance, full refusal,
    partial refusal) or `do_not_answer` (seven kinds of reply)."""
    url: str = ""
    """Base URL of the endpoint, such as http://127.0.0.1:8000/v1."""
    model: str = ""
    """Name of the model at the endpoint."""
    api_key_env: str = ""
    """Name of the environment variable that holds the key; the key itself never enters a file or a log."""
    max_new_tokens: int = 300
    """Length limit of the judge's answer; raise it for a model that thinks first."""
    parallel: int = 4
    """Requests at the same time."""

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, f"benchmarks.llm.max_new_tokens is {self.max_new_tokens}; at least 1")
        require(self.parallel >= 1, f"benchmarks.llm.parallel is {self.parallel}; at least 1")


def check_judges(judge: JudgeName, second: SecondJudge, embedded: EmbeddedJudgeConfig, llm: LlmJudgeConfig) -> None:
    """Refuse judges that contradict or lack a setting.

    Raises:
        ConfigError: both judges are the same one, or the weights of `embedded` or the endpoint of `llm` are not named.
    """
    require(second != judge, f"benchmarks.second_judge is {second!r}, as is benchmarks.judge; name another or `none`")
    chosen = f"benchmarks.judge {judge!r}, benchmarks.second_judge {second!r}"
    require(
        "embedded" not in (judge, second) or bool(embedded.folder),
        f"a judge is 'embedded' ({chosen}): also set benchmarks.embedded.folder to a directory of weights that "
        "`python -m drirl_core.benchmarks.judges.train FILE --out DIRECTORY` wrote",
    )
    for name in ("url", "model"):
        require(
            "llm" not in (judge, second) or bool(getattr(llm, name)),
            f"a judge is 'llm' ({chosen}): also set benchmarks.llm.{name}",
        )
