"""A Unix socket before another one, that can be partitioned from it: then nothing is forwarded and
nothing closed, as where a network drops what it should carry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path


class Line:
    def __init__(self, target: str) -> None:
        self._target = target
        self._whole = asyncio.Event()
        self._whole.set()
        self._carried: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrying = asyncio.create_task(self._carry_both(reader, writer))
        self._carried.add(carrying)
        carrying.add_done_callback(self._carried.discard)

    async def close(self) -> None:
        for carrying in list(self._carried):
            carrying.cancel()
        await asyncio.gather(*self._carried, return_exceptions=True)

    async def _carry_both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._whole.wait()
            there, back = await asyncio.open_unix_connection(self._target)
            try:
                await asyncio.gather(self._carry(reader, back), self._carry(there, writer))
            finally:
                back.close()
        finally:
            writer.close()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._whole.wait()
                target.write(data)
                await target.drain()
            await self._whole.wait()
        target.close()


@contextlib.asynccontextmanager
async def line(path: Path, target: str) -> AsyncIterator[Line]:
    """Serve at ``path`` what ``target`` serves."""
    made = Line(target)
    server = await asyncio.start_unix_server(made.connected, path)
    try:
        yield made
    finally:
        server.close()
        await made.close()
