"""Demonstrations: executed for real, labelled by the hidden tests, short and varied."""

from itertools import islice
from random import Random
from typing import Any

import pytest

from examples.bugfix import SYSTEM_PROMPT
from examples.bugfix.commands import edit_command, fragments
from examples.bugfix.demonstrator import Manner, demonstrate
from examples.bugfix.policy_training import encode
from examples.bugfix.problem import Problem, stream
from examples.bugfix.sandbox import execute, workspace
from examples.bugfix.tokenizer import learn_tokenizer
from search.actions import SUBMIT, parse_action

SURE = Manner(first_right=1.0, checks=1.0)
WRONG = Manner(first_right=0.0, later_right=0.0, checks=0.0)


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return list(islice(stream(0), 24))


@pytest.fixture(scope="module")
def demonstrations(problems: list[Problem]) -> list[dict[str, Any]]:
    return [demonstrate(problem, 0) for problem in problems]


def _turns(row: dict[str, Any]) -> list[str]:
    return [m["content"] for m in row["messages"] if m["role"] == "assistant"]


def test_every_turn_is_one_command_and_the_last_submits(
    demonstrations: list[dict[str, Any]],
) -> None:
    for row in demonstrations:
        commands = [parse_action(turn).command for turn in _turns(row)]
        assert 3 <= len(commands) <= 14
        assert commands.index(SUBMIT) == len(commands) - 1
        assert row["messages"][0] == {"role": "system", "content": SYSTEM_PROMPT}


def test_some_demonstrations_fail_and_most_do_not(demonstrations: list[dict[str, Any]]) -> None:
    rewards = [row["reward"] for row in demonstrations]
    assert 0.4 <= sum(rewards) / len(rewards) <= 0.85


def test_who_makes_the_right_edit_is_rewarded(problems: list[Problem]) -> None:
    assert all(demonstrate(problem, 0, SURE)["reward"] == 1 for problem in problems[:12])


def test_who_guesses_wrongly_is_hardly_ever_rewarded(problems: list[Problem]) -> None:
    assert sum(float(str(demonstrate(p, 0, WRONG)["reward"])) for p in problems[:12]) <= 3


def test_the_same_seed_gives_the_same_demonstration(problems: list[Problem]) -> None:
    assert demonstrate(problems[0], 5) == demonstrate(problems[0], 5)


def test_sed_makes_exactly_the_edit(problems: list[Problem]) -> None:
    for problem in problems:
        for seed in range(2):
            with workspace(problem.files) as folder:
                command = edit_command(Random(seed), problem.repair)
                assert execute(folder, command) == (0, "")
                fixed = {name: (folder / name).read_text() for name in problem.files}
            assert fixed == problem.fixed, command


def test_fragments_are_what_sed_replaces_first() -> None:
    assert fragments("    a = b + b", "    a = b - b") == ("+", "-")
    found = fragments("f(a, a)", "f(a, b)")
    assert found is not None
    assert "f(a, a)".replace(*found, 1) == "f(a, b)"


def test_the_sandbox_has_no_network_and_a_read_only_system() -> None:
    with workspace({"a.txt": "x"}) as folder:
        assert execute(folder, "touch /usr/x")[0] != 0
        assert execute(folder, "cat a.txt") == (0, "x")
        probe = "import socket; socket.create_connection(('1.1.1.1', 53), 1)"
        assert execute(folder, f'python3 -c "{probe}"')[0] != 0


def test_training_tokens_are_the_chat_templates(demonstrations: list[dict[str, Any]]) -> None:
    texts = [m["content"] for row in demonstrations for m in row["messages"]]
    tokenizer = learn_tokenizer(iter(texts))
    for row in demonstrations:
        messages = row["messages"]
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        assert encode(tokenizer, messages).ids == whole
        assert tokenizer.decode(whole) == tokenizer.apply_chat_template(messages, tokenize=False)
        shorter = tokenizer.apply_chat_template(messages[:-2], return_dict=False)
        assert whole[: len(shorter)] == shorter
        assert len(whole) < 2000
