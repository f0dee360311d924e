"""A batch under way, on the screen: a table that is drawn again on a terminal, else a line for each
task that ends. Knows nothing of the service."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pilotfish.batch.results import Result, Share, Summary, Tally
from pilotfish.batch.running import Listener
from pilotfish.errors import PilotfishError


class Progress(Listener):
    """Shows ``total`` tasks, of which ``through`` had results before."""

    def __init__(self, console: Console, total: int, through: int) -> None:
        self._console, self._total, self._through = console, total, through
        self._tally, self._running, self._ended = Tally(), dict[str, float](), 0
        self._began = time.monotonic()
        self._away = ""

    def shown(self) -> AbstractContextManager[Any]:
        if not self._console.is_terminal:
            return nullcontext()
        return Live(
            get_renderable=self._table, console=self._console, refresh_per_second=2, transient=True
        )

    def began(self, task_id: str) -> None:
        self._running[task_id] = time.monotonic()

    def ended(self, result: Result, *, again: bool) -> None:
        self._running.pop(result.task_id, None)
        self._away = ""
        if not again:
            self._ended += 1
            self._tally.add(result)
        if not self._console.is_terminal:
            self._say(f"{self._count}  {result.task_id}: {_told(result, again)}")

    def waiting(self, error: PilotfishError) -> None:
        if not self._away and not self._console.is_terminal:
            self._say(f"waiting for the service: {error}")
        self._away = str(error)

    @property
    def _count(self) -> str:
        return f"[{self._through + self._ended}/{self._total}]"

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        summary = self._tally.summary
        table = Table(title=f"{self._count} tasks", title_style="bold")
        for name in ("done", "running", "failed", "resolved so far", "tokens", "ETA"):
            table.add_column(name, justify="right")
        table.add_row(
            str(self._through + summary.done),
            str(len(self._running)),
            str(summary.infrastructure + summary.refused),
            share(summary.resolved),
            f"{summary.usage.total_tokens:,}",
            self._eta(),
        )
        now = time.monotonic()
        for task_id, began in sorted(self._running.items(), key=lambda item: item[1])[:10]:
            table.add_row("", _clock(now - began), "", escape(task_id), "", "", style="dim")
        if self._away:
            table.caption = escape(f"waiting for the service: {self._away}")
        return table

    def _eta(self) -> str:
        if not self._ended:
            return "-"
        left = self._total - self._through - self._ended
        return _clock((time.monotonic() - self._began) / self._ended * left)


def lines_of(summary: Summary) -> list[str]:
    """The summary for a reader."""
    lines = [
        f"{summary.tasks} tasks: {summary.done} done, {summary.infrastructure} failed by the "
        f"infrastructure, {summary.refused} refused; {summary.submitted} submitted"
    ]
    if summary.evaluated:
        lines.append(f"resolved: {share(summary.resolved)} of {summary.evaluated} evaluated")
        lines.append(
            f"oracle of N: {share(summary.oracle)}; random of N: {_percent(summary.random)}"
        )
    tokens = summary.usage
    lines.append(
        f"tokens: {tokens.total_tokens:,} ({tokens.prompt_tokens:,} in, "
        f"{tokens.completion_tokens:,} out); time of all runs: {_clock(summary.seconds)}"
    )
    told = ", ".join(f"{name} {count}" for name, count in summary.exit_statuses.items())
    lines.append(f"exit statuses: {told or 'none'}")
    return lines


def share(found: Share | None) -> str:
    """``60.0 % (31.3 to 83.2)``."""
    if found is None:
        return "-"
    return f"{_percent(found.value)} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _told(result: Result, again: bool) -> str:
    reward = result.reward
    outcome = {None: "", 0.0: ", not resolved"}.get(reward, ", resolved")
    tokens = f", {result.usage.total_tokens:,} tokens" if result.attempts else ""
    error = f" ({' '.join(result.error.split())[:200]})" if result.error else ""
    more = ", tried again" if again else ""
    kind = "" if result.outcome == "done" else f"{result.outcome}: "
    return f"{kind}{result.exit_status}{outcome}{tokens}{error}{more}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
