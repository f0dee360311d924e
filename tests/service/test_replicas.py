"""Several servers of one model: a session stays with one, and moves only when that goes away."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from critic.checkpoint import CriticCard, write_card
from pilotfish import Message
from pilotfish.strategy import Sampling
from search.contracts import Score
from search.errors import CriticError, PolicyError
from service.critics.vllm import VllmCritic
from service.policies.openai_endpoint import OpenAIPolicy
from service.replicas import Replicas
from service.settings import EndpointPolicy, VllmCriticSettings
from tests.tiny import tokenizer
from tests.upstream import Upstream, upstream

STATE = [Message.user("hi")]
ADDRESSES = st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=8, unique=True)


@given(addresses=ADDRESSES, sessions=st.lists(st.text(max_size=20), max_size=20), data=st.data())
def test_only_sessions_of_one_that_is_away_move(
    addresses: list[str], sessions: list[str], data: st.DataObject
) -> None:
    replicas = Replicas({address: address for address in addresses})
    other = Replicas({address: address for address in reversed(addresses)})
    before = {session: replicas.of(session)[0] for session in sessions}
    assert before == {session: other.of(session)[0] for session in sessions}
    away = data.draw(st.sampled_from(addresses))
    replicas.missed(away)
    for session, address in before.items():
        now = replicas.of(session)[0]
        assert now != away
        assert address in (now, away)


def test_sessions_are_spread() -> None:
    replicas = Replicas({f"http://{i}": i for i in range(4)})
    counts = Counter(replicas.of(f"session {i}")[0] for i in range(4000))
    assert min(counts.values()) > 800


def test_calls_without_a_session_go_round() -> None:
    replicas = Replicas({"a": 1, "b": 2})
    assert Counter(replicas.of(None)[1] for _ in range(10)) == {1: 5, 2: 5}


def test_where_all_are_away_all_are_asked() -> None:
    replicas = Replicas({"a": 1, "b": 2})
    replicas.missed("a")
    replicas.missed("b")
    assert replicas.of("s")[0] in ("a", "b")


def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def asked(*ups: Upstream) -> list[int]:
    return [len(up.bodies) for up in ups]


async def test_a_sessions_calls_go_to_one_server_of_the_policy() -> None:
    async with upstream() as one, upstream() as two:
        policy = OpenAIPolicy("p", EndpointPolicy(url=one.url, replicas=[two.url], model="m"))
        for session in ("a", "b", "c", "d", "e", "f"):
            before = asked(one, two)
            for _ in range(3):
                _ = [s async for s in policy.sample(STATE, 2, Sampling(), session=session)]
            gained = [now - then for now, then in zip(asked(one, two), before, strict=True)]
            assert sorted(gained) == [0, 3]
        await policy.close()


async def test_a_policys_server_that_is_away_costs_no_call() -> None:
    async with upstream() as up:
        policy = OpenAIPolicy("p", EndpointPolicy(url=nobody(), replicas=[up.url], model="m"))
        for session in "abcdef":
            assert [s async for s in policy.sample(STATE, 1, Sampling(), session=session)]
        await policy.close()


async def test_a_busy_server_of_a_policy_is_gone_round() -> None:
    async with upstream() as one, upstream() as two:
        one.broken = dict.fromkeys(range(50), Response(status_code=503))
        policy = OpenAIPolicy("p", EndpointPolicy(url=one.url, replicas=[two.url], model="m"))
        for session in "abcdef":
            assert [s async for s in policy.sample(STATE, 1, Sampling(), session=session)]
        assert len(two.bodies) == 6
        await policy.close()


async def test_a_policy_none_of_whose_servers_is_there() -> None:
    policy = OpenAIPolicy("p", EndpointPolicy(url=nobody(), replicas=[nobody()], model="m"))
    with pytest.raises(PolicyError):
        _ = [s async for s in policy.sample(STATE, 1, Sampling(), session="s")]
    await policy.close()


async def classifier(hits: list[int]) -> asyncio.Server:
    """A server of ``/classify`` that counts its requests."""
    content = b'{"data": [{"probs": [0.0]}]}'
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        length = next(s for s in asked.lower().split(b"\r\n") if s.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        hits[0] += 1
        writer.write(head.encode() + content)
        await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


async def test_a_critics_servers(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    write_card(tmp_path, CriticCard(max_tokens=50))
    (tmp_path / "config.json").write_text(
        '{"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "q"}}'
    )
    counts: list[list[int]] = [[0], [0]]
    servers = [await classifier(hits) for hits in counts]
    urls = [f"http://127.0.0.1:{s.sockets[0].getsockname()[1]}" for s in servers]
    settings = VllmCriticSettings(
        url=urls[0], replicas=urls[1:], model="m", checkpoint=str(tmp_path)
    )
    critic = VllmCritic("c", settings)
    turn = Message.assistant("a")
    for session in "abcdef":
        before = [hits[0] for hits in counts]
        for _ in range(3):
            assert await critic.score(STATE, [turn], session=session) == [Score(0.5)]
        assert sorted(now[0] - then for now, then in zip(counts, before, strict=True)) == [0, 3]
    servers[0].close()
    await servers[0].wait_closed()
    for session in "abcdef":
        assert await critic.score(STATE, [turn], session=session) == [Score(0.5)]
    servers[1].close()
    await servers[1].wait_closed()
    with pytest.raises(CriticError):
        await critic.score(STATE, [turn], session="a")
    await critic.close()
