"""Unmodified scaffolds over the wire, as docs/integrations has them: guided by real critic and
policy, and what each received is what was chosen."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.e2e.scaffold import (
    OF_THE_POLICY,
    ROOT,
    SERVICE,
    Project,
    blocks,
    bugs,
    cut,
    said,
    sessions,
    spoken,
    trajectories,
)

pytestmark = pytest.mark.vllm

SHOW = {
    "openai": """
turns = [m for m in messages if not isinstance(m, dict)]
shown = [[t.content, *(c.function.arguments for c in t.tool_calls or [])] for t in turns]
""",
    "anthropic": """
turns = [m["content"] for m in messages if m["role"] == "assistant"]
shown = [[b.text if b.type == "text" else b.input for b in blocks] for blocks in turns]
""",
    "openai-agents": """
items = result.to_input_list()
shown = [
    [i["arguments"]] if i.get("type") == "function_call" else [c["text"] for c in i["content"]]
    for i in items if i.get("type") == "function_call" or i.get("role") == "assistant"
]
""",
    "pydantic-ai": """
parts = [part for m in result.all_messages() if m.kind == "response" for part in m.parts]
shown = [[p.content if p.part_kind == "text" else p.args_as_json_str()] for p in parts]
""",
    "smolagents": """
turns = [s.model_output_message for s in agent.memory.steps if hasattr(s, "model_output_message")]
shown = [[t.content, *(c.function.arguments for c in t.tool_calls or [])] for t in turns]
""",
    "langgraph": """
turns = [m for m in state["messages"] if m.type == "ai"]
shown = [[t.text, *(c["args"] for c in t.tool_calls)] for t in turns]
""",
    "inspect": """
from inspect_ai.log import resolve_sample_attachments
sample = resolve_sample_attachments(log.samples[0], "full")
turns = [e.output.message for e in sample.events if e.event == "model"]
shown = [[t.text, *(c.arguments for c in t.tool_calls or [])] for t in turns]
""",
}
"""After a page's example: the agent turns that the scaffold holds, as it holds them."""
DUMP = """
import json
print(json.dumps(shown))
"""


TRIES = 5


def guided(trajectory, k=4):
    """Every step had K candidates with their Q, and the best of them was chosen."""
    assert trajectory.steps
    for step in trajectory.steps:
        decision = step.decision
        assert not decision.degraded
        assert len(decision.candidates) == k
        scores = [c.q for c in decision.candidates]
        assert all(q is not None and 0 <= q <= 1 for q in scores)
        assert decision.winner.q == max(scores)


def run_until_it_submits(page, code, stack_url, tmp_path):
    """The example on one bug after the other, until the policy did its part."""
    for problem in bugs(TRIES):
        known = sessions(stack_url)
        project = Project(tmp_path / f"bug-{problem.number}", problem, stack_url)
        done = project.python(code)
        found = trajectories(stack_url, known)
        if done.returncode == 0 and not cut(found):
            return done.stdout, found
        assert done.returncode == 0 or any(n in done.stderr for n in OF_THE_POLICY), done.stderr
    raise AssertionError(f"{page}: the policy submitted on none of {TRIES} bugs")


@pytest.mark.parametrize("page", SHOW)
def test_an_agent_is_guided_and_gets_what_was_chosen(page, stack_url, tmp_path):
    code = blocks(page, "python")[0] + SHOW[page] + DUMP
    out, [trajectory] = run_until_it_submits(page, code, stack_url, tmp_path)
    guided(trajectory)
    received = spoken(json.loads(out.splitlines()[-1]))
    assert received == said(trajectory)
    assert any(isinstance(part, dict) for part in received)  # calls of tools, not only text


def test_litellm_gets_what_was_chosen_at_once_and_streamed(stack_url, tmp_path):
    [code] = blocks("litellm", "python")
    out, [whole, streamed] = run_until_it_submits("litellm", code, stack_url, tmp_path)
    guided(whole)
    guided(streamed, k=2)
    assert [part for t in (whole, streamed) for part in said(t)] == [
        part.strip() for part in split_answers(out)
    ]


def split_answers(out):
    """Two printed answers, each of which ends with its fence."""
    first, fence, rest = out.partition("\n```\n")
    return [first + fence, rest]


