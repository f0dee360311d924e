"""SWE-bench-like rows: made into tasks, and judged on real repositories by real pytest."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pilotfish.swebench import (
    ACTIVATE,
    FOLDER,
    JUDGE,
    TESTBED,
    RowError,
    SweBenchOptions,
    paths_of,
    submission_command,
    task_of,
)
from pilotfish.swebench_judge import of_lines, of_reports, outcome_of
from pilotfish.tasks import TaskFileError, read_tasks
from search.commands import run_by
from search.evaluation import evaluate, submission_of
from service.sandboxes.bubblewrap import BubblewrapProvider, BubblewrapSettings
from tests.swebench_rows import git, make

PYTHON = f'export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PATH="{sys.prefix}/bin:$PATH"'


@pytest.fixture(scope="module")
def instances(tmp_path_factory):
    return make(tmp_path_factory.mktemp("rows"))


class Place:
    """A repository where an agent worked, and what the sandbox does with a task there."""

    def __init__(self, instance, folder, **options):
        self.folder, self.row = folder, instance.row
        self.task = task_of(self.row, SweBenchOptions(activate=PYTHON, **options))
        subprocess.run(["git", "clone", "-q", instance.repository, folder], check=True)
        for command in self.task.setup:
            self.sh(command)

    def sh(self, command, check=True):
        return subprocess.run(
            ["sh", "-c", command], cwd=self.folder, capture_output=True, text=True, check=check
        )

    def write(self, path, text):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def apply(self, patch):
        subprocess.run(["git", "apply", "-"], cwd=self.folder, input=patch.encode(), check=True)

    def submission(self):
        return self.sh(self.task.submission).stdout

    def judge(self):
        for path, text in self.task.evaluation.files.items():
            self.write(path, text)
        done = self.sh(self.task.evaluation.command, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(params=[0, 1, 2], ids=["sums", "words", "bounds"])
def place(request, instances, tmp_path):
    return Place(instances[request.param], tmp_path / "testbed")


@pytest.fixture
def sums(instances, tmp_path):
    return Place(instances[0], tmp_path / "testbed")


# ---- the judge


def test_the_bug_fails_and_its_patch_passes(place):
    code, said = place.judge()
    assert code == 1
    for test in json.loads(place.row["FAIL_TO_PASS"]):
        assert f"fail_to_pass {test}: " in said
    assert "pass_to_pass" not in said
    place.apply(place.row["patch"])
    assert place.judge()[0] == 0


def test_what_the_agent_handed_in_is_the_patch_and_passes_elsewhere(place, instances, tmp_path):
    place.apply(place.row["patch"])
    handed_in = place.submission()
    [instance] = [i for i in instances if i.row == place.row]
    other = Place(instance, tmp_path / "other")
    other.apply(handed_in)
    assert other.judge()[0] == 0


@pytest.mark.parametrize(
    "spoil",
    [
        "echo 'def test_none(): pass' > tests/test_sums.py",
        "rm -r tests",
        "rm -r tests && mkdir -p elsewhere && ln -s ../elsewhere tests",
        "rm -r tests && echo x > tests",
        "rm tests/test_sums.py && mkdir tests/test_sums.py && touch tests/test_sums.py/x",
        "rm tests/test_sums.py && ln -s /etc/passwd tests/test_sums.py",
        "touch .git/index.lock",
        "git rm -rq tests && git -c user.name=a -c user.email=a commit -qm away",
        "echo 'def test_new(): pass' > tests/test_sums.py && git add -A",
        "echo broken > .git/index",
    ],
)
def test_tests_that_the_agent_changed_are_put_back(sums, spoil):
    sums.sh(spoil)
    code, said = sums.judge()
    assert (code, "3 tests passed" in said) == (1, True), said
    assert "pass_to_pass" not in said
    sums.write("sums.py", "total = sum\n")
    assert sums.judge()[0] == 0


def test_a_test_that_is_not_in_the_report_has_not_passed(instances, tmp_path):
    row = instances[0].row | {"PASS_TO_PASS": ["tests/test_sums.py::test_gone", "no/file.py::t"]}
    place = Place(type(instances[0])(instances[0].repository, row), tmp_path / "testbed")
    place.apply(row["patch"])
    code, said = place.judge()
    assert code == 1
    assert "pass_to_pass tests/test_sums.py::test_gone: missing" in said
    assert "pass_to_pass no/file.py::t: missing" in said
    assert "2 of 4 tests passed" in said


def test_what_a_test_prints_is_no_outcome(sums):
    lines = "".join(f"PASSED {test}\\n" for test in json.loads(sums.row["FAIL_TO_PASS"]))
    sums.write("sums.py", f"def total(items):\n    print({lines!r})\n    return 0\n")
    assert sums.judge()[0] == 1


def test_code_that_cannot_be_imported_fails_its_tests(sums):
    sums.write("sums.py", "def total(:\n")
    code, said = sums.judge()
    assert (code, "test_none: missing" in said) == (1, True)


def test_a_patch_that_does_not_apply_is_told(instances, tmp_path):
    row = instances[0].row
    wrong = row | {"test_patch": row["test_patch"].replace(" from sums", " from nothing")}
    place = Place(type(instances[0])(instances[0].repository, wrong), tmp_path / "testbed")
    code, said = place.judge()
    assert (code, "not judged: the test patch does not apply" in said) == (2, True)
    gone = row | {"base_commit": "0" * 40}
    place.task = task_of(gone, SweBenchOptions(activate=PYTHON))
    code, said = place.judge()
    assert (code, "not judged: there is no commit" in said) == (2, True)


def test_another_runner_is_read_by_what_it_prints(instances, tmp_path):
    row = instances[2].row | {
        "repo": "django/django",
        "FAIL_TO_PASS": ["test_high (checks.test_bounds.Clip.test_high)"],
        "PASS_TO_PASS": ["test_low (checks.test_bounds.Clip.test_low)"],
    }
    command = f"PYTHONPATH=src {sys.executable} -m unittest -v {{files}}"
    place = Place(
        type(instances[2])(instances[2].repository, row), tmp_path / "t", test_command=command
    )
    assert place.judge()[0] == 1
    place.apply(row["patch"])
    code, told = place.judge()
    assert (code, "2 of 2 tests passed" in told) == (0, True)


@pytest.fixture
def shown():
    """A folder that a sandbox's user may read, with what pytest is made of."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for module in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"):
            source = Path(importlib.util.find_spec(module).origin).parent
            shutil.copytree(source, folder / "site" / module)
        shutil.copy(importlib.util.find_spec("py").origin, folder / "site")
        for name in ("pytest", "pluggy"):  # it looks up their versions
            told = Path(pytest.__file__).parents[1].glob(f"{name}-[0-9]*.dist-info")
            shutil.copytree(info := next(told), folder / "site" / info.name)
        yield folder


