"""Pictures of benchmark results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drirl_core.benchmarks.measure import ALL
from drirl_core.benchmarks.render import POLICY_NAMES, curve_name, on_roc
from drirl_core.pictures.palette import key_of, on_white

_MARKERS = "osD^v"


def refusal_bars(results: Mapping[str, Any], file: Path, group: str = "unsafe") -> bool:
    """Draw refusal rates per category with Wilson 95 % intervals, one bar per policy.

    Args:
        results: content of `results.json`.
        file: PNG to write.
        group: whose categories.

    Returns:
        Whether there was anything to draw; without rows of the group no file is written.
    """
    rates = {(r["category"], r["policy"]): r for r in results["rates"] if r["group"] == group}
    categories = [c for c in dict.fromkeys(category for category, _ in rates) if c != ALL]
    if not categories:
        return False
    categories.append(ALL)
    policies = results["policies"]
    figure, axis = _figure(6.4, 1.2 + 0.22 * len(categories) * (len(policies) + 1))
    height = 1 / (len(policies) + 1)
    for number, policy in enumerate(policies):
        own = [rates[category, policy] for category in categories]
        places = [index + height * (number - (len(policies) - 1) / 2) for index in range(len(categories))]
        errors = [[max(0.0, r["rate"] - r["low"]) for r in own], [max(0.0, r["high"] - r["rate"]) for r in own]]
        axis.barh(
            places,
            [r["rate"] for r in own],
            height,
            xerr=errors,
            label=POLICY_NAMES.get(policy, policy),
            color=on_white(key_of(policy, policies)),
            error_kw={"elinewidth": 0.8, "capsize": 1.5},
        )
    axis.set_yticks(range(len(categories)), [category.replace("_", " ") for category in categories], fontsize=8)
    axis.set_ylim(len(categories) - 0.5, -0.5)  # first category on top
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"share of {group.replace('_', ' ')} prompts refused, Wilson 95 %")
    figure.legend(fontsize=8, loc="outside upper center", ncols=len(policies), frameon=False)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return True


def balance_scatter(results: Mapping[str, Any], file: Path) -> bool:
    """Draw refusal of unsafe prompts against over-refusal of safe ones, one point per policy.

    The best corner is top left.

    Args:
        results: content of `results.json`.
        file: PNG to write.

    Returns:
        Whether the suite has both groups; otherwise no file is written.
    """
    points = [row for row in results["summary"] if row["refusal"] is not None and row["over_refusal"] is not None]
    if not points:
        return False
    figure, axis = _figure(4.6, 4.2)
    axis.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=":")
    for number, row in enumerate(points):
        x, y = row["over_refusal"], row["refusal"]
        axis.errorbar(
            x,
            y,
            xerr=[[max(0.0, x - row["over_refusal_low"])], [max(0.0, row["over_refusal_high"] - x)]],
            yerr=[[max(0.0, y - row["refusal_low"])], [max(0.0, row["refusal_high"] - y)]],
            fmt=_MARKERS[number % len(_MARKERS)],
            color=on_white(key_of(row["policy"], results["policies"])),
            capsize=2,
            elinewidth=0.9,
            label=POLICY_NAMES.get(row["policy"], row["policy"]),
        )
    axis.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        xlabel="over-refusal of safe look-alikes",
        ylabel="refusal of unsafe prompts",
    )
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="lower right")
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return True


def roc_curves(results: Mapping[str, Any], file: Path) -> bool:
    """Draw the ROC curve of every examinee and, as a marker, its operating point.

    Args:
        results: content of `results.json`.
        file: PNG to write.

    Returns:
        Whether there is a curve; otherwise no file is written.
    """
    curves = results["roc"]
    if not curves:
        return False
    figure, axis = _figure(4.8, 4.6)
    axis.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=":")
    for row in on_roc(results):
        reference = row["kind"] == "reference"
        number = 0 if reference else results["policies"].index(row["name"])
        colour = on_white(key_of(row["name"], results["policies"]))
        name = curve_name(row) + (f", AUC {row['auc']:.3f}" if row["auc"] is not None else "")
        dash = {"floor": ":", "ceiling": "--"}.get(row["name"], "-")
        x, y = zip(*curves[row["name"]], strict=True) if row["name"] in curves else ((), ())
        axis.plot(x, y, color=colour, linewidth=1.2, linestyle=dash, label=name)
        axis.plot(
            [row["over_refusal"]], [row["refusal"]], marker="*" if reference else _MARKERS[number % len(_MARKERS)],
            color=colour, markeredgecolor="black", markersize=7, linestyle="",
        )  # fmt: skip
    axis.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        xlabel="over-refusal of safe look-alikes",
        ylabel="refusal of unsafe prompts",
    )
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, loc="lower right", title="marker: operating point", title_fontsize=7)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return True


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot, which keeps state of its own

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()
