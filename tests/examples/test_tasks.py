"""The bug-fixing tasks: deterministic, split by canonical form, and true in what they say."""

from itertools import islice

import pytest

from examples.bugfix.canonical import canonical_form
from examples.bugfix.commands import check_command
from examples.bugfix.families import FAMILIES
from examples.bugfix.problem import Problem, stream
from examples.bugfix.sandbox import execute, workspace, write_files
from examples.bugfix.tasks import COUNTS, EVALUATION, HIDDEN_FILE, as_task
from pilotfish.task import Task

DRAWN = 4200


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Problem]]:
    found: dict[str, list[Problem]] = {split: [] for split in COUNTS}
    for problem in stream(0):
        if len(found[problem.split]) < COUNTS[problem.split]:
            found[problem.split].append(problem)
        if all(len(found[split]) == count for split, count in COUNTS.items()):
            break
    return found


def _rewarded(files: dict[str, str], hidden_tests: str) -> bool:
    with workspace(files) as folder:
        write_files(folder, {HIDDEN_FILE: hidden_tests})
        return execute(folder, EVALUATION)[0] == 0


def test_counts_and_families(splits: dict[str, list[Problem]]) -> None:
    assert len(splits["train"]) >= 2000
    assert len(splits["heldout"]) == 200
    assert len(FAMILIES) >= 15
    assert {problem.repair.family for problem in splits["heldout"]} == set(FAMILIES)


def test_no_heldout_project_equals_a_training_project_after_renaming(
    splits: dict[str, list[Problem]],
) -> None:
    heldout = {canonical_form(problem.files) for problem in splits["heldout"]}
    others = {
        canonical_form(problem.files)
        for split in ("train", "validation")
        for problem in splits[split]
    }
    assert len(heldout) == len(splits["heldout"])
    assert not heldout & others
    fixed = {canonical_form(problem.fixed) for problem in splits["heldout"]}
    assert not fixed & {canonical_form(problem.fixed) for problem in splits["train"]}


def test_renaming_and_reordering_keep_the_canonical_form() -> None:
    one = {"shop.py": 'LIMIT = 3\n\ndef cost(rows):\n    return sum(r["price"] for r in rows)\n'}
    two = {
        "a.py": 'def worth(xs):\n    """All."""\n    return sum(x["fee"] for x in xs)\n',
        "b.py": "TOP = 3\n",
    }
    three = {"a.py": two["a.py"], "b.py": "TOP = 4\n"}
    assert canonical_form(one) == canonical_form(two)
    assert canonical_form(one) != canonical_form(three)


def test_the_same_seed_gives_the_same_problems() -> None:
    assert list(islice(stream(3), 20)) == list(islice(stream(3), 20))
    assert list(islice(stream(3), 20)) != list(islice(stream(4), 20))


def test_sizes(splits: dict[str, list[Problem]]) -> None:
    for problem in splits["heldout"] + splits["train"]:
        lines = sum(text.count("\n") for text in problem.files.values())
        assert 20 <= lines <= 80
        assert 1 <= len(problem.files) <= 3


def test_tasks_have_the_form_that_is_run(splits: dict[str, list[Problem]]) -> None:
    for problem in splits["heldout"]:
        task = Task.model_validate(as_task(problem))
        assert task.evaluation is not None
        assert HIDDEN_FILE not in task.files


def test_hidden_tests_fail_on_the_bug_and_pass_on_the_repair(
    splits: dict[str, list[Problem]],
) -> None:
    for problem in splits["heldout"] + splits["train"][::60] + splits["validation"][::10]:
        assert not _rewarded(problem.files, problem.hidden_tests), problem.number
        assert _rewarded(problem.fixed, problem.hidden_tests), problem.number


def test_the_issue_tells_the_truth(splits: dict[str, list[Problem]]) -> None:
    for problem in splits["heldout"] + splits["train"][::60]:
        symptom = problem.symptom
        assert symptom.expected in problem.statement
        with workspace(problem.files) as folder:
            _, actual = execute(folder, check_command(problem))
            write_files(folder, problem.fixed)
            code, expected = execute(folder, check_command(problem))
        assert (code, expected.strip()) == (0, symptom.expected)
        assert actual.strip().split("\n")[-1] == symptom.actual
