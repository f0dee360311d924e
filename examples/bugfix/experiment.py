"""The experiment: both operators on all held-out tasks, several seeds. Writes docs/experiments.md
and its plots. Taken up where it was left.

    make experiment
    python -m examples.bugfix.experiment --only report
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from critic.evaluation import auc, brier, ece
from critic.hacking import hacking
from critic.judged import Judged, recorded
from critic.statistics import (
    Estimate,
    best_interval,
    best_of,
    difference,
    gap_recovered,
    pass_at,
    success,
)
from critic.trajectory import read_trajectories
from examples.bugfix import ablation, plots, rounds
from examples.bugfix.collect import MAX_MODEL_LEN, POLICY_ARGUMENTS, collect, strategy, tasks_of
from examples.bugfix.results import Regime, Results, last_qs, q_by_progress, results
from pilotfish import AsyncPilotfish
from search.errors import SearchError
from service.local.stack import StackSettings, local_stack

CHECKPOINTS = Path(__file__).parent / "checkpoints"
TEMPERATURE = 1.0
MOST_N = 15
REGIMES: tuple[Regime, ...] = ("default", "until-submitted")


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    folder: Path
    seeds: int = 3
    attempts: int = 10
    tasks: int = 200
    k: int = 4
    other_k: tuple[int, ...] = (2, 8)
    other_temperatures: tuple[float, ...] = (0.6, 0.8, 1.2)
    other_attempts: int = 2

    def file(self, k: int, seed: int) -> Path:
        return self.folder / f"k{k}-seed{seed}.jsonl"

    def at_temperature(self, k: int, temperature: float) -> Path:
        return self.folder / f"k{k}-t{temperature}.jsonl"

    @property
    def vote(self) -> Path:
        """K candidates a step and no critic: the most frequent one is taken."""
        return self.folder / f"vote{self.k}.jsonl"

    @property
    def weighted_vote(self) -> Path:
        """K candidates a step: the action whose candidates' Q sum up highest."""
        return self.folder / f"weighted-vote{self.k}.jsonl"

    def files(self, k: int) -> list[Path]:
        seeds = range(self.seeds) if k in (1, self.k) else range(1)
        return [self.file(k, seed) for seed in seeds]


async def measure(plan: Plan, policy: Path, critic: Path, *, at_once: int) -> None:
    """Run everything that the plan wants and its folder does not have."""
    stack = StackSettings(
        policy=policy,
        policy_name="bugfix-policy",
        critics={"bugfix-critic": critic},
        max_model_len=MAX_MODEL_LEN,
        policy_arguments=POLICY_ARGUMENTS,
        service={"concurrent_runs": at_once},
    )
    tasks = tasks_of("heldout", plan.tasks)
    async with (
        local_stack(stack, report=lambda text: print(text, flush=True)) as up,
        AsyncPilotfish(up.url) as client,
    ):
        for seed in range(plan.seeds):
            for k in (1, plan.k):
                settings = strategy(
                    k=k,
                    n=plan.attempts,
                    temperature=TEMPERATURE,
                    seed=1000 + seed,
                    until_submitted=True,
                )
                file = plan.file(k, seed)
                label = f"K={k}, seed {seed}"
                await collect(client, tasks, settings, file, at_once=at_once, label=label)
        for k in plan.other_k:
            settings = strategy(k=k, n=plan.other_attempts, temperature=TEMPERATURE, seed=2000)
            file = plan.file(k, 0)
            await collect(client, tasks, settings, file, at_once=at_once, label=f"K={k}")
        for temperature in plan.other_temperatures:
            for k in (1, plan.k):
                settings = strategy(k=k, n=plan.other_attempts, temperature=temperature, seed=4000)
                file = plan.at_temperature(k, temperature)
                label = f"K={k}, T={temperature}"
                await collect(client, tasks, settings, file, at_once=at_once, label=label)
        settings = strategy(
            k=plan.k, n=plan.other_attempts, temperature=TEMPERATURE, seed=3000, pick="vote"
        )
        await collect(
            client, tasks, settings, plan.weighted_vote, at_once=at_once, label="weighted vote"
        )
        settings = strategy(k=plan.k, n=plan.other_attempts, temperature=TEMPERATURE, seed=3000)
        await collect(
            client, tasks, settings, plan.vote, critic="none", at_once=at_once, label="vote"
        )


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    estimate: Estimate
    ratio: Estimate
    by_seed: list[float]


