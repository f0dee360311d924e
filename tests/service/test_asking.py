"""What a judge is shown: a transcript that only grows, however long the history."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.errors import CriticInputError, HistoryTooLong
from pilotfish import Message
from service.critics.asking import SYSTEM, Asking

CALL = {"id": "c1", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
FIRST = [Message.system("act"), Message.user("solve it")]
TEXTS = st.text(alphabet="ab[]\n", max_size=12)
TURNS = st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=2)), max_size=6)


def history_of(turns):
    history = list(FIRST)
    for said, replies in turns:
        history += [Message.assistant(said), *(Message.user(reply) for reply in replies)]
    return history


def content(prompt):
    system, user = prompt
    assert system == {"role": "system", "content": SYSTEM}
    assert user["role"] == "user"
    return user["content"]


@given(TURNS, st.lists(TEXTS, min_size=1, max_size=3), TEXTS)
def test_candidates_and_the_next_step_begin_with_the_state(turns, said, reply):
    asking, state = Asking("QUESTION?", 10_000), history_of(turns)
    shared = content(asking.of_state(state))
    for text in said:
        action = Message.assistant(text)
        asked = content(asking.of_action(state, action))
        assert asked.startswith(shared)
        assert asked.endswith("QUESTION?")
        following = content(asking.of_state([*state, action, Message.user(reply)]))
        assert following.startswith(asked.removesuffix("QUESTION?"))


@given(TURNS)
def test_every_turn_is_asked_about_as_an_action_in_its_state(turns):
    asking, history = Asking("?", 10_000), history_of(turns)
    ends = [i for i, message in enumerate(history) if message.role == "assistant"]
    assert asking.of_turns(history) == [asking.of_action(history[:i], history[i]) for i in ends]


def test_tool_calls_and_their_results_are_shown():
    state = [
        *FIRST,
        Message(role="assistant", content="I look.", tool_calls=[CALL]),
        Message(role="tool", content="a.py", tool_call_id="c1"),
    ]
    shown = content(Asking("?", 10_000).of_state(state))
    assert shown == (
        "[system]\nact\n\n[user]\nsolve it\n\n"
        '[agent]\nI look.\ncalls bash {"command": "ls"}\n\n[result]\na.py\n\n'
    )


@pytest.mark.parametrize("call", [{}, {"function": None}, {"function": {"name": "f"}}])
def test_a_tool_call_of_another_form_is_shown_as_it_is(call):
    turn = Message(role="assistant", content=None, tool_calls=[call])
    assert "calls" in content(Asking("?", 10_000).of_action(FIRST, turn))


def test_a_long_history_keeps_the_task_and_the_newest_turns_and_seldom_moves():
    asking, shown = Asking("?", 2000), []
    history = list(FIRST)
    for number in range(100):
        history += [Message.assistant(f"turn {number}, "), Message.user(f"saw {number}. " * 10)]
        shown.append(content(asking.of_state(history)))
        assert shown[-1].startswith("[system]\nact\n\n[user]\nsolve it\n\n")
        assert f"turn {number}," in shown[-1]
        assert len(shown[-1]) <= 2000 + len("[100 turns are left out here]\n\n")
    kept = sum(f"turn {number}," in shown[-1] for number in range(100))
    assert f"[{100 - kept} turns are left out here]" in shown[-1]
    moves = sum(not b.startswith(a) for a, b in pairwise(shown))
    assert 0 < moves <= 20


def test_what_cannot_be_shown():
    asking = Asking("?", 1000)
    with pytest.raises(HistoryTooLong, match=r"the first messages take .* characters"):
        asking.of_state([Message.user("x" * 1001)])
    with pytest.raises(CriticInputError, match="no messages"):
        asking.of_state([])
    with pytest.raises(CriticInputError, match="an assistant's message"):
        asking.of_action(FIRST, Message.user("x"))
