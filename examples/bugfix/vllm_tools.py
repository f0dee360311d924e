"""A plugin for vLLM's ``--tool-parser-plugin``: the policy's fenced command as a call of a tool, so
that agents that act by tools can be driven by a policy that has never seen any. The other way, of
calls in a history into fences, is the chat template's. Runs in vLLM's process, not in ours.

A turn ``Look.\\n```bash\\nls\\n``` `` is the content ``Look.`` and a call of the first tool, with
the command for its first argument. The command ``submit`` calls a tool by which the agent ends, if
there is one (its name has ``submit`` or ``final`` in it).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.tool_parsers.abstract_tool_parser import ToolParser, ToolParserManager

OPEN, CLOSE, SUBMIT = "```bash\n", "\n```", "submit"


class Turn:
    """What can be told for certain of a turn so far. Nothing that it tells is taken back as the
    text grows."""

    def __init__(self, text: str) -> None:
        before, opened, rest = text.partition(OPEN)
        command, closed, _ = rest.partition(CLOSE)
        self.content = (before if opened else _certain(before, OPEN)).rstrip("\n")
        self.command = None if not opened else command if closed else _certain(command, CLOSE)
        self.closed = bool(closed)


def _certain(text: str, mark: str) -> str:
    """The text without an end that may become the mark."""
    begun = (n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n]))
    return text[: -next(begun, 0) or None]


class Call:
    """The call of one of the tools that a command is."""

    def __init__(self, tools: Sequence[Any], command: str) -> None:
        functions = [tool.function for tool in tools]
        ends = [f for f in functions if "submit" in f.name or "final" in f.name]
        acts = [f for f in functions if f not in ends]
        chosen = ((ends + acts) if command == SUBMIT else (acts + ends))[0]
        schema = chosen.parameters or {}
        names = [*schema.get("required", ()), *schema.get("properties", ())]
        self.name = chosen.name
        self.arguments = json.dumps({names[0]: command} if names else {}, ensure_ascii=False)


@ToolParserManager.register_module("fenced")
class FencedToolParser(ToolParser):  # type: ignore[misc]
    """One instance a choice of an answer."""

    supports_required_and_named = False  # nothing but a fence is ever parsed

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        turn = Turn(model_output)
        if turn.command is None or not turn.closed:
            return ExtractedToolCallInformation(
                tools_called=False, tool_calls=[], content=model_output
            )
        call = Call(request.tools, turn.command)
        function = FunctionCall(name=call.name, arguments=call.arguments)
        made = ToolCall(id=_new_id(), type="function", function=function)
        return ExtractedToolCallInformation(
            tools_called=True, tool_calls=[made], content=turn.content or None
        )

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: Any,
    ) -> DeltaMessage | None:
        turn, content = Turn(current_text), len(Turn(previous_text).content)
        message = DeltaMessage()
        if len(turn.content) > content:
            message.content = turn.content[content:]
        if turn.command is not None and (turn.closed or not SUBMIT.startswith(turn.command)):
            message.tool_calls = self._call(request, turn)
        return message if message.content or message.tool_calls else None

    def _call(self, request: Any, turn: Turn) -> list[DeltaToolCall]:
        call = Call(request.tools, turn.command or "")
        arguments = call.arguments if turn.closed else call.arguments.removesuffix('"}')
        if not self.prev_tool_call_arr:  # names of the base class, at which vLLM looks
            made = {"name": call.name, "arguments": arguments}
            self.prev_tool_call_arr: list[dict[str, str]] = [made]
            self.streamed_args_for_tool = [arguments]
            self.current_tool_id = 0
            first = DeltaFunctionCall(name=call.name, arguments=arguments)
            return [DeltaToolCall(index=0, id=_new_id(), type="function", function=first)]
        new = arguments[len(self.streamed_args_for_tool[0]) :]
        self.prev_tool_call_arr[0]["arguments"] = self.streamed_args_for_tool[0] = arguments
        function = DeltaFunctionCall(arguments=new)
        return [DeltaToolCall(index=0, function=function)] if new else []


def _new_id() -> str:
    return f"call_{uuid4().hex}"
