"""Judges a SWE-bench-like task, in the sandbox that the agent left. Knows nothing of Pilotfish.

It is written into the sandbox and run there by whatever Python the repository has (3.6 at least),
so it takes the standard library alone. It puts the tests' files back as the base commit has them,
applies the test patch, runs the test files, and exits with 0 if every test named passed: 1 if one
did not, 2 if it could not be found out.

Under pytest it is also the plugin that notes each test's outcome, by its whole id: printed text
could be the agent's.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

REPORT = "PILOTFISH_REPORT"
PASSING = ("passed", "xfailed")


class Impossible(Exception):
    """It cannot be found out whether the tests pass."""


def main(path: str) -> int:
    with open(path, encoding="utf-8") as file:
        asked = json.load(file)
    folder = tempfile.mkdtemp(prefix="judge-")
    try:
        restore(asked["base_commit"], asked["touched"], folder)
        apply(asked["test_patch"])
        outcomes = run(asked, folder)
    except Impossible as error:
        print("not judged: " + str(error))
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    wrong = 0
    for kind in ("fail_to_pass", "pass_to_pass"):
        for test in asked[kind]:
            outcome = outcome_of(test, outcomes)
            if outcome not in PASSING:
                wrong += 1
                print("{} {}: {}".format(kind, test, outcome))
    total = len(asked["fail_to_pass"]) + len(asked["pass_to_pass"])
    print("{} of {} tests passed".format(total - wrong, total))
    return 1 if wrong else 0


# ---- the repository


def git(*words: str, given: bytes = b"", index: str = "") -> "tuple[int, bytes, str]":
    """Exit code, output and complaint."""
    env = dict(os.environ, GIT_INDEX_FILE=index) if index else None
    done = subprocess.Popen(
        ["git", "-c", "safe.directory=*", "-c", "core.quotePath=false", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    out, err = done.communicate(given)
    return done.returncode, out, err.decode("utf-8", "replace").strip()


def restore(commit: str, paths: "list[str]", folder: str) -> None:
    """Put the files back as they are in ``commit``; away with those that it does not have. The
    index is one of our own: the agent's may be locked or broken."""
    index = os.path.join(folder, "index")
    code, _, said = git("read-tree", commit, index=index)
    if code:
        raise Impossible("there is no commit {}: {}".format(commit, said))
    present = []
    for path in paths:
        remove(path)
        code, found, said = git("ls-files", "-z", "--", ":(literal)" + path, index=index)
        if code:
            raise Impossible(said)
        if found:
            present.append(path)
    given = b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in present)
    code, _, said = git("checkout-index", "-f", "-q", "-z", "--stdin", given=given, index=index)
    if code:
        raise Impossible("the tests' files cannot be put back: " + said)


def remove(path: str) -> None:
    """Also a link or a folder that stands on the way to it, or in its place."""
    parent = os.path.dirname(path)
    if parent:
        remove_unless_folder(parent)
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)


def remove_unless_folder(path: str) -> None:
    if os.path.dirname(path):
        remove_unless_folder(os.path.dirname(path))
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)


def apply(patch: str) -> None:
    if not patch.strip():
        return
    given = patch.encode("utf-8", "surrogateescape")
    code, _, said = git("apply", "--whitespace=nowarn", "-", given=given)
    if code:
        raise Impossible("the test patch does not apply: " + said)


# ---- the tests


def run(asked: "dict[str, object]", folder: str) -> "dict[str, str]":
    """Outcome by test id."""
    files = [str(file) for file in asked["files"] if os.path.isfile(str(file))]  # type: ignore[attr-defined]
    if not files:
        raise Impossible("none of the test files is there")
    if asked["test_command"]:
        quoted = " ".join(shlex.quote(file) for file in files)
        command = str(asked["test_command"]).replace("{files}", quoted)
        shell = "bash" if shutil.which("bash") else "sh"
        return of_lines(show([shell, "-c", command], dict(os.environ)))
    report = os.path.join(folder, "report.jsonl")
    open(report, "w").close()
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH")) if part)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    env.update({"PYTHONPATH": path, REPORT: report})
    name = os.path.splitext(os.path.basename(__file__))[0]
    options = ["-p", name, "--rootdir=.", "--continue-on-collection-errors", "-rA"]
    show([sys.executable, "-m", "pytest", *options, *files], env)
    with open(report, encoding="utf-8") as lines:
        return of_reports(lines)


