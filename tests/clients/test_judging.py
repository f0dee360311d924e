"""Recorded trajectories are judged by any judge of a service, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from critic.__main__ import main
from critic.errors import CriticInputError, HistoryTooLong, NotJudged
from critic.judges import Local, judge_at
from critic.scoring import Scorer
from critic.settings import TrainingSettings
from critic.training import train
from critic.trajectory import write_trajectories
from pilotfish import Candidate, Message
from pilotfish.errors import NotFound
from search.errors import CriticError, CriticTooLong
from search.fakes import FakeCritic
from service.critics.torch_critic import TorchCritic
from service.settings import TorchCriticSettings
from tests.tiny import causal_lm, trajectory


def value(state, action):
    match action.text:
        case "endless":
            raise CriticTooLong("9 tokens; 8 are read")
        case "unclear":
            raise CriticError("no verdict")
    return 0.9 if action.text == "right" else 0.2


@pytest.fixture
async def url(service, monkeypatch):
    url, app = service
    app.state.context.parts.critics["judge"] = FakeCritic(value, name="judge")
    monkeypatch.setenv("PILOTFISH_KEY", "k1")
    return url


@pytest.fixture
def command(monkeypatch, capsys):
    """``pilotfish-critic`` in a thread of its own: the service is in this one."""

    def run(words):
        monkeypatch.setattr(sys, "argv", ["critic", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return lambda *words: asyncio.to_thread(run, words)


def in_a_thread(url, name, ask):
    def asking():
        with judge_at(url, name) as by:
            return ask(by)

    return asyncio.to_thread(asking)


async def test_what_the_service_cannot_judge_is_told_apart_from_what_it_can(url):
    some = [trajectory("t", turns) for turns in (["wrong", "right"], ["endless"], ["unclear"])]
    told, long, failed = await in_a_thread(url, "judge", lambda by: by.turns(some))
    assert told == [0.2, 0.9]
    assert isinstance(long, HistoryTooLong)
    assert type(failed) is NotJudged
    right, wrong = Message.assistant("right"), Message.assistant("wrong")
    steps = [[right, wrong], [wrong]]
    asking = await in_a_thread(url, "judge", lambda by: by.candidates(some[0], steps))
    assert asking == [[0.9, 0.2], [0.2]]


async def test_what_it_cannot_do_at_all_ends_the_asking(url):
    with pytest.raises(NotFound, match="nobody"):
        await in_a_thread(url, "nobody", lambda by: by.turns([trajectory("t", ["right"])]))


async def test_a_critic_judges_the_same_here_and_served(service, url, tmp_path):
    rows = [trajectory(f"t{i}", ["ls", f"say {i}"], reward=float(i % 2)) for i in range(6)]
    policy, folder = causal_lm(tmp_path / "policy"), tmp_path / "critic"
    await asyncio.to_thread(train, policy, rows, folder, TrainingSettings(epochs=1, held_out=0))
    served = TorchCritic("mine", TorchCriticSettings(type="torch", checkpoint=str(folder)))
    service[1].state.context.parts.critics["mine"] = served
    there = await in_a_thread(url, "mine", lambda by: by.turns(rows))
    here = Local(Scorer(folder)).turns(rows)
    assert [q for qs in here for q in qs] == pytest.approx(
        [q for qs in there for q in qs], abs=2e-3
    )


async def test_eval_reselect_and_score_ask_the_service(url, command, tmp_path):
    rows = []
    for task in range(4):
        for text, reward in (("right", 1.0), ("wrong", 0.0), ("unclear", 0.0)):
            found = trajectory(f"t{task}", [text], reward=reward)
            first = found.steps[0].decision.candidates[0]
            first.q = 0.5 - reward / 10
            other = Candidate(index=1, message=Message.assistant("other"), q=0.1)
            found.steps[0].decision.candidates.append(other)
            rows.append(found)
    data = tmp_path / "data.jsonl"
    write_trajectories(data, rows)
    asked = ["--critic", url, "--name", "judge", "--data", data]
    code, out, told = await command("eval", *asked, "--json", "-n", 2)
    assert code == 0, told
    assert json.loads(out)["best_of"][0]["critic"]["value"] == 1.0
    assert "4 not judged" in told
    code, out, told = await command("reselect", *asked, "--json", "-n", 2)
    assert code == 0, told
    found = json.loads(out)
    assert found["selection"][0]["change"]["value"] == 1.0
    assert found["decisions"]["trajectories"] == 8
    code, out, _ = await command("score", *asked)
    assert code == 0
    by_text = [json.loads(line).get("q") for line in out.splitlines()]
    assert by_text == [[0.9], [0.2], None] * 4


async def test_what_needs_the_folder_of_a_critic_says_so(url, command, tmp_path):
    write_trajectories(tmp_path / "data.jsonl", [trajectory("t", ["right"], reward=1.0)])
    data = ["--data", tmp_path / "data.jsonl"]
    code, _, told = await command("eval", "--critic", url, *data, "--held-out")
    assert (code, "own folder" in told) == (1, True)
    code, _, told = await command("eval", "--critic", tmp_path, "--name", "x", *data)
    assert (code, "is a folder" in told) == (1, True)
    code, _, told = await command("eval", "--critic", tmp_path / "nobody", *data)
    assert (code, "nobody" in told) == (1, True)


async def test_a_judge_that_fails_at_everything_says_why(url):
    with pytest.raises(CriticInputError, match=r"none of 3 trajectories was judged: .*no verdict"):
        await in_a_thread(url, "judge", lambda by: by.turns([trajectory("t", ["unclear"])] * 3))