async def test_it_is_judged_in_a_real_sandbox(shown, tmp_path):
    instance = make(shown / "repositories")[1]
    settings = BubblewrapSettings(state_dir=tmp_path / "state", binds=[shown])
    task = task_of(instance.row, SweBenchOptions(activate=f"export PYTHONPATH={shown}/site"))
    clone = f"git -c safe.directory='*' clone -q {instance.repository} ."
    setup = ["git config --global safe.directory '*'", clone, *task.setup]
    task = task.model_copy(update={"image": "host", "setup": setup})
    for mended in (False, True):
        async with BubblewrapProvider(settings).start(task) as sandbox:
            if mended:
                await sandbox.write("p", instance.row["patch"])
                await sandbox.execute("git apply p && rm p", action_id="a", timeout=20)
            handed_in = await submission_of(sandbox, task)
            judged = await evaluate(sandbox, task)
            command = run_by(task, task.evaluation.command)
            said = await sandbox.execute(command, action_id="evaluation", timeout=1)  # as recorded
            assert judged == (float(mended), ""), said.output
            assert ("split()" in handed_in) == mended


def test_the_judge_is_written_for_old_pythons():
    ast.parse(JUDGE.read_text(), feature_version=(3, 6))


# ---- what is handed in


def test_a_submission_has_everything_and_changes_nothing(sums):
    sums.write("new/file ü.py", "x = 1\n")
    (sums.folder / "data.bin").write_bytes(bytes(range(256)))
    sums.write("sums.py", "total = sum\n")
    sums.write("tests/test_sums.py", "of no use")
    sums.write("staged.py", "y = 1\n")
    sums.sh("git add staged.py && echo 'z = 2' > staged.py && echo '*.log' > .gitignore")
    sums.write("noise.log", "n")
    sums.sh("git -c user.name=a -c user.email=a@b commit -qm half sums.py")
    before = sums.sh("git status --porcelain; git ls-files -s; git count-objects -v").stdout
    patch = sums.submission()
    assert sums.sh("git status --porcelain; git ls-files -s; git count-objects -v").stdout == before
    assert sorted(paths_of(patch)) == [
        ".gitignore", "data.bin", "new/file ü.py", "staged.py", "sums.py",
    ]  # fmt: skip
    git(sums.folder, "stash", "-q", "-u")
    git(sums.folder, "checkout", "-q", sums.row["base_commit"])
    sums.apply(patch)
    assert (sums.folder / "data.bin").read_bytes() == bytes(range(256))
    assert (sums.folder / "staged.py").read_text() == "z = 2\n"
    assert (sums.folder / "sums.py").read_text() == "total = sum\n"


