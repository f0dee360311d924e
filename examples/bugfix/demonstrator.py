"""A scripted agent that solves, or fails to solve, tasks by real commands; knows no model.

It knows where the bug is, and acts as somebody who does not: it looks, guesses, sometimes wrongly,
and is careful to a degree drawn anew for each demonstration. The hidden tests label the result.

python -m examples.bugfix.demonstrator --out build/bugfix/demonstrations.jsonl
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rich.progress import track

from examples.bugfix import SYSTEM_PROMPT
from examples.bugfix.bug import Edit, edits_of
from examples.bugfix.commands import (
    check_command,
    compare_command,
    edit_command,
    locate_command,
    view_command,
)
from examples.bugfix.execution import namespace_of, outcome
from examples.bugfix.families import FAMILIES
from examples.bugfix.problem import SPLITS, Problem
from examples.bugfix.sandbox import execute, workspace, write_files
from examples.bugfix.tasks import EVALUATION, HIDDEN_FILE, problems
from search.actions import SUBMIT, render_observation

MOST_EDITS = 4


@dataclass(frozen=True)
class Manner:
    """How careful a demonstrator is, as probabilities."""

    first_right: float = 0.5
    """The first edit is the right one."""
    later_right: float = 0.5
    """A later edit is the right one."""
    checks: float = 0.6
    """It runs the example of the issue after an edit."""
    gives_up: float = 0.35
    """It submits although the check failed."""


@dataclass
class Attempt:
    """A demonstration in the making."""

    problem: Problem
    folder: Path
    rng: Random
    messages: list[dict[str, str]] = field(default_factory=list)

    def turn(self, thought: str, command: str) -> str:
        """Take one turn; returns the command's output."""
        text = f"{thought}\n" if thought else ""
        self._say("assistant", f"{text}```bash\n{command}\n```")
        if command == SUBMIT:
            return ""
        code, output = execute(self.folder, command)
        self._say("user", render_observation(code, output))
        return output

    def _say(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)


def demonstrate(problem: Problem, seed: int, manner: Manner | None = None) -> dict[str, object]:
    """One demonstration with its reward, by executing commands."""
    rng = Random(f"demonstration:{seed}:{problem.number}")
    with workspace(problem.files) as folder:
        attempt = Attempt(problem, folder, rng)
        attempt._say("system", SYSTEM_PROMPT)
        attempt._say("user", problem.statement)
        _look(attempt)
        _repair(attempt, manner or Manner())
        write_files(folder, {HIDDEN_FILE: problem.hidden_tests})
        code, _ = execute(folder, EVALUATION)
    return {
        "task": f"bugfix-{problem.number:05d}",
        "reward": float(code == 0),
        "messages": attempt.messages,
    }


def _look(attempt: Attempt) -> None:
    """Find and read the code; sometimes see the bug first."""
    problem, rng = attempt.problem, attempt.rng
    entry, module = problem.imports.split()[-1], f"{problem.symptom.module}.py"
    known = module in problem.statement
    if not known:
        thought = attempt.pick("Where is it?", "Find the code first.", f"Locate {entry}.")
        command = locate_command(entry)
        if rng.random() < 0.15:
            attempt.turn(attempt.pick("See what is here.", "List the files."), "ls")
        attempt.turn(thought, command)
    if rng.random() < 0.12:
        attempt.turn(attempt.pick("See it fail first.", "Reproduce it."), check_command(problem))
    thought = attempt.pick(f"Read {entry}.", "Look at the code.", f"Look at {entry} in {module}.")
    whole = rng.random() < 0.12
    attempt.turn(thought, f"cat -n {module}" if whole else view_command(rng, entry, module))
    owner = problem.repair.owner
    if owner != entry and not (whole and problem.repair.path == module):
        thought = attempt.pick(f"It uses {owner}.", f"Look at {owner} too.")
        attempt.turn(thought, view_command(rng, owner, "*.py"))


