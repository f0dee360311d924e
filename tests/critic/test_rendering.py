"""Append-only rendering."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.checkpoint import CriticCard, read_renderer
from critic.errors import CriticInputError, HistoryTooLong, NotAppendOnly
from critic.rendering import Renderer
from pilotfish import Message
from tests.tiny import CHAT_TEMPLATE, FORGETFUL_TEMPLATE, tokenizer

TOKENIZER = tokenizer()
RENDERER = Renderer(TOKENIZER)

text = st.text(max_size=20)
replies = st.lists(text.map(Message.user), min_size=1, max_size=2)
turn = st.tuples(text.map(Message.assistant), replies)
words = st.text(alphabet="abc \n", max_size=12)
histories = st.builds(
    lambda head, turns: [Message.system("s"), *head, *(m for a, r in turns for m in [a, *r])],
    replies,
    st.lists(turn, max_size=4),
)


@given(histories)
def test_a_longer_history_begins_with_the_tokens_of_the_shorter(history):
    whole = RENDERER.render(history).ids
    for i, message in enumerate(history):
        if message.role == "assistant":
            assert (
                whole[: len(RENDERER.render(history[:i]).ids)] == RENDERER.render(history[:i]).ids
            )


@given(histories)
def test_segments_put_together_are_what_the_template_makes_of_the_whole(history):
    whole = TOKENIZER.apply_chat_template([m.wire() for m in history], tokenize=False)
    assert TOKENIZER.decode(RENDERER.render(history).ids) == whole


@given(histories)
def test_every_turn_end_is_the_end_token_of_that_turn(history):
    rendered = RENDERER.render(history)
    turns = [i for i, m in enumerate(history) if m.role == "assistant"]
    assert [rendered.ids[e] for e in rendered.turn_ends] == [TOKENIZER.eos_token_id] * len(turns)
    for i, end in zip(turns, rendered.turn_ends, strict=True):
        assert RENDERER.render_action(history[:i], history[i]) == rendered.ids[: end + 1]


SHORT = Renderer(TOKENIZER, max_tokens=48)
long_histories = st.builds(
    lambda turns: [
        Message.system("s"), Message.user("u"), *(m for a, r in turns for m in [a, *r])
    ],
    st.lists(st.tuples(words.map(Message.assistant), st.lists(words.map(Message.user), max_size=1)),
             min_size=1, max_size=12),
)  # fmt: skip


def turns_of(history):
    return [i for i, m in enumerate(history) if m.role == "assistant"]


@given(long_histories)
def test_every_turn_is_read_once_in_a_window_that_the_critic_can_read(history):
    windows = SHORT.windows(history)
    ends = [window.ids[end] for window in windows for end in window.turn_ends]
    assert ends == [TOKENIZER.eos_token_id] * len(turns_of(history))
    assert all(len(w.ids) <= 48 and w.turn_ends[-1] == len(w.ids) - 1 for w in windows)


@given(long_histories)
def test_a_turn_is_read_in_training_as_it_is_in_serving(history):
    trained = [w.ids[: end + 1] for w in SHORT.windows(history) for end in w.turn_ends]
    served = [SHORT.render_action(history[:i], history[i]) for i in turns_of(history)]
    assert trained == served


@given(long_histories)
def test_a_window_begins_with_the_first_messages_and_keeps_the_newest_turns(history):
    for i in turns_of(history):
        shown = TOKENIZER.decode(SHORT.render_action(history[:i], history[i]))
        whole = TOKENIZER.decode(RENDERER.render_action(history[:i], history[i]))
        first = TOKENIZER.decode(RENDERER.render(history[:2]).ids)
        assert shown.startswith(first)
        assert whole.endswith(shown.removeprefix(first))


@given(long_histories)
def test_an_action_is_read_behind_the_state_that_was_read_ahead_where_it_fits(history):
    for i in turns_of(history):
        state = SHORT.render_state(history[:i])
        action = SHORT.render_action(history[:i], history[i])
        own = len(RENDERER.render_action(history[:i], history[i])) - len(
            RENDERER.render(history[:i]).ids
        )
        assert len(state) + own > 48 or action[: len(state)] == state


def test_a_window_moves_once_in_many_turns():
    history = [Message.user("u")]
    for _ in range(400):
        history += [Message.assistant("a"), Message.user("o")]
    renderer = Renderer(TOKENIZER, max_tokens=400)
    tokens = len(renderer.render(history).ids)
    between_moves = 400 * (7 / 8 - 1 / 2) - tokens / 400
    assert 5 < len(renderer.windows(history)) <= 1 + tokens / between_moves


def test_a_turn_that_fits_no_window_blinds_the_critic_at_that_turn_only():
    turns = [[Message.assistant(text), Message.user("o")] for text in ("a", "b" * 60, "c", "d")]
    history = [Message.user("u"), *(message for turn in turns for message in turn)]
    after = SHORT.render_action(history[:5], history[5])
    assert len(after) <= 48
    assert TOKENIZER.decode(after).count("<|im_start|>assistant") == 1
    assert len(SHORT.render_state(history[:-2])) <= 48
    with pytest.raises(HistoryTooLong, match="one turn"):
        SHORT.render_action(history[:3], history[3])
    with pytest.raises(HistoryTooLong, match="one turn"):
        SHORT.windows(history)


def test_arguments_of_a_tool_call_reach_the_template_as_the_object_that_they_are():
    template = (
        "{% for m in messages %}{{ m['content'] }}{% for c in m.get('tool_calls') or [] %}"
        "{% for name, value in c['function']['arguments'].items() %}{{ name }}: {{ value }}"
        "{% endfor %}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    call = {"function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    turn = Message(role="assistant", content="", tool_calls=[call])
    renderer = Renderer(tokenizer(template))
    assert "command: ls" in TOKENIZER.decode(renderer.render([Message.user("u"), turn]).ids)
    twice = RENDERER.render([Message.user("u"), turn]).ids
    assert '"arguments": {"command": "ls"}' in TOKENIZER.decode(twice)
    broken = {"function": {"name": "bash", "arguments": '{"command": '}}
    turn = Message(role="assistant", content="", tool_calls=[broken])
    shown = TOKENIZER.decode(RENDERER.render([Message.user("u"), turn]).ids)
    assert r'"arguments": "{\"command\": "' in shown


@pytest.mark.parametrize(("history", "what"), [
    ([Message.user("word " * 60), Message.assistant("a")], "first messages"),
    ([Message.user("u"), Message.assistant("word " * 60)], "one turn"),
])  # fmt: skip
def test_what_fits_no_window_is_refused(history, what):
    with pytest.raises(HistoryTooLong, match=what):
        SHORT.windows(history)


def test_of_a_history_that_was_read_before_only_what_is_new_is_encoded():
    encoded = []

    class Counting:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def encode(self, text, **options):
            encoded.append(text)
            return self._inner.encode(text, **options)

    renderer = Renderer(Counting(TOKENIZER))
    state = [Message.system("s"), Message.user("u"), Message.assistant("a"), Message.user("v")]
    before = renderer.render(state).ids
    encoded.clear()
    after = renderer.render_action(state, Message.assistant("new"))
    assert after[: len(before)] == before
    assert all("new" in text for text in encoded)


def test_a_template_that_drops_reasoning_is_refused_when_it_is_loaded():
    with pytest.raises(NotAppendOnly, match="drop earlier reasoning"):
        Renderer(tokenizer(FORGETFUL_TEMPLATE))


def test_tool_calls_are_rendered_with_their_arguments():
    call = {"function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    turn = Message(role="assistant", content="", tool_calls=[call])
    ids = RENDERER.render([Message.user("u"), turn]).ids
    assert "command" in TOKENIZER.decode(ids)


def test_the_policy_is_named_in_the_system_prompt_when_asked():
    renderer = Renderer(TOKENIZER, policy_in_prompt=True)
    history = [Message.system("s"), Message.user("u")]
    assert "policy: big-one" in TOKENIZER.decode(renderer.render(history, policy="big-one").ids)
    assert "policy: unknown" in TOKENIZER.decode(renderer.render(history[1:]).ids)


def test_what_cannot_be_rendered_says_why():
    with pytest.raises(CriticInputError, match="no messages"):
        RENDERER.render([])
    with pytest.raises(HistoryTooLong, match="the critic reads 5"):
        Renderer(TOKENIZER, max_tokens=5).render_state([Message.user("much too long")])
    with pytest.raises(CriticInputError, match="an assistant's message; got one of user"):
        RENDERER.render_action([Message.user("u")], Message.user("u"))
    with pytest.raises(CriticInputError, match="cannot read this"):
        RENDERER.render([Message.user("\ud800")])
    with pytest.raises(CriticInputError, match="template fails here"):
        RENDERER.render([Message(role="user", content=[{"type": "text", "text": 5}])])
    picky = "{% if m.role == 'tool' %}{{ raise_exception('no tools, please') }}{% endif %}"
    template = CHAT_TEMPLATE.replace("{% for m in messages %}", "{% for m in messages %}" + picky)
    with pytest.raises(CriticInputError, match="no tools, please"):
        Renderer(tokenizer(template)).render([Message(role="tool", content="x")])
    bare = tokenizer()
    bare.chat_template = None
    with pytest.raises(CriticInputError, match="no chat template"):
        Renderer(bare)


def test_a_critic_of_one_policy_means_that_one_where_none_is_named(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    history = [Message.user("u")]
    for policies, named in (["p"], "policy: p"), (["p", "q"], "policy: unknown"):
        card = CriticCard(policies=policies, policy_in_prompt=True)
        assert named in TOKENIZER.decode(read_renderer(tmp_path, card).render(history).ids)


def test_messages_that_differ_in_their_calls_only_are_not_taken_for_each_other():
    def turn(command):
        call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": command}}
        return Message(role="assistant", tool_calls=[call])

    state = [Message.user("u")]
    first, second = (RENDERER.render_action(state, turn(command)) for command in ("ls", "rm"))
    assert first != second
    assert Renderer(TOKENIZER).render_action(state, turn("rm")) == second