def rows_of(alone: list[Results], guided: list[Results]) -> list[Row]:
    """The operators of one regime; each list has one table a seed."""
    base = _joined(alone)
    searched = _joined(guided)
    kinds: list[tuple[str, Results, list[Results], int]] = [
        ("policy alone", base, alone, 1),
        ("lookahead K=4", searched, guided, 1),
        ("selection N=5", base, alone, 5),
        ("selection N=10", base, alone, 10),
        ("both, N=5", searched, guided, 5),
        ("both, N=10", searched, guided, 10),
    ]
    return [_row(name, found, seeds, n, base) for name, found, seeds, n in kinds]


def _row(name: str, found: Results, seeds: list[Results], n: int, base: Results) -> Row:
    outcomes, scores = found.outcomes, found.scores
    return Row(
        name,
        best_interval(outcomes, scores, n, draws=1000),
        best_interval(outcomes, scores, n, relative_to=base.outcomes, draws=1000),
        [best_of(r.outcomes, r.scores, n) for r in seeds],
    )


def _joined(seeds: list[Results]) -> Results:
    first = seeds[0]
    if any(r.tasks != first.tasks for r in seeds):
        raise ValueError("seeds were run on different tasks")
    return Results(
        tasks=first.tasks,
        outcomes=np.concatenate([r.outcomes for r in seeds], axis=1),
        scores=np.concatenate([r.scores for r in seeds], axis=1),
        submitted=float(np.mean([r.submitted for r in seeds])),
        extra_attempts=float(np.mean([r.extra_attempts for r in seeds])),
        tokens=float(np.mean([r.tokens for r in seeds])),
    )


def report(plan: Plan, docs: Path) -> str:
    """The text of docs/experiments.md; its plots are written beside it."""
    images = docs / "images"
    parts = [_INTRODUCTION.format(plan=plan, temperature=TEMPERATURE)]
    for regime in REGIMES:
        alone = [results([f], regime, slots=plan.attempts) for f in plan.files(1)]
        guided = [results([f], regime, slots=plan.attempts) for f in plan.files(plan.k)]
        rows = rows_of(alone, guided)
        named = {"policy alone": _joined(alone), "lookahead": _joined(guided)}
        parts.append(_regime(regime, rows, named))
        if regime == "default":
            plots.bars({row.name: row.estimate for row in rows}, images / "operators.png")
            plots.success_by_n(named, images / "success_by_n.png", most=MOST_N)
            parts.append("![Both operators](images/operators.png)\n")
            parts.append(_by_n(named, MOST_N))
    parts.append(_by_k(plan, images))
    parts.append(_by_temperature(plan))
    parts.append(_critic(plan, images))
    parts += [rounds.section(plan.folder), _ablation(plan, images)]
    return "\n".join(part for part in parts if part)


def _regime(regime: Regime, rows: list[Row], named: dict[str, Results]) -> str:
    lines = [
        f"## {regime.capitalize()}",
        "",
        "| operator | solved | 95 % interval | by seed | ratio to alone | interval |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        seeds = " ".join(_percent(v) for v in row.by_seed)
        lines.append(
            f"| {row.name} | {_percent(row.estimate.value)} | {row.estimate.between(_percent)} "
            f"| {seeds} | {row.ratio.value:.2f} | {row.ratio.between('{:.2f}'.format)} |"
        )
    lines += ["", _SECOND_TABLE, "|---|" + "---|" * 8]
    for name, found in named.items():
        o, s = found.outcomes, found.scores
        lines.append(
            f"| {name} | {_percent(success(o))} | {_percent(pass_at(o, 5))} "
            f"| {_percent(pass_at(o, 10))} | {gap_recovered(o, s, 5):.2f} "
            f"| {gap_recovered(o, s, 10):.2f} | {_percent(found.submitted)} "
            f"| {found.extra_attempts:.2f} | {found.tokens:.0f} |"
        )
    return "\n".join([*lines, ""])


def _by_n(named: dict[str, Results], most: int) -> str:
    """Selection by every N, in expectation over all draws of N of a task's trajectories."""
    lines = [
        "### By N",
        "",
        "The critic's choice of N (in brackets: one that knows the outcomes).",
        "",
        "| N | " + " | ".join(named) + " |",
        "|---" * (1 + len(named)) + "|",
    ]
    most_had = min(r.outcomes.shape[1] for r in named.values())
    for n in range(1, min(most, most_had) + 1):
        cells = [
            f"{_percent(best_of(r.outcomes, r.scores, n))} ({_percent(pass_at(r.outcomes, n))})"
            for r in named.values()
        ]
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "![Success by N](images/success_by_n.png)", ""])