def show(command: "list[str]", env: "dict[str, str]") -> "list[str]":
    """Run it; what it says, line by line."""
    said = []
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    )
    assert process.stdout is not None
    for line in process.stdout:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        print(text.encode("ascii", "backslashreplace").decode("ascii"), flush=True)
        said.append(text)
    process.wait()
    return said


def pytest_runtest_logreport(report: "object") -> None:
    """Pytest's hook: a phase of a test is over."""
    note(report, getattr(report, "when", ""))


def pytest_collectreport(report: "object") -> None:
    """Pytest's hook: a file was read. Only where that failed is it told."""
    if getattr(report, "outcome", "") == "failed":
        note(report, "collect")


def note(report: "object", phase: str) -> None:
    path = os.environ.get(REPORT)
    if path is None or "PYTEST_XDIST_WORKER" in os.environ:
        return  # the process that started the workers hears of it too
    fields = {
        "id": getattr(report, "nodeid", ""),
        "phase": phase,
        "outcome": getattr(report, "outcome", ""),
        "xfail": hasattr(report, "wasxfail"),
    }
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


def of_reports(lines: "object") -> "dict[str, str]":
    """Outcome by id, of what the plugin noted. A test passed if it did and nothing around it
    failed; one that was run again counts as it was the last time."""
    outcomes = {}  # type: dict[str, str]
    for line in lines:  # type: ignore[attr-defined]
        try:
            fields = json.loads(line)
            test, phase, outcome = fields["id"], fields["phase"], fields["outcome"]
        except (ValueError, KeyError, TypeError):
            continue  # pytest was killed while it wrote this
        if phase == "setup":
            outcomes[test] = "not finished"
        if outcome == "failed":
            outcomes[test] = "failed" if phase == "call" else "error in " + phase
        elif outcome == "skipped":
            outcomes[test] = "xfailed" if fields["xfail"] else "skipped"
        elif phase == "call" and outcome == "passed":
            outcomes[test] = "xpassed" if fields["xfail"] else "passed"
    return outcomes


_LINES = (
    # pytest -rA
    (re.compile(r"^(PASSED|XFAIL) (?P<id>\S.*?)(?: - .*)?$"), "passed"),
    (re.compile(r"^(FAILED|ERROR) (?P<id>\S.*?)(?: - .*)?$"), "failed"),
    # unittest, verbose
    (re.compile(r"^(?P<id>\S.*?) \.\.\. (ok|OK|expected failure)$"), "passed"),
    (re.compile(r"^(?P<id>\S.*?) \.\.\. (FAIL|ERROR|skipped\b.*|unexpected success)$"), "failed"),
    # sympy's own
    (re.compile(r"^(?P<id>test_\w+) ok(?:\s+\[OK\])?$"), "passed"),
    (re.compile(r"^(?P<id>test_\w+) [FE](?:\s+\[FAIL\])?$"), "failed"),
)


def of_lines(lines: "list[str]") -> "dict[str, str]":
    """Outcome by id, of what a runner printed: lines as ``pytest -rA``, verbose unittest and sympy
    print them. Of a test that is told of twice, the worse counts.

    >>> of_lines(["PASSED a.py::t[x - y]", "t (m.C) ... FAIL"])["t (m.C)"]
    'failed'
    """
    outcomes = {}  # type: dict[str, str]
    for line in lines:
        for pattern, outcome in _LINES:
            found = pattern.match(line)
            if found is None:
                continue
            names = {found.group("id")}
            if line.startswith(("PASSED ", "XFAIL ")):
                names.add(line.split(" ", 1)[1])  # an id may hold " - " itself
            for name in names:
                if outcomes.get(name) != "failed":
                    outcomes[name] = outcome
            break
    return outcomes


def outcome_of(test: str, outcomes: "dict[str, str]") -> str:
    """Of a test that a row names. SWE-bench's rows have ids that end at their first space: such a
    one stands for all tests that begin so, and each must have passed.

    >>> outcome_of("a.py::t[x", {"a.py::t[x y]": "passed", "a.py::t[x z]": "failed"})
    'failed'
    >>> outcome_of("a.py::t", {"a.py::t2": "passed"})
    'missing'
    """
    if test in outcomes:
        return outcomes[test]
    cut = [outcome for name, outcome in outcomes.items() if name.split(None, 1)[0] == test]
    wrong = [outcome for outcome in cut if outcome not in PASSING]
    return (wrong or cut or ["missing"])[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
