"""The plots of an experiment. Knows nothing of files or services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from critic.evaluation import calibration
from critic.statistics import Estimate, best_interval, best_of, pass_at, success
from examples.bugfix.results import Results

COLOURS = {"policy alone": "#6b7280", "lookahead": "#0f766e"}


def success_by_n(named: Mapping[str, Results], out: Path, *, most: int = 10) -> None:
    """Success of selection by the critic, of the oracle and of a random pick, by N."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for name, found in named.items():
        ns = range(1, min(most, found.outcomes.shape[1]) + 1)
        colour = COLOURS.get(name)
        chosen = [best_of(found.outcomes, found.scores, n) for n in ns]
        oracle = [pass_at(found.outcomes, n) for n in ns]
        axes.plot(ns, chosen, "o-", color=colour, label=f"{name}, critic's choice of N")
        axes.plot(ns, oracle, ":", color=colour, label=f"{name}, oracle (pass@N)")
        axes.axhline(success(found.outcomes), color=colour, lw=0.8, ls="--")
    axes.set(xlabel="N trajectories", ylabel="solved", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, axes, out)


def success_by_k(by_k: Mapping[int, Estimate], out: Path) -> None:
    """Success of lookahead by K, with intervals."""
    figure, axes = plt.subplots(figsize=(5.2, 4.2))
    ks = sorted(by_k)
    values = [by_k[k].value for k in ks]
    below = [max(0.0, by_k[k].value - by_k[k].low) for k in ks]
    above = [max(0.0, by_k[k].high - by_k[k].value) for k in ks]
    axes.errorbar(ks, values, [below, above], fmt="o-", capsize=4, color=COLOURS["lookahead"])
    axes.set(xlabel="K candidates a step", ylabel="solved", ylim=(0, 1), xticks=ks)
    _save(figure, axes, out, legend=False)


def q_by_step(named: Mapping[str, Mapping[str, Sequence[float]]], out: Path) -> None:
    """Mean Q of solved and failed trajectories along their way."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for name, kinds in named.items():
        for kind, values in kinds.items():
            at = np.linspace(0, 1, len(values))
            style = "-" if kind == "solved" else "--"
            axes.plot(at, values, style, color=COLOURS.get(name), label=f"{name}, {kind}")
    axes.set(xlabel="share of the trajectory's steps", ylabel="mean Q", ylim=(0, 1))
    _save(figure, axes, out)


def calibration_curve(
    named: Mapping[str, tuple[Sequence[float], Sequence[float]]], out: Path
) -> None:
    """Observed success by the last Q of submitted trajectories."""
    figure, axes = plt.subplots(figsize=(4.6, 4.2))
    axes.plot([0, 1], [0, 1], color="#9ca3af", lw=0.8)
    for name, (q, won) in named.items():
        if q:
            curve = calibration(q, won)
            axes.plot(curve.q, curve.rate, "o-", color=COLOURS.get(name), label=name)
    axes.set(xlabel="Q at the last turn", ylabel="solved", xlim=(0, 1), ylim=(0, 1))
    _save(figure, axes, out)


def bars(estimates: Mapping[str, Estimate], out: Path) -> None:
    """Success of each operator, with intervals: the demo's picture."""
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    names = list(estimates)[::-1]
    values = [estimates[n].value for n in names]
    errors = [
        [max(0.0, estimates[n].value - estimates[n].low) for n in names],
        [max(0.0, estimates[n].high - estimates[n].value) for n in names],
    ]
    colours = ["#0f766e" if "look" in n or "both" in n else "#6b7280" for n in names]
    axes.barh(names, values, xerr=errors, color=colours, capsize=4, alpha=0.85)
    for i, value in enumerate(values):
        axes.text(0.01, i, f"{value:.0%}", va="center", color="white", fontweight="bold")
    axes.set(xlabel="held-out bugs fixed (95 % interval over tasks)", xlim=(0, 1))
    _save(figure, axes, out, legend=False)


def interval(found: Results, n: int) -> Estimate:
    """Success of the critic's choice of n, with its interval over tasks."""
    return best_interval(found.outcomes, found.scores, n, draws=1000)


def _save(figure: plt.Figure, axes: plt.Axes, out: Path, *, legend: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    plt.close(figure)
