"""What the second round of training does: lookahead under the first critic, which had only seen the
policy's own trajectories, beside lookahead under the shipped one, which was trained again on
trajectories made under the first. Needs the first critic, which `make retrain` leaves in
build/bugfix/critic-1; the rest is `make experiment`'s.

    python -m examples.bugfix.rounds
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from critic.hacking import LEAST, Hacking, hacking
from critic.judged import Judged, judge, recorded
from critic.judges import Local
from critic.quality import Quality, quality
from critic.redeciding import redecided
from critic.reselection import Decisions, redecide
from critic.scoring import Scorer
from critic.statistics import Estimate, difference
from critic.trajectory import Trajectory, read_trajectories
from examples.bugfix.collect import MAX_MODEL_LEN, POLICY_ARGUMENTS, collect, strategy, tasks_of
from examples.bugfix.plots import interval
from examples.bugfix.recipe import BUILD
from examples.bugfix.results import results
from pilotfish import AsyncPilotfish
from search.errors import SearchError
from service.local.stack import StackSettings, local_stack

CHECKPOINTS = Path(__file__).parent / "checkpoints"
FIRST, SECOND = BUILD / "critic-1", CHECKPOINTS / "critic"
ATTEMPTS = 3
K = 4


@dataclass(frozen=True)
class Files:
    """Trajectories on held-out tasks."""

    folder: Path

    @property
    def alone(self) -> Path:
        return self.folder / "k1-seed0.jsonl"

    @property
    def under_second(self) -> Path:
        return self.folder / f"k{K}-seed0.jsonl"

    @property
    def under_first(self) -> Path:
        return self.folder / "rounds" / f"k{K}-first.jsonl"

    @property
    def found(self) -> Path:
        return self.folder / "rounds" / "found.json"


class Round(BaseModel):
    """What one critic was found to be."""

    solved: Estimate
    """Of attempts under its lookahead."""
    hacking: Hacking
    within_task: dict[float, float]
    """Ranking accuracy within tasks on the policy's own trajectories, by share of the way."""


class Found(BaseModel):
    first: Round
    second: Round
    gain: Estimate
    """Success under the second's lookahead less under the first's, paired by task."""
    estimated: Decisions | None
    """What the first would have come to, estimated from the second's decision logs."""


async def measure(files: Files, *, at_once: int) -> None:
    """Attempts at all held-out tasks under the first critic's lookahead."""
    stack = StackSettings(
        policy=CHECKPOINTS / "policy",
        policy_name="bugfix-policy",
        critics={"first-critic": FIRST},
        max_model_len=MAX_MODEL_LEN,
        policy_arguments=POLICY_ARGUMENTS,
        service={"concurrent_runs": at_once},
    )
    async with (
        local_stack(stack, report=lambda text: print(text, flush=True)) as up,
        AsyncPilotfish(up.url) as client,
    ):
        plan = strategy(k=K, n=ATTEMPTS, seed=1000)
        await collect(
            client, tasks_of("heldout"), plan, files.under_first, at_once=at_once, label="first"
        )


def compare(files: Files, first: Path = FIRST, second: Path = SECOND) -> Found:
    """Both critics, each on the policy's own trajectories and on those under its own lookahead."""
    one, other = Scorer(first), Scorer(second)
    both = (files.under_second, files.under_first)
    better, worse = (results([f], "default", slots=ATTEMPTS).outcomes for f in both)
    logs = (t for t in _first_attempts(files.under_second) if t.slot < ATTEMPTS)
    return Found(
        first=_round(files, one, files.under_first),
        second=_round(files, other, files.under_second),
        gain=difference(better, worse),
        estimated=redecide(redecided(Local(one), logs)),
    )


