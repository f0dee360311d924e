"""``eval``, ``reselect``, ``score``: what a critic says of trajectories, and how good that is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_json
from rich.console import Console
from rich.progress import Progress, TextColumn

from critic.commands.shared import AsJson, Critic, Data, Name, errors, trajectories_of
from critic.errors import CriticInputError, NotJudged
from critic.trajectory import Trajectory

if TYPE_CHECKING:
    from critic.judged import Judged
    from critic.judges import Judge

Ns = Annotated[
    list[int] | None, typer.Option("-n", min=1, help="N to choose one of; several times.")
]


def evaluate(
    critic: Critic,
    data: Data,
    name: Name = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with plots.")] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(help="platt or isotonic: fit it on these trajectories, into critic.json."),
    ] = None,
    held_out: Annotated[
        bool, typer.Option(help="Only the tasks that its training held out of the same data.")
    ] = False,
    n: Ns = None,
    as_json: AsJson = False,
) -> None:
    """Measure a critic on trajectories that have a reward, of tasks that it was not trained on: by
    share of the way, choosing one of N, and as a probability."""
    from critic.checkpoint import read_trained_tasks, write_card
    from critic.hacking import mean_failed_q
    from critic.judged import calibrated
    from critic.judges import Local, judge_at
    from critic.quality import FITS, NS, fit_calibration, quality
    from critic.reporting import quality_table, write_report

    if report is not None:
        _check_writable(report)
    if calibrate is not None and calibrate not in FITS:
        raise CriticInputError(f"--calibrate is one of {', '.join(FITS)}; got {calibrate!r}")
    trajectories = trajectories_of(data)
    with judge_at(critic, name, raw=calibrate is not None) as by:
        card = by.card if isinstance(by, Local) else None
        if card is None and (calibrate or held_out):
            raise CriticInputError("--calibrate and --held-out need the critic's own folder")
        if held_out and card is not None:
            if not card.held_out:
                raise CriticInputError(f"{critic}/critic.json says of no task that it was held out")
            trajectories = (t for t in trajectories if card.held_out_task(t.task_id))
        if calibrate is not None:
            trajectories = _apart(trajectories, read_trained_tasks(critic))
        judged = _judged_by(by, trajectories)
    _tell_trained_on(critic, judged, held_out=bool(card and card.held_out and not held_out))
    if calibrate is not None and card is not None:
        card.calibration = fit_calibration(judged, calibrate)
        card.failed_q = mean_failed_q(calibrated(judged, card.calibration.apply))
        write_card(critic, card)
        errors.print(f"wrote the {calibrate} calibration to {critic}/critic.json")
    found = quality(judged, ns=tuple(n or NS))
    if report is not None:
        write_report(
            found, report, critic=name or Path(critic).name, data=[path.name for path in data]
        )
        errors.print(f"wrote {report}")
    if as_json:
        print(found.model_dump_json())
    else:
        _wide().print(*quality_table(found), sep="\n")


def reselect(
    critic: Critic,
    data: Data,
    name: Name = None,
    than: Annotated[
        str | None,
        typer.Option(help="The critic to compare it with, a folder or URL; else the recorded Q."),
    ] = None,
    than_name: Annotated[str | None, typer.Option(help="Which of that service's critics.")] = None,
    n: Ns = None,
    decisions: Annotated[
        bool, typer.Option(help="Also judge the candidates of every step again.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """What another critic would have chosen of recorded trajectories and candidates, and what that
    changes in success. Needs neither policy nor sandbox."""
    from critic.judges import judge_at
    from critic.quality import NS
    from critic.redeciding import redecided
    from critic.reporting import reselection_table
    from critic.reselection import redecide
    from critic.reselection import reselect as again

    if than is None and than_name is not None:
        raise CriticInputError("--than-name is of the service that --than gives")
    before = _judged_before(data, than, than_name)
    with judge_at(critic, name) as by:
        after = _judged_by(by, trajectories_of(data))
        _tell_trained_on(critic, after)
        rows = again(before, after, tuple(n or NS))
        told = None
        if decisions:
            with _counting("judging decisions of trajectories") as progress:
                skipped = Counter[str]()
                found = redecided(by, trajectories_of(data), left_out=skipped, progress=progress)
                told = redecide(found)
            _tell_left_out([told], skipped, of="decisions")
    if as_json:
        selection = [row.model_dump() for row in rows]
        result = {"selection": selection, "decisions": told.model_dump() if told else None}
        print(to_json(result, inf_nan_mode="null").decode())
    else:
        told_before = "as recorded" if than is None else f"by {than_name or Path(than).name}"
        _wide().print(*reselection_table(rows, told, before=told_before), sep="\n")


def _judged_before(data: list[Path], than: str | None, name: str | None) -> list[Judged]:
    """By the critic that was there when they were made, or by ``than``."""
    from critic.judged import recorded
    from critic.judges import judge_at

    if than is not None:
        with judge_at(than, name) as by:
            judged = _judged_by(by, trajectories_of(data))
        _tell_trained_on(than, judged)
        return judged
    if not (found := list(recorded(trajectories_of(data)))):
        raise CriticInputError(
            "no trajectory in the data has a reward and the Q of another critic: give the other "
            "by --than, or measure this one by eval"
        )
    return found


def _tell_trained_on(critic: str, judged: Sequence[Judged], *, held_out: bool = False) -> None:
    from critic.checkpoint import read_trained_tasks

    if seen := {one.task_id for one in judged} & read_trained_tasks(critic):
        advice = " (--held-out leaves them out)" if held_out else ""
        errors.print(
            f"{critic} was trained on {len(seen)} of these tasks, figures of which flatter "
            f"it{advice}"
        )


def _judged_by(by: Judge, trajectories: Iterable[Trajectory]) -> list[Judged]:
    """With a counter, and a word on what is left out."""
    from critic.judged import judge

    left_out = Counter[str]()
    with _counting("judging trajectories") as progress:
        judged = list(judge(by, trajectories, left_out=left_out, progress=progress))
    _tell_left_out(judged, left_out)
    return judged


def score(critic: Critic, data: Data, name: Name = None) -> None:
    """Print Q at every agent turn of each trajectory, a JSON line each."""
    from critic.judges import judge_at, said

    with judge_at(critic, name) as by:
        for trajectory, qs in said(by, trajectories_of(data)):
            found = {"error": str(qs)} if isinstance(qs, NotJudged) else {"q": qs}
            print(json.dumps({"id": trajectory.id, "task_id": trajectory.task_id} | found))


def _apart(trajectories: Iterator[Trajectory], trained_on: set[str]) -> Iterator[Trajectory]:
    """The same. Raises: ``CriticInputError`` at one of a task that the critic was trained on."""
    for trajectory in trajectories:
        if trajectory.reward is not None and trajectory.task_id in trained_on:
            raise CriticInputError(
                f"it was trained on {trajectory.task_id}: a calibration is fitted on other tasks, "
                "or with --held-out on those that its training left out"
            )
        yield trajectory


def _check_writable(report: Path) -> None:
    """Before hours of judging, not after. Raises: ``CriticInputError``; ``OSError``."""
    if report.is_dir():
        raise CriticInputError(f"--report {report} is a folder; give a file")
    report.parent.mkdir(parents=True, exist_ok=True)
    fresh = not (report.exists() or report.is_symlink())
    report.open("a").close()
    if fresh:
        report.unlink()


def _tell_left_out(
    judged: Sequence[Any], left_out: Counter[str], *, of: str = "trajectories"
) -> None:
    told = ", ".join(f"{count} {why}" for why, count in left_out.items() if count)
    if not judged:  # also of a pipe, which is read once
        raise CriticInputError(f"nothing to measure: {told or 'no trajectory in the data'}")
    if told:
        errors.print(f"{of} left out: {told}")


def _wide() -> Console:
    """A file has no width of its own."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}", markup=False), TextColumn("{task.completed}"))
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done: bar.update(task, completed=done)