def _by_k(plan: Plan, images: Path) -> str:
    found: dict[int, Results] = {}
    for k in sorted({1, plan.k, *plan.other_k}):
        files = [file for file in plan.files(k) if file.exists()]
        if files:
            slots = plan.attempts if k in (1, plan.k) else plan.other_attempts
            found[k] = _joined([results([file], "default", slots=slots) for file in files])
    plots.success_by_k(
        {k: plots.interval(r, 1) for k, r in found.items()}, images / "success_by_k.png"
    )
    named = {str(k): result for k, result in found.items()}
    told = ""
    if plan.vote.exists():
        vote = results([plan.vote], "default", slots=plan.other_attempts)
        named[f"{plan.k}, majority vote instead of the critic"] = vote
        guided = found[plan.k]
        gain = difference(vote.outcomes, guided.outcomes)
        told = _VOTE.format(gain=_percent(gain.value), span=gain.between(_percent), k=plan.k)
        if plan.weighted_vote.exists():
            weighted = results([plan.weighted_vote], "default", slots=plan.other_attempts)
            named[f"{plan.k}, vote weighted by Q"] = weighted
            over = [difference(weighted.outcomes, o.outcomes) for o in (vote, guided)]
            spans = [f"{_percent(e.value)} ({e.between(_percent)})" for e in over]
            told += _WEIGHTED.format(over_vote=spans[0], over_argmax=spans[1])
    lines = [
        "## By K",
        "",
        "| K | solved | 95 % interval | trajectories a task |",
        "|---|---|---|---|",
    ]
    for name, one in named.items():
        solved = plots.interval(one, 1)
        lines.append(
            f"| {name} | {_percent(solved.value)} | {solved.between(_percent)} "
            f"| {one.outcomes.shape[1]} |"
        )
    return "\n".join([*lines, "", told, "![Success by K](images/success_by_k.png)", ""])


def _by_temperature(plan: Plan) -> str:
    rows = []
    solved: dict[float, float] = {}
    for temperature in sorted({TEMPERATURE, *plan.other_temperatures}):
        usual = temperature == TEMPERATURE
        files = [
            plan.files(k) if usual else [plan.at_temperature(k, temperature)] for k in (1, plan.k)
        ]
        if all(file.exists() for own in files for file in own):
            slots = plan.attempts if usual else plan.other_attempts
            alone, guided = (results(own, "default", slots=slots) for own in files)
            gain = difference(guided.outcomes, alone.outcomes)
            cells = [plots.interval(alone, 1), plots.interval(guided, 1), gain]
            solved[temperature] = cells[1].value
            told = " | ".join(f"{_percent(e.value)} ({e.between(_percent)})" for e in cells)
            rows.append(f"| {temperature} | {told} | {alone.outcomes.shape[1]} |")
    if len(rows) < 2:
        return ""
    head = (
        f"| T | policy alone | lookahead K={plan.k} | gain, paired by task | trajectories a task |"
    )
    told = _TEMPERATURE.format(best=max(solved, key=lambda t: solved[t]))
    return "\n".join(["## By temperature", "", head, "|---|---|---|---|---|", *rows, "", told])


def _critic(plan: Plan, images: Path) -> str:
    named = {"policy alone": plan.files(1), "lookahead": plan.files(plan.k)}
    progress = {name: q_by_progress(files) for name, files in named.items()}
    plots.q_by_step(progress, images / "q_by_step.png")
    pairs = {name: last_qs(files) for name, files in named.items()}
    plots.calibration_curve(pairs, images / "calibration.png")
    lines = [
        "## The critic on held-out tasks",
        "",
        "At the last turn of submitted trajectories (the plot also has those that did not submit).",
        "",
        "| | AUC | ECE | Brier | mean Q of solved | mean Q of failed |",
        "|---|---|---|---|---|---|",
    ]
    for name, (q, won) in pairs.items():
        values, outcome = np.array(q), np.array(won) > 0.5
        lines.append(
            f"| {name} | {auc(values, outcome):.3f} | {ece(values, outcome):.3f} "
            f"| {brier(values, outcome):.3f} | {values[outcome].mean():.3f} "
            f"| {values[~outcome].mean():.3f} |"
        )
    hacked = hacking([one for f in named.values() for file in f for one in _recorded(file, plan)])
    if hacked is not None:
        lines += ["", _HACKING.format(tasks=hacked.tasks, **{
            name: f"{one.value:+.3f} ({one.between('{:+.3f}'.format)})"
            for name, one in (("last", hacked.rise), ("all", hacked.rise_on_the_way))
        })]  # fmt: skip
    return "\n".join([*lines, "", "![Q by step](images/q_by_step.png)",
                      "![Calibration](images/calibration.png)", ""])  # fmt: skip


