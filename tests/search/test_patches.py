"""When two patches are one answer, and what majority makes of it."""

from hypothesis import given
from hypothesis import strategies as st

from pilotfish import Check
from pilotfish.strategy import Selection
from search.fakes import FakePolicy, FakeSandboxes
from search.patches import cleaned
from search.selection import select
from tests.search.test_run import TASK, THREE_TURNS, make_run, respond
from tests.search.test_selection import attempt

ONE = """diff --git a/a.py b/a.py
index 111..222 100644
--- a/a.py
+++ b/a.py
@@ -1,2 +1,2 @@ def f():
-    return 1
+    return 2
diff --git a/b.py b/b.py
new file mode 100644
index 000..333
--- /dev/null
+++ b/b.py
@@ -0,0 +1 @@
+x = 1
"""


def files(patch):
    first, second = patch.split("diff --git a/b.py")
    return first, "diff --git a/b.py" + second


def test_names_of_objects_order_and_white_space_make_no_difference():
    first, second = files(ONE)
    other = (second + first).replace("111..222", "999..888").replace(" def f():", " class C:")
    assert cleaned(other.replace("return 2\n", "return 2  \n") + "\n\n") == cleaned(ONE)
    assert cleaned(ONE.replace("\n", "\r\n")) == cleaned(ONE)


def test_what_is_changed_and_where_makes_one():
    assert cleaned(ONE.replace("return 2", "return 3")) != cleaned(ONE)
    assert cleaned(ONE.replace("-1,2 +1,2", "-9,2 +9,2")) != cleaned(ONE)
    assert cleaned(ONE.replace("100644\nindex 000", "100755\nindex 000")) != cleaned(ONE)
    assert cleaned(files(ONE)[0]) != cleaned(ONE)
    assert cleaned("answer: 4") != cleaned("answer: 5")


@given(st.text())
def test_cleaning_again_changes_nothing(text):
    assert cleaned(cleaned(text)) == cleaned(text)


def handed_in(q, patch, *, submitted=True):
    made = attempt(q, submitted=submitted)
    made.submission = patch
    return made


def test_the_answer_that_was_given_most_often_is_chosen_and_of_it_the_best():
    other = ONE.replace("return 2", "return 3")
    attempts = [
        handed_in(0.9, other),
        handed_in(0.2, ONE),
        handed_in(0.4, ONE.replace("111", "777")),
        handed_in(0.95, ONE, submitted=False),
        handed_in(0.5, None),
    ]
    choice = select(attempts, rule="majority")
    assert (choice.chosen, choice.reason) == (2, "majority")
    assert choice.ranking == [2, 1, 0, 4, 3]


async def test_the_same_patch_is_tested_once():
    task = TASK.model_copy(
        update={"submission": "git diff", "regression_tests": [Check(command="old test")]}
    )
    sandboxes = FakeSandboxes(respond)
    run = make_run(
        FakePolicy(THREE_TURNS), task=task, sandboxes=sandboxes,
        selection=Selection(n=3, rule="hybrid", concurrency=1),
    )  # fmt: skip
    result = await run.run()
    assert [t.regression_passed for t in result.trajectories] == [1, 1, 1]
    ran = [command for sandbox in sandboxes.all.values() for command in sandbox.ran]
    assert ran.count("old test") == 1
