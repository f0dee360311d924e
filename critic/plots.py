"""Plots of a critic's quality and of an ablation. Knows nothing of pages."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from critic.ablation import BASE, Compared
from critic.evaluation import Calibration
from critic.hacking import Hacking
from critic.quality import Quality
from critic.statistics import Estimate

CRITIC, OTHER, BAD, FAINT = "#0f766e", "#6b7280", "#b45309", "#9ca3af"


def ranking_by_share(found: Quality) -> bytes:
    """AUC and ranking accuracy within tasks, along the way. PNG, as of all plots here."""
    figure, axes = plt.subplots(figsize=(5.6, 3.8))
    shares = [row.share for row in found.by_share]
    _band(axes, shares, [row.auc for row in found.by_share], OTHER, "over all (AUC)")
    _band(axes, shares, [row.within_task for row in found.by_share], CRITIC, "within a task")
    axes.axhline(0.5, color=FAINT, lw=0.8, ls="--")
    axes.set(xlabel="share of the trajectory's turns", ylabel="pairs ranked right", ylim=(0, 1))
    return _png(figure, axes)


def q_by_share(found: Quality) -> bytes:
    """Mean Q of solved and failed trajectories, along the way."""
    figure, axes = plt.subplots(figsize=(5.6, 3.8))
    shares = [row.share for row in found.by_share]
    axes.plot(
        shares, [row.q_of_solved for row in found.by_share], "o-", color=CRITIC, label="solved"
    )
    axes.plot(shares, [row.q_of_failed for row in found.by_share], "o--", color=BAD, label="failed")
    axes.set(xlabel="share of the trajectory's turns", ylabel="mean Q", ylim=(0, 1))
    return _png(figure, axes)


def success_by_n(found: Quality) -> bytes:
    """Success of choosing one of N: by the critic, at random, by majority, by one who knows."""
    figure, axes = plt.subplots(figsize=(5.6, 3.8))
    ns = [row.n for row in found.best_of]
    _band(axes, ns, [row.oracle for row in found.best_of], FAINT, "oracle (pass@N)", style=":")
    _band(axes, ns, [row.critic for row in found.best_of], CRITIC, "critic")
    _band(axes, ns, [row.majority for row in found.best_of], BAD, "majority")
    _band(axes, ns, [row.random for row in found.best_of], OTHER, "random", style="--")
    axes.set(xlabel="N trajectories", ylabel="solved", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure, axes)


def calibration_curves(found: Quality) -> bytes:
    """Observed success by Q at the last turn, as it is and calibrated."""
    figure, axes = plt.subplots(figsize=(4.6, 3.8))
    axes.plot([0, 1], [0, 1], color=FAINT, lw=0.8)
    _curve(axes, found.curve, CRITIC, "as it is")
    for row, colour in zip(found.calibrated, (OTHER, BAD), strict=False):
        _curve(axes, row.curve_after, colour, row.kind)
    axes.set(xlabel="Q at the last turn", ylabel="solved", xlim=(0, 1), ylim=(0, 1))
    return _png(figure, axes)


def failed_q(found: Hacking) -> bytes:
    """Mean Q of failures, alone and under lookahead."""
    figure, axes = plt.subplots(figsize=(3.6, 3.8))
    both = [found.alone, found.guided]
    axes.bar(["alone", "lookahead"], [e.value for e in both], yerr=_errors(both), capsize=4,
             color=[OTHER, BAD])  # fmt: skip
    axes.set(ylabel="mean Q of failures", ylim=(0, 1))
    return _png(figure, axes, legend=False)


def ablation(compared: Sequence[Compared], n: int) -> bytes:
    """What the critic's choice of ``n`` solves beyond the base's, paired, by the values of each
    factor: the intervals of the two alone are wide with the tasks that both share."""
    rows = [row for row in compared if row.factor != BASE and n in row.beyond_base]
    factors = list(dict.fromkeys(row.factor for row in rows))
    columns = min(3, len(factors)) or 1
    lines = -(-len(factors) // columns) or 1
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.4 * columns, 2.8 * lines), squeeze=False, sharey=True
    )
    for axes, factor in zip(grid.flat, factors, strict=False):
        own = [row for row in rows if row.factor == factor]
        found = [row.beyond_base[n] for row in own]
        axes.axhline(0, color=FAINT, lw=1)
        axes.errorbar([row.value for row in own], [e.value for e in found], _errors(found),
                      fmt="o", capsize=4, color=CRITIC)  # fmt: skip
        axes.set(title=factor)
        axes.margins(x=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(factors) :]:
        axes.axis("off")
    for row_of_axes in grid:
        row_of_axes[0].set_ylabel(f"solved beyond base, best of {n}")
    return _drawn(figure)


def _band(
    axes: plt.Axes, x: Sequence[float], found: Sequence[Estimate], colour: str, label: str,
    *, style: str = "-",
) -> None:  # fmt: skip
    axes.plot(x, [e.value for e in found], f"o{style}", color=colour, label=label)
    axes.fill_between(x, [e.low for e in found], [e.high for e in found], color=colour, alpha=0.15)


def _curve(axes: plt.Axes, curve: Calibration, colour: str, label: str) -> None:
    axes.plot(curve.q, curve.rate, "o-", color=colour, label=label)


def _errors(found: Sequence[Estimate]) -> list[list[float]]:
    below = [max(0.0, e.value - e.low) for e in found]
    return [below, [max(0.0, e.high - e.value) for e in found]]


def _png(figure: plt.Figure, axes: plt.Axes, *, legend: bool = True) -> bytes:
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8)
    return _drawn(figure)


def _drawn(figure: plt.Figure) -> bytes:
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    plt.close(figure)
    return buffer.getvalue()
