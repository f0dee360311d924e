"""What an agent turn asks for, and what it is told."""

import json

import pytest

from pilotfish import Message, Task
from pilotfish.strategy import Lookahead, Strategy
from search.actions import FormatError, parse_action, render_observation, replies_to
from search.contracts import Sample
from search.fakes import FakePolicy, FakeSandboxes, MemoryJournal
from search.replay import replay
from search.run import Run


def calling(*commands, name="bash"):
    calls = [
        {
            "id": f"call-{i}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps({"command": command})},
        }
        for i, command in enumerate(commands)
    ]
    return Message(role="assistant", content=None, tool_calls=calls)


@pytest.mark.parametrize("name", ["bash", "sh", "shell", "mswea_bash_command"])
def test_a_fenced_block_is_a_command(name):
    assert parse_action(f"Look.\n```{name}\nls -l\npwd\n```\nSo.").command == "ls -l\npwd"


def test_a_tool_call_is_a_command():
    assert parse_action(calling("ls -l")).command == "ls -l"


@pytest.mark.parametrize("turn", ["```bash\nsubmit\n```", calling(" submit\n")])
def test_submit_alone_ends_the_trajectory(turn):
    assert parse_action(turn).submits
    assert not parse_action("```bash\nsubmit now\n```").submits


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        ("", "0 bash blocks"),
        ("```python\nprint()\n```", "0 bash blocks"),
        ("```bash\n  \n```", "1 bash blocks"),
        ("```bash\nls\n```\n```bash\npwd\n```", "2 bash blocks"),
        (calling("ls", "pwd"), "2 tool calls"),
        (calling("ls", name="python"), "Call the tool bash"),
        (calling("  "), "Call the tool bash"),
        (calling(["ls"]), "Call the tool bash"),
        (Message(role="assistant", content="", tool_calls=[{"id": "c"}]), "Call the tool bash"),
    ],
)
def test_a_turn_without_exactly_one_command_is_told_so(turn, told):
    with pytest.raises(FormatError, match=told):
        parse_action(turn)


def test_each_tool_call_is_answered_by_its_id():
    replies = replies_to(calling("ls", "pwd"), "text")
    assert [(r.role, r.tool_call_id, r.content) for r in replies] == [
        ("tool", "call-0", "text"),
        ("tool", "call-1", "text"),
    ]
    assert [r.role for r in replies_to(Message.assistant("ls"), "text")] == ["user"]


def test_a_long_output_keeps_its_beginning_and_its_end():
    text = render_observation(None, "a" * 60 + "b" * 60, limit=100)
    assert text.startswith("<returncode>timeout</returncode>\n<output>\n" + "a" * 50)
    assert "20 characters left out" in text
    assert text.endswith("b" * 50 + "</output>")


async def test_a_history_answers_every_tool_call_and_is_replayed_from_its_journal():
    turns = [calling("ls", "pwd"), calling("ls", name="python"), calling("ls"), calling("submit")]

    def script(state, n):
        return [Sample(index=0, message=turns[sum(m.role == "assistant" for m in state)])]

    journal = MemoryJournal()
    run = Run(
        Task(id="t", statement="s", image="host"),
        FakePolicy(script),
        None,
        FakeSandboxes(lambda command: f"ran {command}"),
        Strategy(lookahead=Lookahead(k=1)),
        journal,
    )
    [trajectory] = (await run.run()).trajectories
    assert trajectory.exit_status == "Submitted"
    open_calls: set[str] = set()
    for message in trajectory.messages:
        if message.role == "tool":
            open_calls.remove(message.tool_call_id)
        else:
            assert not open_calls
        if message.role == "assistant":
            open_calls |= {call["id"] for call in message.tool_calls}
    [begun] = replay(await journal.entries()).values()
    assert begun.trajectory.messages == trajectory.messages