def run_mini(command, stack_url, tmp_path, *, prepare=lambda project: None):
    """A command of docs/integrations/mini-swe-agent.md on one bug after the other, until no turn
    was cut; gives the project's folder and the sessions' trajectories."""
    for problem in bugs(TRIES):
        project = Project(tmp_path / f"bug-{problem.number}", problem, stack_url)
        [config] = blocks("mini-swe-agent", "yaml")
        (project.folder / "pilotfish.yaml").write_text(config.replace(SERVICE, stack_url))
        example = (ROOT / "examples/bugfix/mini.yaml").read_text()
        (project.folder / "bugfix.yaml").write_text(example)
        prepare(project)
        known = sessions(stack_url)
        done = project.run(["bash", "-c", command])
        assert done.returncode == 0, done.stderr
        found = trajectories(stack_url, known)
        if not cut(found):
            return project.folder, found
    raise AssertionError(f"of {TRIES} attempts each had a turn that was cut")


def commands(name):
    lines = "\n".join(blocks("mini-swe-agent", "bash")).splitlines()
    return [line for line in lines if line.startswith(name)]


def turns_of(file):
    turns = [m for m in json.loads(file.read_text())["messages"] if m["role"] == "assistant"]
    assert turns
    return turns


def received(turns):
    return spoken(
        [t["content"], *(c["function"]["arguments"] for c in t.get("tool_calls") or [])]
        for t in turns
    )


def test_mini_is_guided_on_one_task(stack_url, tmp_path):
    folder, [trajectory] = run_mini(commands("mini ")[0], stack_url, tmp_path)
    guided(trajectory)
    turns = turns_of(folder / "fixed.traj.json")
    assert received(turns) == said(trajectory)
    told = [turn["extra"]["response"]["pilotfish"]["q"] for turn in turns]
    assert told == [step.decision.winner.q for step in trajectory.steps]


def test_minis_batch_runner_is_guided(stack_url, tmp_path):
    rows = [
        {
            "instance_id": f"bug-{problem.number}",
            "problem_statement": problem.statement,
            "setup": " && ".join(
                f"printf %s {shlex.quote(text)} > {name}" for name, text in problem.files.items()
            ),
        }
        for problem in bugs(2)
    ]

    def prepare(project):
        (project.folder / "tasks").mkdir()
        text = "\n".join(map(json.dumps, rows)) + "\n"
        (project.folder / "tasks" / "test.jsonl").write_text(text)

    own = ["environment.cwd=", "run.env_startup_command={{setup}}"]  # instead of images
    [command] = commands("mini-extra swebench")
    command += "".join(f" -c {shlex.quote(setting)}" for setting in own)
    folder, found = run_mini(command, stack_url, tmp_path, prepare=prepare)
    predictions = json.loads((folder / "attempts" / "preds.json").read_text())
    assert set(predictions) == {row["instance_id"] for row in rows}
    for trajectory in found:
        guided(trajectory)
    chosen = sorted(str(said(trajectory)) for trajectory in found)
    files = sorted((folder / "attempts").glob("*/*.traj.json"))
    assert sorted(str(received(turns_of(file))) for file in files) == chosen
    assert len(chosen) == 2


def test_minis_model_of_ours_keeps_every_candidate(stack_url, tmp_path):
    command = f"export PILOTFISH_URL={stack_url} PILOTFISH_KEY=sk-1; {commands('mini ')[1]}"
    folder, [trajectory] = run_mini(command, stack_url, tmp_path)
    guided(trajectory, k=2)
    turns = turns_of(folder / "candidates.traj.json")
    for turn, step in zip(turns, trajectory.steps, strict=True):
        told = turn["extra"]["pilotfish"]
        assert [c["q"] for c in told["candidates"]] == [c.q for c in step.decision.candidates]
        assert told["session"] == trajectory.id
        assert received([turn]) == spoken([[step.decision.message.text, *arguments(step)]])
    assert "sk-1" not in (folder / "candidates.traj.json").read_text()


def arguments(step):
    return [c["function"]["arguments"] for c in step.decision.message.tool_calls or []]


def test_inspects_solver_of_ours_tells_decisions_and_selects_an_epoch(stack_url, tmp_path):
    code = blocks("inspect", "python")[1]
    project = Project(tmp_path / "project", next(bugs(1)), stack_url)
    known = sessions(stack_url)
    done = project.python(code)
    assert done.returncode == 0, done.stderr
    runs = trajectories(stack_url, known)
    assert len(runs) == 2
    *epochs, chosen = done.stdout.splitlines()
    told = sorted(json.loads(line.split(" ", 1)[1]) for line in epochs)
    assert told == sorted([step.decision.winner.q for step in t.steps] for t in runs)
    best = max(runs, key=lambda t: t.last_q)
    [number] = [
        line.split(" ", 1)[0]
        for line in epochs
        if json.loads(line.split(" ", 1)[1]) == [s.decision.winner.q for s in best.steps]
    ]
    assert chosen == f"{{'queue': {number}}}"