def _recorded(file: Path, plan: Plan) -> Iterator[Judged]:
    return recorded(t for t in read_trajectories(file) if t.attempt == 0 and t.slot < plan.attempts)


def _ablation(plan: Plan, images: Path) -> str:
    """The critics lie beside the experiment, what they were measured by within it."""
    return ablation.section(images, plan.folder.parent / "ablation", plan.folder / "ablation")


def _percent(value: float) -> str:
    return f"{round(100 * value, 6):.1f}"


_SECOND_TABLE = (
    "| | pass@1 (random of N) | pass@5 | pass@10 | gap recovered, N=5 | N=10 "
    "| submitted | extra attempts | tokens an attempt |"
)
_HACKING = """\
Value hacking, within the {tasks} tasks that were failed both with and without lookahead: the mean Q
of failures is higher under lookahead by {last} at the last turn and by {all} over all turns. As far
as it rises, argmax has found the critic's errors.
"""
_VOTE = """\
The vote takes the most frequent of {k} candidates at every step, with no critic (a request whose
critic is `none`). It is the baseline to beat: percent that it solves beyond the critic's choice of
{k}, paired by task: {gain} ({span}). What a vote cannot do is to choose among whole attempts.
"""
_WEIGHTED = """
`pick: vote` takes the action whose candidates' Q sum up highest: percent that it solves beyond the
plain vote, paired by task: {over_vote}; beyond the highest Q: {over_argmax}.
"""
_TEMPERATURE = """\
Lookahead solves most at T={best}. The paper found higher temperatures better at small K; with this
policy a cooler one is better, with and without the critic. A majority vote of K samples is in
effect a cooler policy too, which may be all that it gained above.
"""
_INTRODUCTION = """# Experiments

Written by `make experiment`; the numbers are percent of held-out tasks solved. Tasks that nobody
trained on: {plan.tasks}; trajectories a task and seed: {plan.attempts}; seeds: {plan.seeds};
temperature: {temperature}. Policy and critic are those in `examples/bugfix/checkpoints` (the critic
is the second of two rounds of training), served by real vLLM; actions are executed in bubblewrap.
Intervals are 95 % bootstrap intervals whose unit is the task. *Selection* and *both* take the
trajectory of highest last Q among N, submitted ones first, in expectation over all draws of N from
all trajectories of a task. In the *default* regime a trajectory that does not submit has failed;
*until-submitted* tries again, at most ten times.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure both operators on the held-out tasks.")
    parser.add_argument("--policy", type=Path, default=CHECKPOINTS / "policy")
    parser.add_argument("--critic", type=Path, default=CHECKPOINTS / "critic")
    parser.add_argument("--folder", type=Path, default=Path("build/bugfix/experiment"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--seeds", type=int, default=Plan.seeds)
    parser.add_argument("--tasks", type=int, default=Plan.tasks)
    parser.add_argument("--attempts", type=int, default=Plan.attempts)
    parser.add_argument("--at-once", type=int, default=8, help="runs at a time")
    parser.add_argument("--only", choices=("measure", "report"))
    options = parser.parse_args()
    plan = Plan(options.folder, options.seeds, options.attempts, options.tasks)
    if options.only != "report":
        try:
            asyncio.run(measure(plan, options.policy, options.critic, at_once=options.at_once))
        except SearchError as error:
            raise SystemExit(f"error: {error}") from None
    if options.only != "measure":
        text = report(plan, options.docs)
        (options.docs / "experiments.md").write_text(text)
        print(text)


if __name__ == "__main__":
    main()
