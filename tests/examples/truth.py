"""What has to be true of every bug-fixing task; each check runs it for real."""

from examples.bugfix.commands import check_command
from examples.bugfix.problem import Problem
from examples.bugfix.sandbox import execute, workspace, write_files
from examples.bugfix.tasks import EVALUATION, HIDDEN_FILE


def repair_is_rewarded(problem: Problem) -> None:
    """Hidden tests fail on the bug and pass on its repair."""
    assert not _rewarded(problem.files, problem.hidden_tests), problem.number
    assert _rewarded(problem.fixed, problem.hidden_tests), problem.number


def tells_the_truth(problem: Problem) -> None:
    """The call that the issue shows gives what it says, before and after the repair."""
    symptom = problem.symptom
    assert symptom.expected in problem.statement
    with workspace(problem.files) as folder:
        _, actual = execute(folder, check_command(problem))
        write_files(folder, problem.fixed)
        code, expected = execute(folder, check_command(problem))
    assert (code, expected.strip()) == (0, symptom.expected)
    last = actual.strip().split("\n")[-1]
    hint = " Did you mean: "  # which Python adds where it prints an error
    assert last.split(hint)[0].removesuffix(".") == symptom.actual.removesuffix(".")


def _rewarded(files: dict[str, str], hidden_tests: str) -> bool:
    with workspace(files) as folder:
        write_files(folder, {HIDDEN_FILE: hidden_tests})
        return execute(folder, EVALUATION)[0] == 0