def test_nothing_done_hands_in_nothing(sums):
    assert sums.submission() == ""


def test_what_the_image_changed_is_not_the_agents(instances, tmp_path):
    place = Place(instances[0], tmp_path / "testbed")
    place.write("setup.cfg", "[x]\n")
    for command in place.task.setup:
        place.sh(command)
    place.write("sums.py", "total = sum\n")
    assert paths_of(place.submission()) == ["sums.py"]


def test_settings_of_the_agents_git_do_not_show(sums):
    for setting in ("color.ui always", "diff.noprefix true", "diff.external cat",
                    "diff.mnemonicPrefix true", "core.pager cat"):  # fmt: skip
        sums.sh(f"git config {setting}")
    sums.write("sums.py", "total = sum\n")
    assert paths_of(sums.submission()) == ["sums.py"]
    assert "diff --git a/sums.py b/sums.py" in sums.submission()


def test_without_a_start_on_record_the_base_commit_is_it(sums):
    sums.sh("git for-each-ref --format='delete %(refname)' refs/pilotfish | git update-ref --stdin")
    sums.write("sums.py", "total = sum\n")
    assert paths_of(sums.submission()) == ["sums.py"]
    assert "test_sums" in submission_command(sums.row["base_commit"], ["tests/test_sums.py"])


def test_what_python_compiled_is_not_handed_in(sums):
    sums.write("__pycache__/sums.pyc", "x")
    sums.write("deep/er/__pycache__/a/b.pyc", "x")
    assert sums.submission() == ""
    sums.write("deep/er/pycache.py", "x = 1\n")
    assert paths_of(sums.submission()) == ["deep/er/pycache.py"]


# ---- rows


def test_a_row_is_a_task(instances):
    row = instances[0].row
    task = task_of(row)
    assert (task.id, task.workdir) == ("tiny__sums-1", "/testbed")
    assert task.image == "swebench/sweb.eval.x86_64.tiny_1776_sums-1:latest"
    assert "`total([1, 2])` gives 2" in task.statement
    assert task.evaluation.timeout == 1800
    assert task.evaluation.command.startswith(ACTIVATE)
    assert task.path == [TESTBED]
    assert TESTBED in task.statement
    assert all(path.startswith(FOLDER) for path in task.evaluation.files)
    assert row["patch"] not in task.model_dump_json()
    lists = row | {name: json.loads(row[name]) for name in ("FAIL_TO_PASS", "PASS_TO_PASS")}
    assert task_of(lists) == task


@pytest.mark.parametrize(
    ("template", "extra", "image"),
    [
        ("r/{repo}:{version}-{instance_id}", {}, "r/tiny/sums:1.0-tiny__sums-1"),
        (None, {"image_name": "own/a:1"}, "own/a:1"),
        (None, {"docker_image": "own/b:1"}, "own/b:1"),
        ("x/{slug}", {"docker_image": "own/b:1"}, "x/tiny_1776_sums-1"),
        ("{unknown}", {}, "{unknown}"),
    ],
)
def test_the_image_is_as_told(instances, template, extra, image):
    assert task_of(instances[0].row | extra, SweBenchOptions(image=template)).image == image


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"repo": "django/django"}, "the tests of django/django are not run by pytest"),
        ({"repo": "sympy/sympy"}, "the tests of sympy/sympy are not run by pytest"),
        ({"FAIL_TO_PASS": "[]", "PASS_TO_PASS": []}, "names no test"),
        ({"FAIL_TO_PASS": "[1"}, "FAIL_TO_PASS: "),
        ({"FAIL_TO_PASS": "[1]"}, "FAIL_TO_PASS.0: "),
        ({"base_commit": "$(rm -rf /)"}, "base_commit: "),
        ({"problem_statement": None}, "problem_statement: "),
    ],
)
def test_a_row_that_is_none_says_why(instances, changes, told):
    with pytest.raises(RowError) as caught:
        task_of(instances[0].row | changes)
    assert told in str(caught.value)


