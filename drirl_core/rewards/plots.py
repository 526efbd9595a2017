"""Pictures of a reward model: learning curve, rewards, accuracy, calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drirl_core.pictures.palette import key_of, on_white
from drirl_core.rewards.fit import Epoch

_MAIN, _SECOND, _THIRD, _PALE = (on_white(key) for key in ("accent", "k1", "k2", "pale"))


def plot_curve(curve: Sequence[Epoch], best: int, file: Path, title: str) -> None:
    """Draw losses and validation accuracy by epoch, the kept epoch marked."""
    epochs = [point.epoch for point in curve]

    def draw(axis: Any) -> None:
        axis.plot(epochs, [point.train_loss for point in curve], color=_MAIN, label="training loss")
        axis.plot(epochs, [point.validation_loss for point in curve], color=_SECOND, label="validation loss")
        axis.axvline(best, color=_PALE, linestyle="--", linewidth=1, label=f"kept: epoch {best}")
        axis.set_xlabel("epoch")
        axis.set_ylabel("loss")
        other = axis.twinx()
        other.plot(
            epochs,
            [point.validation_accuracy for point in curve],
            color=_THIRD,
            linestyle=":",
            label="validation accuracy",
        )
        other.set_ylim(0, 1.02)
        other.set_ylabel("accuracy")
        lines = [*axis.get_lines(), *other.get_lines()]
        other.tick_params(labelsize=7)
        axis.legend(lines, [line.get_label() for line in lines], fontsize=7, loc="center right")

    save_figure(draw, file, title)


def plot_rewards(rewards: Mapping[str, Sequence[float]], file: Path, title: str) -> None:
    """Draw how rewards are spread, one outline for the demonstrations and each policy."""

    def draw(axis: Any) -> None:
        values = [value for group in rewards.values() for value in group]
        low, high = min(values), max(values)
        edges = [low + (high - low or 1.0) * i / 24 for i in range(25)]
        for name, group in rewards.items():
            axis.hist(
                group,
                bins=edges,
                density=True,
                histtype="step",
                linewidth=2.0 if name == "demonstration" else 1.2,
                color=on_white(key_of(name, list(rewards))),
                label=f"{name} ({len(group)})",
            )
        axis.set_xlabel("reward (standard deviations of the training pool)")
        axis.set_ylabel("density")
        axis.legend(fontsize=7)

    save_figure(draw, file, title)


def plot_accuracy(rows: Mapping[str, Mapping[str, float]], file: Path, title: str) -> None:
    """Draw shares of won pairs with their Wilson intervals, one bar per row."""

    def draw(axis: Any) -> None:
        names = list(rows)[::-1]
        shares = [rows[name]["accuracy"] for name in names]
        below = [max(0.0, rows[name]["accuracy"] - rows[name]["low"]) for name in names]
        above = [max(0.0, rows[name]["high"] - rows[name]["accuracy"]) for name in names]
        axis.barh(range(len(names)), shares, color=_MAIN, xerr=[below, above], ecolor="black", capsize=2)
        axis.set_yticks(range(len(names)), [f"{name} (n={rows[name]['n']})" for name in names], fontsize=7)
        axis.axvline(0.5, color=_PALE, linestyle="--", linewidth=1)
        axis.set_xlim(0, 1)
        axis.set_xlabel("share of pairs won, Wilson 95 %")

    save_figure(draw, file, title, height=1.2 + 0.24 * len(rows))


def plot_calibration(reliability: Sequence[Mapping[str, float]], ece: float, file: Path, title: str) -> None:
    """Draw accuracy against confidence, dots sized by the number of pairs."""

    def draw(axis: Any) -> None:
        most = max((row["n"] for row in reliability), default=1)
        axis.plot([0.5, 1], [0.5, 1], color=_PALE, linestyle="--", linewidth=1)
        axis.scatter(
            [row["confidence"] for row in reliability],
            [row["accuracy"] for row in reliability],
            s=[20 + 120 * row["n"] / most for row in reliability],
            color=_MAIN,
        )
        axis.set_xlim(0.48, 1.02)
        axis.set_ylim(-0.02, 1.05)
        axis.set_xlabel("confidence sigmoid(|gap|)")
        axis.set_ylabel("share right")
        axis.text(0.5, 0.02, f"ECE {ece:.3f}", fontsize=8)

    save_figure(draw, file, title)


def save_figure(draw: Callable[[Any], None], file: Path, title: str, height: float = 3.2) -> None:
    """Draw one axis and write it, the same bytes for equal data.

    Args:
        draw: fills a matplotlib axis.
        file: PNG to write.
        title: heading.
        height: inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, height), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    draw(axis)
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)
    figure.savefig(file, dpi=110, metadata={"Software": None})
