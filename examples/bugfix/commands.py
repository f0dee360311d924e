"""The shell commands by which an agent looks, edits and checks; knows nothing of when."""

import re
from random import Random

from examples.bugfix.bug import Edit
from examples.bugfix.problem import Problem

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_QUOTED = re.compile(r"[^\"$\\\\`!\n]+")
_SAFE = re.compile(r"[\w ,()+<>=!:\"%{}|@;#~/-]*")


def fragments(before: str, after: str) -> tuple[str, str] | None:
    """The shortest differing pieces of two lines that sed can substitute, if any.

    >>> fragments("    if a < b:", "    if a <= b:")
    ('<', '<=')
    >>> fragments("x[0]", "x[1]")
    ('0', '1')
    """
    a, b = _TOKEN.findall(before), _TOKEN.findall(after)
    head = 0
    while head < min(len(a), len(b)) and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    ends = [(head, tail)]
    for step in (1, 2, 3):
        ends += [
            (head, max(0, tail - step)),
            (max(0, head - step), tail),
            (max(0, head - step), max(0, tail - step)),
        ]
    for start, rest in ends:
        old = "".join(a[start : len(a) - rest])
        new = "".join(b[start : len(b) - rest])
        if (
            old.strip()
            and _SAFE.fullmatch(old)
            and _SAFE.fullmatch(new)
            and not ("/" in old + new and "|" in old + new)
            and before.replace(old, new, 1) == after
        ):
            return old, new
    return None


def sed_script(rng: Random, edit: Edit) -> str:
    """The sed script that makes an edit."""
    found = fragments(edit.before, edit.after)
    if found is None or rng.random() < 0.3:
        return f"{edit.number}c\\{edit.after}"
    sign = "|" if "/" in "".join(found) else "/"
    return f"{edit.number}s{sign}{found[0]}{sign}{found[1]}{sign}"


def edit_command(rng: Random, *edits: Edit) -> str:
    """One sed call that makes the edits, which are all of one file."""
    scripts = [sed_script(rng, edit) for edit in edits]
    joined = "' -e '".join(scripts)
    return f"sed -i {'-e ' if len(scripts) > 1 else ''}'{joined}' {edits[0].path}"


def check_command(problem: Problem) -> str:
    """Runs the example of the issue. Without byte code: an edit within the same second counts."""
    case = problem.symptom.case
    setup = f"{case.setup}; " if case.setup else ""
    return f"python3 -Bc '{problem.imports}; {setup}print({case.expression})'"


def compare_command(problem: Problem) -> str:
    """The same, compared with what is wanted: the exit code tells. To compare texts by reading them
    a model of this size hardly learns, least of all a critic, which sees few of them."""
    expected = problem.symptom.expected
    command = check_command(problem)
    return f'{command} | grep -Fx "{expected}"' if _QUOTED.fullmatch(expected) else command


def locate_command(name: str) -> str:
    kind = "class" if name[0].isupper() else "def"
    return f'grep -Hn "{kind} {name}" *.py'


def view_command(rng: Random, name: str, where: str) -> str:
    """Shows a definition with line numbers, or the whole file it is in."""
    if name.isupper():
        return f'grep -n "{name}" {where}'
    if name[0].isupper():
        return f'grep -n -A{rng.choice([16, 20])} "class {name}" {where}'
    return f'grep -n -A{rng.choice([8, 10])} "def {name}" {where}'
