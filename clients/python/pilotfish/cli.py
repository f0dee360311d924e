"""The command line, ``pilotfish``: a thin layer over the SDK. Knows no HTTP."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from pilotfish.api import FINAL_STATUSES, RunView, ScoreRequest
from pilotfish.batch.command import batch
from pilotfish.client import DEFAULT_URL, Pilotfish
from pilotfish.errors import (
    ApiStatusError,
    BadRequest,
    ConnectionFailed,
    PilotfishError,
    RequestTimeout,
    UnexpectedAnswer,
)
from pilotfish.inputs import (
    AsJson,
    Critic,
    InputError,
    K,
    MaxTokens,
    Model,
    N,
    Sandbox,
    Seconds,
    StrategyFile,
    Tokens,
    UntilSubmitted,
    json_of,
    loads,
    plan_of,
    text_of,
    valid,
)
from pilotfish.messages import Message
from pilotfish.task import Task
from pilotfish.trajectory import Trajectory

_HELP = """Guided search for LLM agents.

Exit codes: 0 done; 1 the run failed or nothing was selected; 2 wrong usage or input; 3 the service
cannot be reached, does not answer or is another; 4 it answered with an error; 130 stopped by
Ctrl-C.
"""
app = typer.Typer(no_args_is_help=True, add_completion=False, help=_HELP)
app.command()(batch)
runs = typer.Typer(no_args_is_help=True, help="Runs that there are.")
app.add_typer(runs, name="runs")
sessions = typer.Typer(no_args_is_help=True, help="What outside agents did through the endpoint.")
app.add_typer(sessions, name="sessions")
screen = Console()
complaints = Console(stderr=True)

_STATE = ("messages", "candidates")


@app.callback()
def connect(
    context: typer.Context,
    url: Annotated[
        str, typer.Option(envvar="PILOTFISH_URL", help="Where the service is.")
    ] = DEFAULT_URL,
    key: Annotated[str | None, typer.Option(envvar="PILOTFISH_KEY", help="Its bearer key.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds of one request.", min=0, max=1e6)] = 600.0,
) -> None:
    """Guided search for LLM agents."""
    context.obj = context.with_resource(_client(url, key, timeout))


@contextmanager
def _client(url: str, key: str | None, timeout: float) -> Iterator[Pilotfish]:
    try:
        client = Pilotfish(url, key, timeout=timeout)
    except BadRequest as error:
        raise InputError(str(error)) from error
    with client:
        yield client


@app.command()
def run(
    context: typer.Context,
    task: Annotated[Path, typer.Argument(help="The task, JSON; - is standard input.")],
    strategy: StrategyFile = None,
    k: K = None,
    n: N = None,
    tokens: Tokens = None,
    max_tokens: MaxTokens = None,
    seconds: Seconds = None,
    until_submitted: UntilSubmitted = False,
    seed: int | None = None,
    model: Model = None,
    critic: Critic = None,
    sandbox: Sandbox = None,
    wait: Annotated[bool, typer.Option(help="Wait for its end; Ctrl-C cancels it.")] = True,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write its trajectories there, JSON lines.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a task: N attempts in sandboxes, each step the best of K."""
    client: Pilotfish = context.obj
    plan = plan_of(strategy, k, n, tokens, max_tokens, seconds, until_submitted, seed)
    options = {"model": model, "critic": critic, "sandbox": sandbox}
    given: Any = {name: value for name, value in options.items() if value is not None}
    asked = valid(Task, json_of(task), str(task))
    if out is not None:
        _check_writable(out)
    made = client.create_run(asked, plan, **given)
    if not wait:
        _show(made, as_json)
        return
    try:
        ended = _watch(client, made, quiet=as_json)
        if out is not None:
            _write(out, client.trajectories(made.id), _download(made.id))
    except KeyboardInterrupt:
        with suppress(PilotfishError):
            client.cancel_run(made.id)
        raise
    except PilotfishError as error:
        error.run_id = made.id
        raise
    _show(ended, as_json)
    if ended.status != "succeeded" or ended.selected is None:
        raise typer.Exit(1)


@app.command()
def score(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help='JSON: {"messages": [...], "candidates": [...]}, or a trajectory; - is standard '
            "input."
        ),
    ],
    critic: Critic = None,
    as_json: AsJson = False,
) -> None:
    """Q of candidates in a state, or of every turn of a history."""
    client: Pilotfish = context.obj
    given = json_of(file)
    options: dict[str, Any] = {} if critic is None else {"critic": critic}
    if "steps" in given:
        messages: Any = valid(Trajectory, given, str(file)).messages
        q = client.score(messages, **options)
    elif "messages" in given:
        state: dict[str, Any] = {name: given[name] for name in given if name in _STATE}
        asked = valid(ScoreRequest, state, str(file))
        q = client.score(asked.messages, asked.candidates, **options)
    else:
        raise InputError(f'{file} has neither "messages" nor "steps"')
    if as_json:
        print(json.dumps({"q": q}))
        return
    kind = "candidate" if given.get("candidates") else "turn"
    for i, value in enumerate(q):
        screen.print(f"{kind} {i}: {value:.4f}", highlight=False)