# ---- reading


def test_paths_of_a_patch_are_those_of_git(tmp_path):
    git(tmp_path, "init", "-q")
    old = {"a.py": "x\n" * 9, "b c.py": "1\n", "gone.py": "1\n", "ü\t\".py": "1\n",
           "mode.sh": "1\n", "bin": "\0\1"}  # fmt: skip
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "1")
    (tmp_path / "a.py").rename(tmp_path / "moved.py")
    (tmp_path / "b c.py").write_text("-- a/no.py\n++ b/no.py\n")
    (tmp_path / "gone.py").unlink()
    (tmp_path / 'ü\t".py').write_text("2\n")
    (tmp_path / "mode.sh").chmod(0o755)
    (tmp_path / "bin").write_bytes(b"\0\2")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "2")
    patch = git(tmp_path, "show", "--binary", "-M", "--format=")
    back = git(tmp_path, "show", "--binary", "-M", "-R", "--format=")
    assert set(paths_of(patch)) == set(paths_of(back)) == {*old, "moved.py"}


NAMES = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=12)
PARAMETERS = st.text(st.characters(codec="ascii", min_codepoint=32), max_size=20)
IDS = st.builds(lambda name, told: f"tests/test_a.py::test_{name}[{told}]",
                st.from_regex(r"[a-z_]{1,8}", fullmatch=True), PARAMETERS)  # fmt: skip
OUTCOMES = st.sampled_from(["passed", "failed", "skipped"])


@given(st.dictionaries(IDS, OUTCOMES, max_size=8), st.lists(NAMES))
def test_reports_are_read_by_whole_ids(tests, noise):
    lines = []
    for test, outcome in tests.items():
        for phase in ("setup", "call", "teardown"):
            said = outcome if phase == "call" else "passed"
            lines.append(json.dumps({"id": test, "phase": phase, "outcome": said, "xfail": False}))
    assert of_reports([*lines, '{"id": "cut sho']) == tests
    for test in tests:
        assert outcome_of(test, tests) == tests[test]


@given(st.dictionaries(IDS, st.sampled_from(["PASSED", "XFAIL", "FAILED"]), max_size=8))
@example({"tests/test_a.py::test_x[a - b]": "PASSED"})
def test_lines_of_pytest_are_read_by_whole_ids(tests):
    found = of_lines([f"{word} {test}" for test, word in tests.items()])
    for test, word in tests.items():
        expected = "passed" if word != "FAILED" else "failed"
        assert outcome_of(test, found) in (expected, "failed")
        assert word == "FAILED" or found[test] in ("passed", "failed")


@given(st.lists(st.text()))
def test_no_text_breaks_the_reading(lines):
    assert set(of_lines(lines).values()) <= {"passed", "failed"}
    assert set(of_reports(lines).values()) == set()


@given(IDS, st.dictionaries(IDS, OUTCOMES, min_size=1, max_size=5))
def test_an_id_that_was_cut_at_its_space_stands_for_all_that_begin_so(test, tests):
    cut = test.split(None, 1)[0]
    same = [outcome for name, outcome in tests.items() if name.split(None, 1)[0] == cut]
    if cut not in tests:
        assert (outcome_of(cut, tests) == "passed") == (bool(same) and set(same) == {"passed"})


@given(st.text())
def test_any_text_is_read_as_a_patch_without_harm(text):
    assert isinstance(paths_of(text), list)


