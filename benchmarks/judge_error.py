"""How often the judges are wrong on labelled replies: `python -m benchmarks.judge_error`.

The set that comes with the package is always measured; `--xstest` adds XSTest's annotated completions, prompts whose
SHA-256 is odd alone, and `--rbr-gold` the rows of that set that are of one kind. `--weights` adds the embedded judge.
The llm judge is measured by `drirl judge`, as its figures are of a model of yours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.machine import write
from drirl_core.benchmarks.judges.error import RESAMPLES, SEED, measure
from drirl_core.benchmarks.judges.labelled import HAND_READ, read_labelled_set
from drirl_core.benchmarks.judges.verdicts import EmbeddedJudge, Judge, RulesJudge
from drirl_core.project import Project
from drirl_core.reporting import SilentReporter


def main() -> None:
    """Measure and write benchmarks/results/judge_error.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xstest", help="xstest_annotated_completions.csv")
    parser.add_argument("--rbr-gold", help="directory with train.jsonl and test.jsonl")
    parser.add_argument("--weights", help="directory of the embedded judge's weights, fitted on prompts of even hash")
    parser.add_argument("--config", default="configs/demo.yaml", help="names where models and embeddings are kept")
    arguments = parser.parse_args()
    sets = [read_labelled_set(HAND_READ)]
    if arguments.xstest:
        sets.append(read_labelled_set(arguments.xstest, held_out=True))
    if arguments.rbr_gold:
        sets += [read_labelled_set(str(Path(arguments.rbr_gold) / f"{part}.jsonl")) for part in ("train", "test")]
    judges: list[Judge] = [RulesJudge()]
    if arguments.weights:
        project = Project.load(arguments.config)
        judges.append(EmbeddedJudge(Path(arguments.weights), project.config.models, project.store, SilentReporter()))
    write(
        "judge_error",
        {
            "what": "errors of judges on labelled replies; Wilson 95 %, rate errors by paired bootstrap",
            "resamples": RESAMPLES,
            "seed": SEED,
            "data": [measure(judge, labelled)[0] for labelled in sets for judge in judges],
        },
    )


if __name__ == "__main__":
    main()
