"""All that Redis holds of responses: the only file that knows those keys. Knows nothing of what is
said in one.

| key | type | holds |
|---|---|---|
| ``pilotfish:response:{id}`` | hash | a response, compressed, and the id of the one before it |

Every key has a lifetime, which begins anew when the response is gone on from.
"""

from __future__ import annotations

from typing import Any

from service import redis_scripts as scripts
from service.redis_connection import PREFIX, answering, pack, unpack

RESPONSE = f"{PREFIX}response:"


class RedisResponses:
    """The responses that were kept. Raises ``StateError`` where Redis fails."""

    def __init__(self, redis: Any, *, lifetime: float) -> None:
        self._redis, self._lifetime = redis, int(lifetime)
        self._chain = redis.register_script(scripts.CHAIN)

    async def keep(self, response_id: str, previous: str | None, record: str) -> None:
        """Keep what a response adds to those before it."""
        key = f"{RESPONSE}{response_id}"
        async with answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping={"previous": previous or "", "record": pack(record)})
            pipe.expire(key, self._lifetime)
            await pipe.execute()

    async def record(self, response_id: str) -> str | None:
        async with answering():
            packed = await self._redis.hget(f"{RESPONSE}{response_id}", "record")
        return None if packed is None else unpack(packed)

    async def records_up_to(self, response_id: str) -> list[str] | None:
        """Those of a response and of all before it, oldest first, whose lifetimes begin anew;
        ``None`` where one of them is gone."""
        async with answering():
            chain = await self._chain(keys=[], args=[RESPONSE, response_id, self._lifetime])
        return None if chain is None else [unpack(packed) for packed in reversed(chain)]

    async def forget(self, response_id: str) -> bool:
        """Whether it was there."""
        async with answering():
            return bool(await self._redis.delete(f"{RESPONSE}{response_id}"))
