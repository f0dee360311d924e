"""Clients with other options, and lists in pages, over the real service."""

from __future__ import annotations

import asyncio
import inspect
import uuid

import httpx
import pytest

from pilotfish import AsyncPilotfish, Pilotfish
from pilotfish.errors import AuthenticationFailed, BadRequest, Conflict, NotFound, RequestTimeout
from tests.clients.conftest import TASK

OTHER = TASK.model_copy(update={"id": "t2"})


class Counting(httpx.AsyncHTTPTransport):
    """The network, with a record of what went over it."""

    def __init__(self):
        super().__init__()
        self.requests = []
        self.closed = 0

    async def handle_async_request(self, request):
        self.requests.append(request)
        return await super().handle_async_request(request)

    async def aclose(self):
        self.closed += 1
        await super().aclose()


@pytest.fixture
async def counted(service):
    network = Counting()
    async with AsyncPilotfish(service[0], "k1", transport=network) as client:
        yield client, network


async def test_a_copy_has_its_options_and_shares_the_connections(counted):
    client, network = counted
    copied = client.with_options(
        timeout=7.0, headers={"x-a": "1", "x-b": "1"}, max_retries=0
    ).with_options(headers={"x-b": "2"})
    for one in (client, copied):
        assert len([run async for run in one.list_runs(limit=1)]) <= 1
    own, others = network.requests
    assert (own.extensions["timeout"]["read"], others.extensions["timeout"]["read"]) == (600, 7)
    assert [others.headers[name] for name in ("x-a", "x-b")] == ["1", "2"]
    assert "x-a" not in own.headers
    await copied.close()
    assert network.closed == 1
    with pytest.raises(RuntimeError, match="closed"):
        await client.get_run("x")


async def test_a_copy_may_have_another_key(counted):
    client, _ = counted
    for key in ("k2", None):
        with pytest.raises(AuthenticationFailed):
            await anext(client.with_options(key=key).list_runs())
    with pytest.raises(NotFound):
        await client.get_run("nope")


async def test_a_copy_with_less_time_gives_up_sooner(counted):
    client, _ = counted
    with pytest.raises(RequestTimeout):
        await client.with_options(timeout=1e-5).get_run("nope")


@pytest.mark.parametrize("options", [{"headers": {"x-a": "é"}}, {"headers": {"x\n": "a"}},
                                     {"idempotency_key": " "}, {"key": "a\nb"}])  # fmt: skip
async def test_what_no_header_can_hold_is_a_bad_request(counted, options):
    with pytest.raises(BadRequest, match="cannot be sent"):
        counted[0].with_options(**options)


async def test_one_idempotency_key_makes_one_run(counted):
    once = counted[0].with_options(idempotency_key=uuid.uuid4().hex)
    made = await once.create_run(TASK)
    assert (await once.create_run(TASK)).id == made.id
    assert (await once.create_run(TASK, idempotency_key=uuid.uuid4().hex)).id != made.id
    with pytest.raises(Conflict):
        await once.create_run(OTHER)
    await counted[0].wait(made.id)
    with pytest.raises(Conflict):
        await counted[0].pause_run(made.id)


async def test_lists_go_over_all_pages_and_end_at_their_limit(counted):
    client, network = counted
    made = [(await client.create_run(TASK)).id for _ in range(53)]
    network.requests.clear()
    found = [run.id async for run in client.list_runs()]
    assert found[:53] == made[::-1]
    assert len(network.requests) >= 2
    network.requests.clear()
    assert [run.id async for run in client.list_runs(limit=2)] == made[:-3:-1]
    assert [str(request.url.query, "ascii") for request in network.requests] == ["limit=2"]
    assert [run async for run in client.list_runs(limit=0)] == []
    listed = await asyncio.to_thread(_synchronously, str(client.url))
    assert listed[:53] == made[::-1]


def _synchronously(url):
    with Pilotfish(url, "k1") as client:
        assert len(list(client.list_sessions(limit=3))) <= 3
        return [run.id for run in client.list_runs(limit=300)]


def test_both_clients_have_the_same_methods_with_the_same_arguments():
    def methods(kind):
        return {
            name: [str(p) for p in inspect.signature(getattr(kind, name)).parameters.values()]
            for name in dir(kind)
            if not name.startswith("_")
        }

    assert methods(Pilotfish) == methods(AsyncPilotfish)