def _round(files: Files, scorer: Scorer, guided: Path) -> Round:
    alone = list(judge(Local(scorer), _first_attempts(files.alone)))
    both_have = (t for t in _first_attempts(guided) if t.slot < ATTEMPTS)
    searched: list[Judged] = list(recorded(both_have))
    hacked = hacking([*alone, *searched])
    if hacked is None:
        raise ValueError(f"under {LEAST} tasks were failed both alone and under lookahead")
    judged: Quality = quality(alone, ns=(1,))
    return Round(
        solved=interval(results([guided], "default", slots=ATTEMPTS), 1),
        hacking=hacked,
        within_task={row.share: row.within_task.value for row in judged.by_share},
    )


def _first_attempts(path: Path) -> Iterator[Trajectory]:
    return (t for t in read_trajectories(path) if t.attempt == 0 and t.slot < 10)


def section(folder: Path) -> str:
    """Markdown of what was found; nothing where it was not measured."""
    path = Files(folder).found
    if not path.exists():
        return ""
    found = Found.model_validate(json.loads(path.read_text()))
    lines = [
        "## A second round of training",
        "",
        _INTRODUCTION.format(attempts=ATTEMPTS, k=K),
        "| critic | lookahead solves | mean Q of failures, alone | under lookahead | rise "
        "| rise, all turns | within a task, half way | at the end |",
        "|---" * 8 + "|",
    ]
    for name, one in (("first", found.first), ("second", found.second)):
        hacked, within = one.hacking, one.within_task
        lines.append(
            f"| {name} | {_percent(one.solved)} | {hacked.alone.value:.3f} "
            f"| {hacked.guided.value:.3f} | {_number(hacked.rise)} "
            f"| {_number(hacked.rise_on_the_way)} | {within[0.5]:.3f} | {within[1.0]:.3f} |"
        )
    fell = found.second.hacking.rise.high < found.first.hacking.rise.value
    lines += [
        "",
        f"Success under the second less the first, paired by task: {_percent(found.gain)} points. "
        f"The rise of failures {'fell' if fell else 'was not found to fall'} with it.",
    ]
    if (told := found.estimated) is not None:
        lines.append(
            "From the second's decision logs alone `reselect` had estimated, for the first in its "
            f"place, a change of {_percent(told.change)} points (it takes what was executed at "
            f"{100 * told.same:.0f} % of steps); measured, it is {-100 * found.gain.value:.1f}. "
            "(The estimator was chosen after a first form of it, by the first critic's own Q, had "
            "estimated a change of +0.7 points here.)"
        )
    return "\n".join([*lines, ""])


_INTRODUCTION = """\
`python -m examples.bugfix.rounds`: the first critic was trained on the policy's own trajectories,
the second from the first on those and on trajectories made under the first's lookahead. {attempts}
attempts at each held-out task under either's lookahead (K={k}). The *rise* is the value-hacking
watch: mean Q of failures under lookahead less that of the policy's own failures of the same tasks,
each critic by its own Q.
"""


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} ({e.between(lambda end: f'{100 * end:.1f}')})"


def _number(e: Estimate) -> str:
    return f"{e.value:+.3f} ({e.between('{:+.3f}'.format)})"


def main() -> None:
    parser = argparse.ArgumentParser(description="What the second round of training does.")
    parser.add_argument("--folder", type=Path, default=BUILD / "experiment")
    parser.add_argument("--at-once", type=int, default=8, help="runs at a time")
    parser.add_argument("--only", choices=("compare",), help="run nothing: the files are there")
    options = parser.parse_args()
    files = Files(options.folder)
    for needed, maker in (
        (FIRST / "critic.json", "make retrain"),
        (files.alone, "make experiment"),
        (files.under_second, "make experiment"),
    ):
        if not needed.exists():
            raise SystemExit(f"error: {needed} is not there; `{maker}` makes it")
    try:
        if options.only is None:
            asyncio.run(measure(files, at_once=options.at_once))
    except SearchError as error:
        raise SystemExit(f"error: {error}") from None
    files.found.write_text(compare(files).model_dump_json(indent=1))
    print(section(options.folder))


if __name__ == "__main__":
    main()
