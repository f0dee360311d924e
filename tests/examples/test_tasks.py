"""The bug-fixing tasks: deterministic, split by canonical form, and true in what they say."""

from itertools import islice

import pytest

from examples.bugfix.canonical import canonical_form
from examples.bugfix.problem import Problem, stream
from tests.examples.truth import repair_is_rewarded, tells_the_truth


@pytest.fixture(scope="module")
def some() -> list[Problem]:
    return list(islice(stream(0), 20))


def test_hidden_tests_fail_on_the_bug_and_pass_on_the_repair(some: list[Problem]) -> None:
    for problem in some:
        repair_is_rewarded(problem)


def test_the_issue_tells_the_truth(some: list[Problem]) -> None:
    for problem in some:
        tells_the_truth(problem)


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
    assert list(islice(stream(3), 5)) == list(islice(stream(3), 5))
    assert list(islice(stream(3), 5)) != list(islice(stream(4), 5))
