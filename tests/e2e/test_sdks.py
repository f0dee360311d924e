"""The SDKs of OpenAI and Anthropic against real policy and critic: whole and streamed, at once and
asynchronously, with tools. What each received is what was chosen."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest

from examples.bugfix import SYSTEM_PROMPT
from examples.bugfix.tasks import problems
from pilotfish import Pilotfish
from tests.e2e.scaffold import said, spoken

pytestmark = pytest.mark.vllm
MODEL = "bugfix-policy"
ISSUE = next(problems("heldout", 1)).statement
HISTORY = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": ISSUE}]
SCHEMA = {
    "type": "object",
    "properties": {"command": {"type": "string"}},
    "required": ["command"],
}
BASH = {"type": "function", "function": {"name": "bash", "parameters": SCHEMA}}


@pytest.fixture
def session(stack_url, request):
    """A name of a session, and what was chosen in it in the end."""
    name = request.node.name.replace("[", "-").replace("]", "")
    return name, lambda: chosen_in(stack_url, name)


def chosen_in(stack_url, name, k=4):
    with Pilotfish(stack_url) as client:
        trajectory = client.session_trajectory(name)
    for step in trajectory.steps:
        assert len(step.decision.candidates) == k
        assert all(c.q is not None for c in step.decision.candidates)
    return said(trajectory)


def turn(message):
    calls = message.tool_calls or []
    return spoken([[message.content, *(call.function.arguments for call in calls)]])


@pytest.mark.parametrize("tools", [openai.omit, [BASH]], ids=["text", "tools"])
async def test_openais_chat_whole_and_streamed_is_what_was_chosen(stack_url, session, tools):
    name, chosen = session
    url, options = f"{stack_url}/sessions/{name}/v1", {"max_tokens": 160, "tools": tools}
    with openai.OpenAI(base_url=url, api_key="none") as client:
        whole = client.chat.completions.create(model=MODEL, messages=HISTORY, **options)
        message = whole.choices[0].message
        assert turn(message) == chosen()
        calls = message.tool_calls or []
        told = "<returncode>0</returncode>\n<output>\n</output>"
        replies = [{"role": "tool", "tool_call_id": c.id, "content": told} for c in calls]
        history = [*HISTORY, message, *(replies or [{"role": "user", "content": told}])]
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=history, stream=True, **options
        )
        chunks = [chunk.choices[0] async for chunk in stream if chunk.choices]
    # put together here: the SDK's own way takes a turn that was cut at its tokens for an error
    text = "".join(chunk.delta.content or "" for chunk in chunks)
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    given = "".join(call.function.arguments or "" for call in calls)
    assert [*turn(whole.choices[0].message), *spoken([[text, given]])] == chosen()
    finish = next(chunk.finish_reason for chunk in chunks if chunk.finish_reason)
    assert finish in (("tool_calls",) if calls else ("stop", "length"))


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_openais_responses_go_on_from_each_other(stack_url, session, streamed):
    name, chosen = session
    tool = {"type": "function", "name": "bash", "parameters": SCHEMA, "strict": False}
    options = {"model": MODEL, "tools": [tool], "max_output_tokens": 160}
    received = []
    with openai.OpenAI(base_url=f"{stack_url}/sessions/{name}/v1", api_key="none") as client:

        def ask(**asked):
            if not streamed:
                return client.responses.create(**options, **asked)
            with client.responses.stream(**options, **asked) as stream:
                types = [event.type for event in stream]
                assert types[0] == "response.created"
                assert types[-1] in ("response.completed", "response.incomplete")
                return stream.get_final_response()

        answer = ask(instructions=SYSTEM_PROMPT, input=ISSUE)
        for _ in range(2):
            calls = [item for item in answer.output if item.type == "function_call"]
            received += spoken([[answer.output_text, *(call.arguments for call in calls)]])
            outputs = [
                {"type": "function_call_output", "call_id": call.call_id, "output": "<output>\n"}
                for call in calls
            ] or "Go on."
            answer = ask(instructions=SYSTEM_PROMPT, input=outputs, previous_response_id=answer.id)
        calls = [item for item in answer.output if item.type == "function_call"]
        received += spoken([[answer.output_text, *(call.arguments for call in calls)]])
    assert received == chosen()


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_anthropics_messages_are_what_was_chosen(stack_url, streamed):
    options = {
        "model": MODEL,
        "system": SYSTEM_PROMPT,
        "messages": [{"role": "user", "content": ISSUE}],
        "tools": [{"name": "bash", "input_schema": SCHEMA}],
        "max_tokens": 160,
    }
    for attempt in range(5):  # a call that was cut at its tokens comes in another form
        name = f"anthropic-{streamed}-{attempt}"
        root = f"{stack_url}/sessions/{name}"
        if streamed:
            async with (
                anthropic.AsyncAnthropic(base_url=root, api_key="none") as client,
                client.messages.stream(**options) as stream,
            ):
                message = await stream.get_final_message()
        else:
            with anthropic.Anthropic(base_url=root, api_key="none") as client:
                message = client.messages.create(**options)
        if message.stop_reason != "max_tokens":
            break
    parts = [b.text if b.type == "text" else json.dumps(b.input) for b in message.content]
    assert spoken([parts]) == chosen_in(stack_url, name)
    used = any(block.type == "tool_use" for block in message.content)
    assert message.stop_reason == ("tool_use" if used else "end_turn")
