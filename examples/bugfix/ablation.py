"""`make ablate`: what each setting of the critic's training is worth, on the demo's tasks. It runs
`pilotfish-critic ablate` on the rollouts of `make retrain` and judges on those of
`make experiment`. What changes Q before the last turn only (lambda, gamma) is then measured under
lookahead, since selection does not read it. Hours on two cores; taken up where it was left.

    python -m examples.bugfix.ablation                    # both
    python -m examples.bugfix.ablation --only lookahead   # with the critics that are there
    OMP_NUM_THREADS=1 python -m examples.bugfix.ablation --only train --part 1/2   # and 2/2: faster
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from critic.__main__ import main as critic
from critic.ablation import BASE, Compared, Found, compare, read_found
from critic.reporting import ablation_plots, ablation_table, percent
from critic.statistics import difference
from examples.bugfix.collect import MAX_MODEL_LEN, POLICY_ARGUMENTS, collect, strategy, tasks_of
from examples.bugfix.plots import interval
from examples.bugfix.recipe import BUILD, TUNED
from examples.bugfix.results import read_attempts, results
from pilotfish import AsyncPilotfish
from search.errors import SearchError
from service.local.stack import StackSettings, local_stack

FOLDER = BUILD / "ablation"
SEEDS = 3
LOOKAHEAD = BUILD / "experiment" / "ablation"
"""Trajectories under lookahead with some of the critics, a file each."""
BEFORE_THE_LAST_TURN = (BASE, "lam", "gamma")
ATTEMPTS = 2
ARGUMENTS = [
    *("--init", str(TUNED), "--data", str(BUILD / "round-1.jsonl"), "--share", "0.45"),
    *("--judge-on", str(BUILD / "experiment" / "k1-seed0.jsonl"), "--out", str(FOLDER)),
    *("--seeds", str(SEEDS)),
    *("--set", "epochs=1", "--set", "lr=4e-4", "--set", "batch_tokens=4000"),
    *("--set", "warm_lam=none"),
    *("--vary", "lam=0,0.5,0.9,1", "--vary", "gamma=0.9,0.95,0.99"),
    *("--vary", "loss=l2,hl_gauss", "--vary", "target_network=ema"),
    *("--vary", "ordering=0.3,1", "--vary", "data=0.25,0.5,0.75"),
]


def under_lookahead(critics: Path) -> list[Found]:
    """The critics to measure under lookahead, of those that are there: one seed of each."""
    every = [one for one in read_found(critics) if one.seed == 0]
    return [one for one in every if one.factor in BEFORE_THE_LAST_TURN]


async def measure(found: Found, *, at_once: int) -> None:
    """Attempts at all held-out tasks under this critic's lookahead."""
    out = LOOKAHEAD / f"{found.name}.jsonl"
    if out.exists() and sum(1 for _ in out.open()) >= ATTEMPTS * len(tasks_of("heldout")):
        return
    stack = StackSettings(
        policy=TUNED,
        policy_name="bugfix-policy",
        critics={"critic": FOLDER / found.name},
        max_model_len=MAX_MODEL_LEN,
        policy_arguments=POLICY_ARGUMENTS,
        service={"concurrent_runs": at_once},
    )
    async with local_stack(stack, report=print) as up, AsyncPilotfish(up.url) as client:
        plan = strategy(k=4, n=ATTEMPTS, seed=5000)
        await collect(client, tasks_of("heldout"), plan, out, at_once=at_once, label=found.name)


def section(images: Path, critics: Path, lookahead: Path) -> str:
    """Markdown of what was found so far of the ``critics`` and of the trajectories under their
    ``lookahead``; nothing where nothing was."""
    compared = compare(list(read_found(critics)))
    if not compared:
        return ""
    ablation_plots(compared, images)
    lines = ["## What the settings of training are worth", "", _INTRODUCTION]
    lines += [ablation_table(compared), verdict(compared), ""]
    lines += ["![Ablation](images/ablation.png)", ""]
    return "\n".join([*lines, *_lookahead(critics, lookahead)])


def verdict(compared: Sequence[Compared]) -> str:
    """Which values choose otherwise than the base, in one sentence."""
    gains = [
        (f"{row.factor} = {row.value} at N={n}, {percent(gain)}", gain)
        for row in compared
        for n, gain in row.beyond_base.items()
        if row.factor != BASE and n > 1
    ]
    away = [told for told, gain in gains if gain.low > 0 or gain.high < 0]
    if not away:
        return (
            f"None of the {len(gains)} differences from the base has an interval without zero: by "
            "what they choose among attempts, none of these settings was found better or worse, "
            "and the base's are the defaults."
        )
    return (
        f"Of {len(gains)} differences from the base, with intervals of which about "
        f"{0.05 * len(gains):.0f} would be without zero by chance, these are: {'; '.join(away)}."
    )


def _lookahead(critics: Path, folder: Path) -> list[str]:
    files = {one.name: folder / f"{one.name}.jsonl" for one in under_lookahead(critics)}
    there = {name: path for name, path in files.items() if path.exists()}
    base = there.get(f"{BASE}-seed0")
    if base is None:
        return []
    alike = results([base], "default", slots=ATTEMPTS)
    lines = [
        "Under lookahead (K=4, two attempts at each task) with the critics of one seed:",
        "",
        "| critic | solved | beyond base | submitted | turns an attempt |",
        "|---|---|---|---|---|",
    ]
    for name, path in there.items():
        found = results([path], "default", slots=ATTEMPTS)
        if found.tasks != alike.tasks:
            continue  # it was cut short
        gain = "" if path == base else percent(difference(found.outcomes, alike.outcomes))
        turns = np.mean([len(attempt.qs) for attempt in read_attempts(path)])
        lines.append(
            f"| {name.removesuffix('-seed0').replace('=', ' = ')} | {percent(interval(found, 1))} "
            f"| {gain} | {100 * found.submitted:.1f} | {turns:.1f} |"
        )
    return [*lines, ""]


_INTRODUCTION = """\
`make ablate`: one pass from the policy's weights over its own trajectories on about 1,000 training
tasks (two each), so less than the shipped critic had; *base* is lambda 0.7, gamma 1, binary
cross-entropy on the online network's targets, no ordering term, all of that data. Judged on the
first 10 attempts at each held-out task. *Best of N*: percent solved by the critic's choice, mean
over seeds with the 95 % interval over tasks and seeds; *beyond base*: the difference, paired by
both.
A gamma below 1 and lambda change Q before the last turn; selection reads only the last.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="What each setting of training is worth.")
    parser.add_argument("--only", choices=("train", "lookahead"))
    parser.add_argument("--part", default="1/1", help="I/N: every N-th critic from the I-th")
    parser.add_argument("--at-once", type=int, default=8, help="runs at a time")
    options = parser.parse_args()
    if options.only != "lookahead":
        sys.argv = ["pilotfish-critic", "ablate", *ARGUMENTS, "--part", options.part]
        try:
            critic()
        except SystemExit as ended:
            if ended.code:
                raise
    if options.only != "train":
        for found in under_lookahead(FOLDER):
            try:
                asyncio.run(measure(found, at_once=options.at_once))
            except SearchError as error:
                raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