def _repair(attempt: Attempt, manner: Manner) -> None:
    """Edit until a check passes, or until patience ends; then submit."""
    problem, rng = attempt.problem, attempt.rng
    wrong = _wrong_edits(attempt)
    made: Edit | None = None
    remark = ""
    for count in range(MOST_EDITS):
        right = rng.random() < (manner.first_right if count == 0 else manner.later_right)
        edit = problem.repair if right or not wrong else wrong.pop()
        _change(attempt, edit, made, remark)
        made = edit
        if rng.random() > manner.checks:
            attempt.turn(attempt.pick("Done.", "That should be it.", "Fixed, I think.", ""), SUBMIT)
            return
        if rng.random() < 0.1:
            attempt.turn("See the new line.", f"sed -n '{edit.number}p' {edit.path}")
        output = _check(attempt)
        expected = problem.symptom.expected
        if output == expected:
            attempt.turn(attempt.pick("It matches. Done.", f"{expected} is right."), SUBMIT)
            return
        if rng.random() < manner.gives_up or count == MOST_EDITS - 1:
            attempt.turn(attempt.pick("Good enough.", "I stop here.", "I give up."), SUBMIT)
            return
        last = output.split("\n")[-1][:60]
        remark = attempt.pick(f"It gives {last}." if last else "No match.", "Not fixed.")


def _check(attempt: Attempt) -> str:
    """Run the issue's example; returns what it gave."""
    thought = attempt.pick("Check it.", "Run the example.", "Test it.", "")
    return attempt.turn(thought, compare_command(attempt.problem)).strip()


def _change(attempt: Attempt, edit: Edit, made: Edit | None, remark: str) -> None:
    """Make an edit after taking back the one before, both in one command if possible."""
    rng = attempt.rng
    thought = _reason(rng, edit)
    if made is None:
        attempt.turn(thought, edit_command(rng, edit))
        return
    if made.path == edit.path and made.number == edit.number:
        edits = [Edit(edit.path, edit.number, made.after, edit.after, edit.family, edit.owner)]
    elif made.path == edit.path:
        edits = [made.undone(), edit]
    else:
        attempt.turn(f"{remark} Undo.", edit_command(rng, made.undone()))
        attempt.turn(thought, edit_command(rng, edit))
        return
    attempt.turn(f"{remark} {thought}".strip(), edit_command(rng, *edits))


def _reason(rng: Random, edit: Edit) -> str:
    """What is said to be wrong with a line."""
    words = rng.choice(FAMILIES[edit.family].repair)
    forms = (
        f"Line {edit.number}: {words}.",
        f"In line {edit.number} {words}.",
        f"{words[0].upper()}{words[1:]} in line {edit.number}.",
    )
    return rng.choice(forms)


def _wrong_edits(attempt: Attempt) -> list[Edit]:
    """Plausible edits that do not undo the bug, half of them on its line, in random order."""
    problem, rng = attempt.problem, attempt.rng
    repair = problem.repair
    entry = problem.imports.split()[-1]
    edits = [
        edit
        for edit in edits_of(problem.files, {repair.owner, entry})
        if (edit.path, edit.number, edit.after) != (repair.path, repair.number, repair.after)
    ]
    rng.shuffle(edits)
    near = [edit for edit in edits if edit.number == repair.number and edit.path == repair.path]
    far = [edit for edit in edits if edit not in near]
    mixed: list[Edit] = []
    for _ in range(2 * MOST_EDITS):
        source = near if (near and rng.random() < 0.5) or not far else far
        edit = source.pop() if source else None
        if edit is not None and _ends(edit.apply(problem.files), problem):
            mixed.append(edit)
    return mixed


def _ends(files: dict[str, str], problem: Problem) -> bool:
    """Whether the code loads and the issue's example ends soon."""
    space = namespace_of(files)
    return space is not None and outcome(space, problem.symptom.case)[0] != "slow"


def _job(item: tuple[Problem, int]) -> dict[str, object]:
    return demonstrate(*item)


def demonstrations(items: list[tuple[Problem, int]], workers: int) -> Iterator[dict[str, object]]:
    """Demonstrations of (problem, seed) pairs, in order."""
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_job, items, chunksize=16)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make demonstrations by executing commands.")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--out", type=Path, default=Path("build/bugfix/demonstrations.jsonl"))
    parser.add_argument("--count", type=int, help="how many tasks (default: the whole split)")
    parser.add_argument("--each", type=int, default=2, help="demonstrations of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    chosen = list(problems(options.split, options.count, options.seed))
    items = [(p, options.seed * options.each + i) for i in range(options.each) for p in chosen]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    solved = 0.0
    with options.out.open("w") as out:
        for row in track(demonstrations(items, options.workers), "demonstrations", len(items)):
            solved += float(str(row["reward"]))
            out.write(json.dumps(row) + "\n")
    print(f"{len(items)} demonstrations, {solved / len(items):.1%} solve their task")


if __name__ == "__main__":
    main()
