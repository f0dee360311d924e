"""What was found of a critic, for people: tables on a terminal, Markdown, and one HTML file.
Measures nothing."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape
from rich.table import Table

from critic import plots
from critic.ablation import BASE, Compared
from critic.hacking import Hacking
from critic.quality import Quality
from critic.reselection import Decisions, Reselected
from critic.statistics import Estimate

_SHOWN = ("within_task_half", "within_task_last", "auc_half", "auc_last", "ece_last")


def quality_table(found: Quality) -> list[Table | str]:
    """What ``eval`` prints."""
    ranking = Table("turn", "AUC", "within a task", "precision", "ECE", "Brier",
                    "Q of solved", "of failed", box=None)  # fmt: skip
    for row in found.by_share:
        ranking.add_row(
            _turn(row.share), _range(row.auc), _range(row.within_task),
            f"{row.average_precision.value:.3f}", f"{row.ece:.3f}", f"{row.brier:.3f}",
            f"{row.q_of_solved:.3f}", f"{row.q_of_failed:.3f}",
        )  # fmt: skip
    chosen = Table("N", "tasks", "critic", "random", "majority", "oracle",
                   "critic less random", "less majority", "gap", box=None)  # fmt: skip
    for best in found.best_of:
        chosen.add_row(
            str(best.n), str(best.tasks), percent(best.critic), _value(best.random),
            _value(best.majority), _value(best.oracle), percent(best.over_random),
            percent(best.over_majority), _gap(best.gap_recovered),
        )  # fmt: skip
    fits = [
        f"{fit.kind}: ECE {fit.ece_before:.3f} to {fit.ece_after:.3f}, "
        f"Brier {fit.brier_before:.3f} to {fit.brier_after:.3f}"
        for fit in found.calibrated
    ]
    return [
        f"{found.trajectories} trajectories of {found.tasks} tasks, {found.solved:.1%} solved; "
        f"{found.mixed_tasks} tasks have a success and a failure"
        + (f"; {found.left_out} more under lookahead" if found.left_out else ""),
        ranking,
        "choosing one of N, percent of tasks solved (95 % interval over tasks)",
        chosen,
        *(["calibrated on other tasks", *fits] if fits else []),
        *([_hacking(found.hacking)] if found.hacking else []),
    ]


def reselection_table(
    rows: Sequence[Reselected], decisions: Decisions | None, *, before: str = "as recorded"
) -> list[Table | str]:
    """What ``reselect`` prints; ``before``: by whom it was chosen before."""
    table = Table("N", "tasks", before, "by this critic", "change", "oracle", box=None)
    for row in rows:
        table.add_row(
            str(row.n), str(row.tasks), percent(row.before), percent(row.after),
            percent(row.change), f"{100 * row.oracle:.1f}",
        )  # fmt: skip
    told: list[Table | str] = ["choosing one of N again, percent solved (95 % over tasks)", table]
    if decisions is not None:
        told += [
            f"deciding again: {decisions.steps} steps of {decisions.trajectories} trajectories; "
            f"the same choice at {decisions.same:.1%} of steps, and all the way in "
            f"{decisions.followed:.1%} of trajectories",
            f"success {percent(decisions.before)} as recorded, {percent(decisions.after)} "
            f"estimated: change {percent(decisions.change)} (an estimate: nothing was executed)",
        ]
    return told


def ablation_table(compared: Sequence[Compared]) -> str:
    """Markdown: a line for each value, with its difference to the base."""
    if not compared:
        return "Nothing found yet.\n"
    ns = [n for n in compared[0].best_of if n > 1]
    heads = ["", "seeds", *(f"best of {n}" for n in ns), *(f"beyond base, {n}" for n in ns)]
    heads += [f"by seed, {n}" for n in ns[-1:]]
    heads += [name.replace("_", " ") for name in _SHOWN]
    lines = [heads, ["---"] * len(heads)]
    for row in compared:
        name = BASE if row.factor == BASE else f"{row.factor} = {row.value}"
        cells = [
            name,
            str(row.seeds),
            *(percent(row.best_of[n]) if n in row.best_of else "" for n in ns),
        ]
        cells += [
            percent(row.beyond_base[n]) if n in row.beyond_base and row.factor != BASE else ""
            for n in ns
        ]
        cells += [" ".join(f"{100 * v:.1f}" for v in row.by_seed.get(n, [])) for n in ns[-1:]]
        lines.append([*cells, *(f"{row.metrics[name]:.3f}" for name in _SHOWN)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ablation_plots(compared: Sequence[Compared], folder: Path) -> None:
    """``ablation.png``."""
    ns = [n for n in compared[0].best_of if n > 1] if compared else []
    if ns:
        (folder / "ablation.png").write_bytes(plots.ablation(compared, ns[-1]))


def write_report(found: Quality, out: Path, *, critic: str, data: Sequence[str]) -> None:
    """One HTML file with its plots inside, and no scripts."""
    images = {
        "ranking": plots.ranking_by_share(found),
        "q": plots.q_by_share(found),
        "by_n": plots.success_by_n(found),
        "calibration": plots.calibration_curves(found),
    }
    if found.hacking is not None:
        images["hacking"] = plots.failed_q(found.hacking)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(["html"])
    )
    environment.filters |= {"percent": percent, "turn": _turn, "range": _range, "gap": _gap}
    page = environment.get_template("report.html").render(
        found=found,
        critic=critic,
        data=data,
        images={name: base64.b64encode(png).decode() for name, png in images.items()},
        hacking=_hacking(found.hacking) if found.hacking else None,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def percent(found: Estimate) -> str:
    """``51.6 (46.2 to 57.0)``."""
    return f"{100 * found.value:.1f} ({found.between(lambda end: f'{100 * end:.1f}')})"


def _hacking(found: Hacking) -> str:
    told = (
        f"mean Q of failures on {found.tasks} tasks: {found.alone.value:.3f} alone, "
        f"{found.guided.value:.3f} under lookahead; rise {_range(found.rise)} at the last turn, "
        f"{_range(found.rise_on_the_way)} on the way"
    )
    return f"{told}: lookahead finds this critic's errors" if found.rise.low > 0 else told


def _turn(share: float) -> str:
    return {0.0: "first", 1.0: "last"}.get(share, f"at {share:.0%}")


def _range(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.between('{:.3f}'.format)})"


def _value(found: Estimate) -> str:
    return f"{100 * found.value:.1f}"


def _gap(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.2f}"
