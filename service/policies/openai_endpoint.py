"""A policy behind an OpenAI-compatible chat completions endpoint. Knows nothing of search.

K candidates are asked for in one streamed request (``n=K``), so that they share their prefill, and
each is handed on the moment it is complete; closing the generator closes the stream, upon which
vLLM stops decoding. An endpoint without ``n`` gets K requests at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import httpx

from pilotfish import Message
from pilotfish.strategy import Sampling
from search.contracts import Sample
from search.errors import ContextTooLong, PolicyError, PolicyRefused
from service.endpoint import TOO_LONG, addresses, client_of, unbind
from service.policies.choices import Choice, beside_choices, prompt_tokens_of, sample_of
from service.replicas import Replicas
from service.retrying import retried
from service.settings import EndpointPolicy

_CHAT = "/chat/completions"
_RETRIED = (408, 429, 502, 503, 504)
STALE_WITHIN = 1.0
"""Seconds. A connection that breaks sooner was most likely closed already. Where it was not, asking
again costs tokens and nothing else; later, it would cost too many."""
LONGEST_LINE = 64 * 2**20
"""Bytes of one line of a stream: what has no end must not fill the memory."""


class _Busy(Exception):
    """The endpoint did not take the request; nothing was generated."""


class _Closed(_Busy):
    """The connection had been closed, as idle ones are: its server may well be there."""


class OpenAIPolicy:
    """``name`` is what callers know it by; ``settings.model`` what the endpoint does."""

    def __init__(self, name: str, settings: EndpointPolicy) -> None:
        self.name, self.settings = name, settings
        self._replicas = Replicas({url: client_of(settings, url) for url in addresses(settings)})

    async def close(self) -> None:
        for client in self._replicas:
            await client.aclose()

    async def sample(
        self, state: Sequence[Message], n: int, sampling: Sampling, *, session: str | None = None
    ) -> AsyncGenerator[Sample, None]:
        body = self._body(state, n, sampling)
        if n == 1 or (self.settings.n and self.settings.stream):
            samples = self._request(body | {"n": n} if n > 1 else body, session)
        else:
            samples = self._requests(body, n, session)
        async with aclosing(samples):
            async for sample in samples:
                yield sample

    @asynccontextmanager
    async def forward(
        self, body: dict[str, Any], *, session: str | None = None
    ) -> AsyncIterator[httpx.Response]:
        """The endpoint's own answer to ``body``, its content not yet read. Raises as ``sample``."""
        async with self._open(body, session) as response:
            yield response

    async def answer(self, body: dict[str, Any], *, session: str | None = None) -> dict[str, Any]:
        """The endpoint's chat completion for ``body``. Raises as ``sample``."""
        try:
            async with (
                asyncio.timeout(self.settings.timeout),
                self._open(body, session) as response,
            ):
                await response.aread()
        except TimeoutError:
            raise PolicyError(self._late) from None
        return _json(response)

    async def chunks(
        self, body: dict[str, Any], *, session: str | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a streamed chat completion as they come. Closing it stops the endpoint.
        Raises as ``sample``."""
        end = time.monotonic() + self.settings.timeout
        async with self._open(body, session) as response:
            async for chunk in _events(response, end, self._late):
                if error := chunk.get("error"):
                    raise PolicyError(_told(error))
                yield chunk

    async def count_tokens(self, body: dict[str, Any]) -> int:
        """Tokens of the prompt of ``body``, where the endpoint has vLLM's ``/tokenize``. Raises as
        ``sample``; ``PolicyRefused`` 404 where it has none."""
        prompt = ("messages", "tools", "chat_template_kwargs")
        asked = {name: body[name] for name in prompt if name in body}
        url = f"{self.settings.url.rstrip('/').removesuffix('/v1')}/tokenize"
        async with self._open(asked | {"model": self.settings.model}, None, url) as response:
            await response.aread()
        count = _json(response).get("count")
        if not isinstance(count, int):
            raise PolicyError(f"no count of tokens: {response.text[:200]!r}")
        return count

    def _body(self, state: Sequence[Message], n: int, sampling: Sampling) -> dict[str, Any]:
        own = sampling.model_dump(exclude={"extra"}, exclude_none=True)
        body = own | sampling.extra
        body |= {"model": self.settings.model, "messages": [m.wire() for m in state]}
        if self.settings.logprobs and n > 1:  # one has no ties, and they cost the endpoint much
            body.setdefault("logprobs", True)
        return body

    async def _requests(
        self, body: dict[str, Any], n: int, session: str | None
    ) -> AsyncGenerator[Sample, None]:
        """One request for each candidate. One that fails costs only itself."""
        arrived: asyncio.Queue[Sample] = asyncio.Queue()
        errors: list[PolicyError] = []

        async def one(index: int) -> None:
            try:
                async for sample in self._request(body | _seeded(body, index), session):
                    # each request reads the prompt anew
                    own = {"index": index, "prompt_tokens": n * sample.prompt_tokens}
                    sample.answer.pop("usage", None)  # of one request in n
                    await arrived.put(sample.model_copy(update=own))
                    return
                raise PolicyError("it answered nothing")
            except Exception as error:  # whatever it is, somebody waits for this sample
                known = error if isinstance(error, PolicyError) else PolicyError(repr(error))
                errors.append(known)
                await arrived.put(Sample(index=index, error=str(known)))

        tasks = [asyncio.create_task(one(index)) for index in range(n)]
        try:
            for _ in range(n):
                sample = await arrived.get()
                if len(errors) == n:
                    raise errors[0]
                yield sample
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _request(
        self, body: dict[str, Any], session: str | None
    ) -> AsyncGenerator[Sample, None]:
        if body.get("n", 1) == 1:
            for sample in await self._whole(body, session):
                yield sample
            return
        choices: dict[int, Choice] = {}
        held: Sample | None = None  # the last to finish waits for the usage that follows it
        prompt_tokens = 0
        answer: dict[str, Any] = {}
        finished = 0
        usage = {"include_usage": True}
        if self.settings.continuous_usage:
            usage["continuous_usage_stats"] = True
        body = body | {"stream": True, "stream_options": usage}
        async with aclosing(self.chunks(body, session=session)) as chunks:
            async for chunk in chunks:
                with _understood(chunk):
                    prompt_tokens = prompt_tokens_of(chunk) or prompt_tokens
                    answer |= beside_choices(chunk)
                    samples = _finished(chunk, choices, prompt_tokens)
                for sample in samples:
                    finished += 1
                    if finished < body["n"]:
                        known = {"answer": dict(answer), "under_way": _under_way(choices)}
                        yield sample.model_copy(update=known)
                    else:
                        held = sample
        if held is not None:
            yield held.model_copy(update={"prompt_tokens": prompt_tokens, "answer": answer})
        elif finished < body["n"]:
            raise PolicyError(f"the stream ended after {finished} of {body['n']} candidates")

    async def _whole(self, body: dict[str, Any], session: str | None) -> list[Sample]:
        """One candidate needs no stream: nothing is scored before it is complete."""
        answer = await self.answer(body, session=session)
        with _understood(answer):
            usage = answer.get("usage") or {}
            return [
                sample_of(
                    choice,
                    tokens=usage.get("completion_tokens") or 0,
                    prompt_tokens=prompt_tokens_of(answer),
                    answer=beside_choices(answer),
                )
                for choice in answer["choices"]
            ]

    @asynccontextmanager
    async def _open(
        self, body: dict[str, Any], session: str | None, where: str = _CHAT
    ) -> AsyncIterator[httpx.Response]:
        """The response, once it is known to be one. Tried again only where nothing was generated.

        Raises: ``ContextTooLong``, ``PolicyRefused``, ``PolicyError``.
        """
        try:
            response = await retried(
                lambda: self._send(body, session, where),
                (_Busy, httpx.ConnectError),
                attempts=4,
                timeout=30.0,
                wait_max=5.0,
            )
            try:
                yield response
            finally:
                await response.aclose()
                unbind(response)
        except _Busy as error:
            raise PolicyError(str(error)) from error
        except httpx.TimeoutException as error:
            raise PolicyError(self._late) from error
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise PolicyError(f"{self.settings.url}: {what}") from error

    @property
    def _late(self) -> str:
        return f"no answer from {self.settings.url} in {self.settings.timeout:g} s"

    async def _send(self, body: dict[str, Any], session: str | None, where: str) -> httpx.Response:
        """Of the session's server; where that takes no request, of another's the next time."""
        url, client = self._replicas.of(session)
        try:
            request = client.build_request("POST", where, json=body)
        except ValueError as error:  # NaN, or half of a surrogate pair
            raise PolicyRefused(f"this cannot be sent as JSON: {error}", 400, {}) from error
        try:
            return await self._taken(client, request, url)
        except _Closed:
            raise
        except (_Busy, httpx.ConnectError):
            self._replicas.missed(url)
            raise

    async def _taken(
        self, client: httpx.AsyncClient, request: httpx.Request, url: str
    ) -> httpx.Response:
        response = await self._sent(client, request, url)
        if response.status_code < 400:
            return response
        await response.aread()
        await response.aclose()
        if response.status_code in _RETRIED:
            raise _Busy(f"{url} answers {response.status_code}")
        answer = _json(response, strict=False)
        message = _told(answer.get("error") or answer)
        if response.status_code in (400, 413) and TOO_LONG.search(message):
            raise ContextTooLong(message)
        raise PolicyRefused(message, response.status_code, answer)

    async def _sent(
        self, client: httpx.AsyncClient, request: httpx.Request, url: str
    ) -> httpx.Response:
        began = time.monotonic()
        try:
            return await client.send(request, stream=True)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            if time.monotonic() - began > STALE_WITHIN:
                raise  # it may have generated
            raise _Closed(f"{url}: the connection was closed") from error


def _seeded(body: dict[str, Any], index: int) -> dict[str, Any]:
    """Another seed for each of several requests, as vLLM gives each of n candidates."""
    seed = body.get("seed")
    return {"seed": seed + index} if isinstance(seed, int) else {}


def _finished(
    chunk: dict[str, Any], choices: dict[int, Choice], prompt_tokens: int
) -> list[Sample]:
    """Take a chunk into its choices; gives those that it completes."""
    samples: list[Sample] = []
    for element in chunk.get("choices") or []:
        choice = choices.setdefault(element["index"], Choice(element["index"]))
        choice.add(element)
        if element.get("finish_reason"):
            samples.append(_sample(choice, prompt_tokens))
    return samples


def _under_way(choices: dict[int, Choice]) -> dict[int, int]:
    """Tokens so far of the choices that are not finished."""
    return {index: c.tokens for index, c in choices.items() if not c.finish_reason}


def _sample(choice: Choice, prompt_tokens: int) -> Sample:
    """A whole choice. One that is nonsense costs only itself."""
    try:
        return sample_of(choice.finish(), tokens=choice.tokens, prompt_tokens=prompt_tokens)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Sample(index=choice.index, error=f"no choice of a chat completion: {error}")


@contextmanager
def _understood(answer: dict[str, Any]) -> Iterator[None]:
    """Whoever reads an answer that has another form than OpenAI's raises ``PolicyError``."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PolicyError(f"not a chat completion: {json.dumps(answer)[:200]}") from error


def _told(error: Any) -> str:
    """The message of an ``error`` object, which some endpoints give as bare text."""
    return str((error.get("message") if isinstance(error, dict) else None) or error)


async def _lines(response: httpx.Response, end: float, late: str) -> AsyncIterator[str]:
    """Its lines. Not ``aiter_lines``, which also ends them at U+2028 and its like: those come
    bare in JSON. Raises: ``PolicyError``, saying ``late``, behind the time ``end``: a silent stream
    is httpx's to end, but not one that drips."""
    rest = b""
    async for piece in response.aiter_bytes():
        if time.monotonic() > end:
            raise PolicyError(late)
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise PolicyError(f"a line of more than {LONGEST_LINE} bytes in the stream")
        for line in whole:
            yield line.decode(errors="replace")
    yield rest.decode(errors="replace")


async def _events(response: httpx.Response, end: float, late: str) -> AsyncIterator[dict[str, Any]]:
    """The data of a stream of server-sent events, up to ``[DONE]``."""
    async for line in _lines(response, end, late):
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise PolicyError(f"not JSON in the stream: {data[:200]!r}") from error
        if not isinstance(chunk, dict):
            raise PolicyError(f"not a chunk in the stream: {data[:200]!r}")
        yield chunk


def _json(response: httpx.Response, *, strict: bool = True) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        return answer
    if strict:
        raise PolicyError(f"not a chat completion: {response.text[:200]!r}")
    return {"message": response.text[:500] or response.reason_phrase}