@app.command()
def select(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Trajectories, JSON lines; - is standard input.")],
    abstain_below: Annotated[
        float | None, typer.Option(help="Choose none if the best Q is below.")
    ] = None,
    rescore: Annotated[
        bool, typer.Option(help="Let the critic read them again, or take the Q on record.")
    ] = True,
    critic: Critic = None,
    as_json: AsJson = False,
) -> None:
    """Which of several finished trajectories to return."""
    client: Pilotfish = context.obj
    lines = [line for line in text_of(file).split("\n") if line.strip()]
    trajectories = [valid(Trajectory, loads(line, file), str(file)) for line in lines]
    options: dict[str, Any] = {"rescore": rescore}
    options |= {} if abstain_below is None else {"abstain_below": abstain_below}
    options |= {} if critic is None else {"critic": critic}
    choice = client.select(trajectories, **options)
    if as_json:
        print(choice.model_dump_json())
    else:
        table = Table("rank", "line", "task", "exit status", "last Q")
        for rank, i in enumerate(choice.ranking, start=1):
            found = trajectories[i]
            table.add_row(str(rank), str(i + 1), escape(found.task_id), str(found.exit_status),
                          _number(choice.q[i]))  # fmt: skip
        screen.print(table)
        told = "none" if choice.chosen is None else f"line {choice.chosen + 1}"
        screen.print(f"chosen: {told} ({choice.reason})")
    if choice.chosen is None:
        raise typer.Exit(1)


@runs.command("list")
def list_runs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Runs, newest first."""
    client: Pilotfish = context.obj
    found = list(client.list_runs(limit=limit))
    if as_json:
        print(json.dumps([json.loads(run.model_dump_json()) for run in found]))
        return
    table = Table(Column("id", no_wrap=True, min_width=32), "status", "task", "policy", "critic",
                  "K", "N", "age")  # fmt: skip
    for run in found:
        table.add_row(
            run.id,
            run.status,
            escape(run.task_id),
            escape(run.policy),
            escape(run.critic or "-"),
            str(run.strategy.lookahead.k),
            str(run.strategy.selection.n),
            _age(run.created_at),
        )
    screen.print(table)


@runs.command()
def show(context: typer.Context, run_id: str, as_json: AsJson = False) -> None:
    """One run, with its trajectories."""
    client: Pilotfish = context.obj
    _show(client.get_run(run_id), as_json)


@runs.command()
def watch(context: typer.Context, run_id: str, as_json: AsJson = False) -> None:
    """Follow a run until it has ended. With --json: its events, a line each."""
    client: Pilotfish = context.obj
    found = client.get_run(run_id)
    if not as_json:
        _show(_watch(client, found), False)
        return
    for event in client.events(run_id):
        print(json.dumps(event.model_dump()), flush=True)


@runs.command()
def cancel(context: typer.Context, run_id: str, as_json: AsJson = False) -> None:
    """Stop a run; what was done is kept."""
    client: Pilotfish = context.obj
    _show(client.cancel_run(run_id), as_json)


@runs.command()
def pause(context: typer.Context, run_id: str, as_json: AsJson = False) -> None:
    """Lay a run aside; its sandboxes stay as they are until it is resumed."""
    client: Pilotfish = context.obj
    _show(client.pause_run(run_id), as_json)


@runs.command()
def resume(context: typer.Context, run_id: str, as_json: AsJson = False) -> None:
    """Go on with a paused run."""
    client: Pilotfish = context.obj
    _show(client.resume_run(run_id), as_json)


@runs.command()
def retry(context: typer.Context, run_id: str, as_json: AsJson = False) -> None:
    """Go on with a run that failed or was cancelled; what the policy ended itself stays."""
    client: Pilotfish = context.obj
    _show(client.retry_run(run_id), as_json)


@runs.command()
def download(
    context: typer.Context,
    run_id: str,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File; standard output without.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """All trajectories of a run, JSON lines. With --json and -o: says which file, and how many."""
    client: Pilotfish = context.obj
    trajectories = client.trajectories(run_id)
    if out is None:
        for trajectory in trajectories:
            print(trajectory.model_dump_json(exclude_defaults=True))
        return
    _write(out, trajectories, _download(run_id))
    if as_json:
        print(json.dumps({"file": str(out), "count": len(trajectories)}))


@sessions.command("list")
def list_sessions(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Sessions, the latest called first."""
    client: Pilotfish = context.obj
    found = list(client.list_sessions(limit=limit))
    if as_json:
        print(json.dumps([json.loads(one.model_dump_json()) for one in found]))
        return
    table = Table(Column("id", no_wrap=True, min_width=32), "task", "policy", "calls", "last Q",
                  "tokens", "age")  # fmt: skip
    for one in found:
        table.add_row(
            escape(one.id),
            escape(_one_line(one.task, 40)),
            escape(one.policy or "-"),
            str(one.calls),
            _number(one.last_q),
            str(one.usage.total_tokens),
            _age(one.last_at),
        )
    screen.print(table)


