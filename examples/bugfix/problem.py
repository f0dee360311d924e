"""A project with one bug, an issue and hidden tests, drawn from a seed; knows no agent."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from examples.bugfix.bug import Edit, edits_of
from examples.bugfix.canonical import digest
from examples.bugfix.execution import namespace_of, outcome
from examples.bugfix.families import FAMILIES
from examples.bugfix.pieces import PIECES, Case
from examples.bugfix.project import LINES_LEAST, LINES_MOST, Project, draw_project
from examples.bugfix.wording import Symptom, statement

SPLITS = ("train", "validation", "heldout")
HIDDEN_CASES = 6
SHOWN_LONGEST = 44


@dataclass(frozen=True)
class Problem:
    """Everything about one task, also what the agent must not see."""

    number: int
    files: dict[str, str]
    repair: Edit
    symptom: Symptom
    imports: str
    statement: str
    hidden_tests: str
    digest: int

    @property
    def split(self) -> str:
        """Which split the project belongs to: a function of its canonical form alone."""
        return {0: "heldout", 1: "validation"}.get(self.digest % 16, "train")

    @property
    def fixed(self) -> dict[str, str]:
        return self.repair.apply(self.files)


def stream(seed: int = 0) -> Iterator[Problem]:
    """Problems without end, the same for the same seed; no two share a project, broken or fixed."""
    seen: set[int] = set()
    number = -1
    while True:
        number += 1
        problem = draw_problem(Random(f"{seed}:{number}"), number)
        if problem is None:
            continue
        forms = {problem.digest, digest(problem.fixed)}
        if not forms & seen:
            seen |= forms
            yield problem


def draw_problem(rng: Random, number: int) -> Problem | None:
    """One problem; None when this draw cannot be made into one."""
    family = rng.choice(list(FAMILIES))
    for _ in range(40):
        project = draw_project(rng, rng.randrange(len(PIECES)))
        if not _right_size(project):
            continue
        owners = {part.name for part in project.target.parts}
        edits = edits_of(project.files, owners, (family,))
        rng.shuffle(edits)
        for edit in edits[:4]:
            problem = _with_bug(rng, number, project, edit)
            if problem is not None:
                return problem
    return None


def _right_size(project: Project) -> bool:
    lines = sum(text.count("\n") for text in project.files.values())
    return LINES_LEAST <= lines <= LINES_MOST


def _with_bug(rng: Random, number: int, project: Project, bug: Edit) -> Problem | None:
    broken_files = bug.apply(project.files)
    right, broken = namespace_of(project.files), namespace_of(broken_files)
    if right is None or broken is None:
        return None
    target = project.target
    same, different = _cases(rng, project, right, broken)
    shown = [item for item in different if _can_be_shown(item[1], item[2])]
    if not shown or len(different) < 3:
        return None
    case, expected, actual = rng.choice(shown)
    module = project.module_of(target.entry)
    symptom = Symptom(module, target.title, target.purpose, case, str(actual[1]), str(expected))
    imports = f"from {module} import {target.entry}"
    hidden = [(c, repr(v)) for c, v, _ in different if c != case][:3]
    hidden += [(case, repr(expected))]
    hidden += [(c, repr(v)) for c, v, _ in same][: HIDDEN_CASES - len(hidden)]
    tests = _hidden_tests(rng, project, right, hidden)
    return Problem(
        number,
        broken_files,
        bug.undone(),
        symptom,
        imports,
        statement(rng, symptom),
        tests,
        digest(broken_files),
    )


Judged = tuple[Case, object, tuple[str, object]]


def _cases(
    rng: Random, project: Project, right: dict[str, object], broken: dict[str, object]
) -> tuple[list[Judged], list[Judged]]:
    """Cases on which the broken project gives the same, and those on which it does not."""
    same: list[Judged] = []
    different: list[Judged] = []
    seen = set()
    for _ in range(24):
        case = project.target.case(rng)
        if case in seen:
            continue
        seen.add(case)
        kind, expected = outcome(right, case)
        if kind != "value":
            continue
        actual = outcome(broken, case)
        if actual[0] == "slow":
            return [], []
        equal = actual[0] == "value" and repr(actual[1]) == repr(expected)
        (same if equal else different).append((case, expected, actual))
        if len(different) >= 6 and len(same) >= 3:
            break
    return same, different


def _can_be_shown(expected: object, actual: tuple[str, object]) -> bool:
    texts = (str(expected), str(actual[1]))
    if any(
        not text.strip()
        or text != text.strip()
        or len(text) > SHOWN_LONGEST
        or "`" in text
        or "object at" in text
        or "<" in text
        for text in texts
    ):
        return False
    return texts[0] != texts[1]


def _hidden_tests(
    rng: Random, project: Project, right: dict[str, object], cases: list[tuple[Case, str]]
) -> str:
    """A plain Python file that fails when any case gives something else."""
    cases = list(cases)
    for piece in project.pieces[1:]:
        for _ in range(2):
            case = piece.case(rng)
            kind, value = outcome(right, case)
            if kind == "value":
                cases.append((case, repr(value)))
    lines = ["import sys", "", 'sys.path.insert(0, ".")', ""]
    lines += [
        f"from {project.module_of(piece.entry)} import {piece.entry}" for piece in project.pieces
    ]
    lines += [
        "",
        "",
        "def check(got, wanted):",
        "    assert repr(got) == wanted, (got, wanted)",
        "",
        "",
    ]
    for case, wanted in cases:
        if case.setup:
            lines.append(case.setup)
        lines.append(f"check({case.expression}, {wanted!r})")
    return "\n".join(lines) + "\n"