def test_reports_around_a_test_count(tmp_path):
    def report(phase, outcome, xfail=False):
        return json.dumps({"id": "t", "phase": phase, "outcome": outcome, "xfail": xfail})

    assert of_reports([report("setup", "passed")]) == {"t": "not finished"}
    whole = [report("setup", "passed"), report("call", "passed"), report("teardown", "failed")]
    assert of_reports(whole) == {"t": "error in teardown"}
    assert of_reports([report("call", "skipped", True)]) == {"t": "xfailed"}
    assert of_reports([report("call", "passed", True)]) == {"t": "xpassed"}
    assert of_reports([report("setup", "failed")]) == {"t": "error in setup"}
    assert of_reports(["[]"]) == {}


# ---- files


OWN = {"id": "t1", "statement": "s", "image": "host"}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_all_kinds_of_files_are_read(instances, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [instance.row for instance in instances]
    ids = [row["instance_id"] for row in rows]
    write(tmp_path / "a.jsonl", [*rows, OWN])
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.json").write_text(json.dumps(OWN))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    lists = [row | {"FAIL_TO_PASS": json.loads(row["FAIL_TO_PASS"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(lists), tmp_path / "e.parquet")
    pq.write_table(pa.Table.from_pylist([OWN | {"evaluation": {"command": "x"}}]),
                   tmp_path / "f.parquet")  # fmt: skip
    found = {path.name: [t.id for t in read_tasks(path)] for path in sorted(tmp_path.iterdir())}
    assert found == {"a.jsonl": [*ids, "t1"], "b.json": ids, "c.json": ["t1"], "d.parquet": ids,
                     "e.parquet": ids, "f.parquet": ["t1"]}  # fmt: skip


def test_parquet_without_pyarrow_says_what_to_do(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pilotfish.tasks import read_tasks, TaskFileError\n"
        "try: list(read_tasks(sys.argv[1]))\n"
        "except TaskFileError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.parquet"],
                          capture_output=True, text=True, env=os.environ)  # fmt: skip
    assert "pip install pyarrow" in done.stdout, done.stderr


def test_subsets_and_splits_are_columns_files_or_folders(tmp_path):
    def tasks(**asked):
        return [task.id for task in read_tasks(tmp_path, **asked)]

    def own(*names, **columns):
        return [OWN | {"id": name} | columns for name in names]

    write(tmp_path / "lite" / "test-00000-of-00001.jsonl", own("a"))
    write(tmp_path / "lite" / "dev.jsonl", own("b"))
    write(tmp_path / "full" / "test.jsonl", own("c"))
    assert tasks() == ["c", "b", "a"]
    assert tasks(split="test") == ["c", "a"]
    assert tasks(subset="lite", split="test") == ["a"]
    with pytest.raises(TaskFileError, match="has no row of split 'nope'"):
        tasks(split="nope")
    rows = [dict(row, split=told) for row, told in zip(own("x", "y"), ("dev", "test"), strict=True)]
    assert [t.id for t in read_tasks(write(tmp_path / "z" / "z.jsonl", rows), split="dev")] == ["x"]


def test_what_is_wrong_is_told_by_row(instances, tmp_path):
    row = instances[0].row
    for rows, told in (
        ([row, row], r":2: 'tiny__sums-1' is there already, .*:1"),
        ([OWN, {"id": "t2", "statement": "s"}], ":2: image: Field required"),
        ([OWN, 5], ":2: it is not a JSON object"),
        ([OWN, {}], ":2: it has neither an instance_id nor an id"),
        ([row | {"repo": "django/django"}], ":1: .*are not run by pytest"),
    ):
        with pytest.raises(TaskFileError, match=told):
            list(read_tasks(write(tmp_path / "a.jsonl", rows)))
    (tmp_path / "b.jsonl").write_text(json.dumps(OWN) + "\n\n{]\n")
    with pytest.raises(TaskFileError, match=r"b.jsonl:3: it is not JSON"):
        list(read_tasks(tmp_path / "b.jsonl"))
    (tmp_path / "c.parquet").write_bytes(b"no")
    with pytest.raises(TaskFileError, match=r"c.parquet:1: it is not Parquet"):
        list(read_tasks(tmp_path / "c.parquet"))


def test_a_row_that_is_not_wanted_may_be_one_that_cannot_be(instances, tmp_path):
    rows = [instances[0].row, instances[1].row | {"repo": "sympy/sympy"}]
    found = read_tasks(write(tmp_path / "a.jsonl", rows), wanted=lambda name: "sums" in name)
    assert [task.id for task in found] == ["tiny__sums-1"]