@sessions.command("show")
def show_session(context: typer.Context, session: str, as_json: AsJson = False) -> None:
    """One session, turn by turn. With --json: its trajectory, whole."""
    client: Pilotfish = context.obj
    found = client.session_trajectory(session)
    if as_json:
        print(found.model_dump_json(exclude_defaults=True))
        return
    table = Table("turn", "candidates", "Q", "reason", "says")
    for i, step in enumerate(found.steps):
        decision = step.decision
        reason = f"{decision.reason} (degraded)" if decision.degraded else decision.reason
        said = escape(_one_line(_said(decision.message), 60))
        table.add_row(str(i), str(len(decision.candidates)), _number(decision.winner.q), reason,
                      said)  # fmt: skip
    screen.print(table)


@sessions.command("export")
def export_sessions(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(help="Sessions.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File, instead of standard output.")
    ] = None,
) -> None:
    """Their trajectories, JSON lines: for `select`, `pilotfish-critic`, or to be read."""
    client: Pilotfish = context.obj
    if out is not None:
        _check_writable(out)
    found = [client.session_trajectory(session) for session in ids]
    if out is None:
        for one in found:
            print(one.model_dump_json(exclude_defaults=True))
    else:
        _write(out, found, f"pilotfish sessions export {' '.join(ids)}")


@sessions.command("delete")
def delete_session(context: typer.Context, session: str) -> None:
    """Delete what is kept of a session."""
    client: Pilotfish = context.obj
    client.delete_session(session)


def _said(turn: Message) -> str:
    calls = [str((call.get("function") or {}).get("arguments")) for call in turn.tool_calls or []]
    return " ".join([turn.text, *calls])


def _watch(client: Pilotfish, run: RunView, *, quiet: bool = False) -> RunView:
    """The run when it has ended; shows its trajectories until then."""
    if quiet:
        return client.wait(run.id)
    shown = time.monotonic()
    with Live(_table(run), console=complaints, transient=True) as live:
        for event in client.events(run.id):
            # not at every event: the service reads the whole journal for it
            waited = time.monotonic() - shown
            if waited > 0.5 and event.kind in ("decided", "trajectory_started", "trajectory_ended"):
                with suppress(PilotfishError):  # the next event is waited for, or says the same
                    live.update(_table(client.get_run(run.id)))
                shown = time.monotonic()
    return client.wait(run.id)


def _show(run: RunView, as_json: bool) -> None:
    if as_json:
        print(run.model_dump_json())
        return
    screen.print(_table(run))
    if run.error:
        told = _one_line(run.error, 300)
        screen.print(f"error: {told}", highlight=False, markup=False, soft_wrap=True)
    if run.status in FINAL_STATUSES:
        told = "none" if run.selected is None else str(run.selected)
        screen.print(f"selected: {told} {f'({run.reason})' if run.reason else ''}", markup=False)


def _table(run: RunView) -> Table:
    task, tokens = escape(run.task_id), run.usage.total_tokens
    title = f"run {run.id}: {run.status}, task {task}, {tokens} tokens"
    table = Table("", "exit status", "steps", "last Q", "reward", "tokens", title=title)
    for found in run.trajectories:
        chosen = found.number == run.selected
        table.add_row(
            str(found.number),
            (found.exit_status or "...")
            + (f": {escape(_one_line(found.exit_message, 100))}" if found.exit_message else ""),
            str(found.steps),
            _number(found.last_q),
            _number(found.reward),
            str(found.usage.total_tokens),
            style="bold green" if chosen else None,
        )
    return table


def _one_line(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _age(created_at: float) -> str:
    seconds = max(0, int(time.time() - created_at))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _download(run_id: str) -> str:
    return f"pilotfish runs download {run_id}"


def _check_writable(out: Path) -> None:
    """Complain before a run of what would fail after it. What is there stays as it is."""
    try:
        new = not os.path.lexists(out)
        if not out.is_fifo():  # its reader would take this for the end
            out.open("a").close()
        if new:
            out.unlink()
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error


def _write(out: Path, trajectories: list[Trajectory], again: str) -> None:
    """``again`` is the command that gives them once more."""
    try:
        with out.open("w", encoding="utf-8") as file:
            for trajectory in trajectories:
                file.write(trajectory.model_dump_json(exclude_defaults=True) + "\n")
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror}. The service keeps the trajectories: "
            f"`{again} -o FILE`"
        ) from error


def main() -> None:
    """Run; errors are one line on standard error."""
    try:
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except (ConnectionFailed, RequestTimeout, UnexpectedAnswer) as error:
        _fail(str(error), 3)
    except ApiStatusError as error:
        _fail(str(error), 4)
    except (InputError, PilotfishError) as error:
        _fail(str(error), 2)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), 2)
    else:
        if code == 130:  # typer turns Ctrl-C into this
            _fail("stopped", 130)
        raise SystemExit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    complaints.print(f"[red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
