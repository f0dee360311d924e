"""All bug-fixing tasks that there are: drawn once, which takes most of a minute."""

import pytest

from examples.bugfix.canonical import canonical_form
from examples.bugfix.families import FAMILIES
from examples.bugfix.problem import Problem, stream
from examples.bugfix.tasks import COUNTS, HIDDEN_FILE, as_task
from pilotfish.task import Task
from tests.examples.truth import repair_is_rewarded, tells_the_truth

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Problem]]:
    found: dict[str, list[Problem]] = {split: [] for split in COUNTS}
    for problem in stream(0):
        if len(found[problem.split]) < COUNTS[problem.split]:
            found[problem.split].append(problem)
        if all(len(found[split]) == count for split, count in COUNTS.items()):
            break
    return found


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
        repair_is_rewarded(problem)


def test_the_issue_tells_the_truth(splits: dict[str, list[Problem]]) -> None:
    for problem in splits["heldout"] + splits["train"][::60]:
        tells_the_truth(problem)
