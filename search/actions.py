"""What an agent turn asks for, and how its result is shown to the agent. Knows no sandbox.

A turn acts in one of two ways: one fenced ``bash`` block in its text, or one call of a tool named
``bash`` with a ``command``. The command ``submit`` alone ends the trajectory.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel

from pilotfish import Message

SUBMIT = "submit"
_FENCE = re.compile(r"```(?:bash|sh|shell|mswea_bash_command)[ \t]*\n(.*?)\n?```", re.DOTALL)


class FormatError(Exception):
    """The turn asks for nothing that can be executed. The text is what the agent is told."""


class Action(BaseModel):
    """One command."""

    command: str

    @property
    def submits(self) -> bool:
        return self.command.strip() == SUBMIT


def parse_action(turn: Message | str) -> Action:
    """The command of an agent turn.

    Raises: ``FormatError`` unless there is exactly one command.

    >>> parse_action("Look first.\\n```bash\\nls -l\\n```").command
    'ls -l'
    """
    if isinstance(turn, str):
        turn = Message.assistant(turn)
    if turn.tool_calls:
        return _from_tool_calls(turn)
    blocks = _FENCE.findall(turn.text)
    if len(blocks) != 1 or not blocks[0].strip():
        raise FormatError(
            f"Your turn has {len(blocks)} bash blocks. Write exactly one: "
            "```bash, the command, ```. Run submit alone when done."
        )
    return Action(command=blocks[0])


def _from_tool_calls(turn: Message) -> Action:
    calls = turn.tool_calls or []
    if len(calls) != 1:
        raise FormatError(f"Your turn has {len(calls)} tool calls. Make exactly one, of bash.")
    function: Any = calls[0].get("function")
    try:
        name, command = function["name"], json.loads(function["arguments"])["command"]
    except (ValueError, KeyError, TypeError, RecursionError):
        name = command = None
    if name != "bash" or not isinstance(command, str) or not command.strip():
        raise FormatError('Call the tool bash with {"command": "..."}.')
    return Action(command=command)


def render_observation(exit_code: int | None, output: str, *, limit: int = 10_000) -> str:
    """The text that shows a command's result to the agent, at most about ``limit`` characters of
    output: its beginning and its end.

    >>> render_observation(0, "ok\\n")
    '<returncode>0</returncode>\\n<output>\\nok\\n</output>'
    """
    if len(output) > limit:
        cut = len(output) - limit
        half = limit // 2
        output = f"{output[:half]}\n[... {cut} characters left out ...]\n{output[-half:]}"
    code = "timeout" if exit_code is None else str(exit_code)
    return f"<returncode>{code}</returncode>\n<output>\n{output}</output>"


def replies_to(turn: Message, text: str) -> list[Message]:
    """The messages that tell the agent ``text`` in the form its turn came: endpoints want one for
    each tool call, and refuse the history otherwise."""
    ids = [call.get("id") for call in turn.tool_calls or []]
    replies = [Message(role="tool", content=text, tool_call_id=i) for i in ids if i is not None]
    return replies or [Message.user(text)]
