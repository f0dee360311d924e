"""The one way out of a sandbox: an HTTP proxy that lets through to a task's hosts and to nobody
else. Knows nothing of tasks, of bubblewrap and containers, or of any package: it is one file, run
by ``python -I -S`` as a process of its own beside the sandbox.

    egress.py FD JSON
    egress.py PATH JSON
    egress.py lend PATH PORT SECONDS

On the Unix socket FD the sandbox's first process sends, once, the socket on which it listens
there. We accept on that: so nothing is passed on, and no socket of the host's is inside. When that
process ends, however it does, FD ends, and so do we: no worker has to live for us to be there, or
to go away.

With PATH, FD is the first connection to a Unix socket there. It is that of a process that runs
``lend`` on the sandbox's loopback, and has the part of the sandbox's first process for so long.

A name is resolved here, after it was compared with the list; the address that was looked at is the
one that is connected to, and one that is not of the public internet is refused, unless the operator
has excepted that very host. Of what goes through a tunnel nothing is read: a host that serves
others' names too can be asked for these.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - not to be found any more once we are nobody
import contextlib
import encodings.idna  # noqa: F401
import ipaddress
import json
import os
import re
import resource
import socket
import sys
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

USUAL_PORTS = (80, 443)
MAX_HEADER = 65_536
HEADER_TIME = 30.0
"""Seconds for a request's header, and for a connection to a host."""
JOIN_TIME = 30.0
"""Seconds that the two sides wait for each other, where they find each other by a path."""
CHUNK = 65_536
TRANSLATED = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "2002::/16", "2001::/32"))
"""Networks whose addresses stand for others."""


class Refused(Exception):
    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def is_allowed(host: str, port: int, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns is that host and port.

    >>> [is_allowed("pypi.org", port, ["pypi.org"]) for port in (443, 80, 22)]
    [True, True, False]
    >>> is_allowed("a.b.Example.org.", 443, ["*.example.org"])
    True
    >>> is_allowed("example.org", 443, ["*.example.org", "example.org:8443"])
    False
    >>> is_allowed("evil-example.org", 443, ["*.example.org"])
    False
    """
    host = host.lower().rstrip(".")
    for pattern in patterns:
        name, _, wanted = pattern.lower().partition(":")
        if port not in ((int(wanted),) if wanted else USUAL_PORTS):
            continue
        if host == name or (name.startswith("*.") and host.endswith(name[1:])):
            return True
    return False


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet's.

    >>> [is_public(a) for a in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1")]
    [False, False, False, False, False]
    >>> [is_public(a) for a in ("::ffff:10.0.0.1", "64:ff9b::a00:1", "224.0.0.1", "100.64.0.1")]
    [False, False, False, False]
    >>> is_public("93.184.216.34"), is_public("2606:4700::1111")
    (True, True)
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if any(found in net for net in TRANSLATED):
            return False
    return found.is_global and not found.is_multicast


def split(target: str) -> tuple[str, int | None]:
    """Host and port. Raises: ``Refused``."""
    try:
        parts = urlsplit(f"//{target}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Refused("400 Bad Request", f"{target!r}: {error}") from None
    if not host or "*" in host:
        raise Refused("400 Bad Request", f"{target!r} names no host")
    return host, port


class Egress:
    """The proxy of one sandbox. ``private`` are the hosts whose addresses need not be public."""

    def __init__(
        self,
        allow: Sequence[str],
        private: Sequence[str],
        *,
        connections: int,
        transfer: int,
        idle: float,
    ) -> None:
        self.allow, self.private = allow, {host.lower() for host in private}
        self.connections, self.idle = connections, idle
        self.left = transfer
        """Bytes that may still go either way."""
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            if self.open > self.connections:
                raise Refused("503 Service Unavailable", "too many connections at once")
            if self.left <= 0:
                raise Refused("403 Forbidden", "no more bytes may be sent or received")
            async with asyncio.timeout(HEADER_TIME):
                head = await reader.readuntil(b"\r\n\r\n")
                there, back, first = await self._connect(head)
            try:
                if first:
                    back.write(first)
                else:
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await self._carry_both((reader, back), (there, writer))
            finally:
                back.close()
        except Refused as refused:
            await self._say(writer, refused.status, str(refused))
        except TimeoutError:
            await self._say(writer, "504 Gateway Timeout", "it took too long")
        except asyncio.LimitOverrunError:
            await self._say(writer, "431 Request Header Fields Too Large", "the header is too long")
        except (OSError, asyncio.IncompleteReadError):
            pass  # the sandbox's side has gone
        finally:
            self.open -= 1
            writer.close()

    async def _say(self, writer: asyncio.StreamWriter, status: str, reason: str) -> None:
        text = f"{reason}\n".encode()
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        try:
            writer.write(head.encode() + text)
            await writer.drain()
        except OSError:
            pass

    async def _connect(
        self, head: bytes
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """The connection to a host, and what to send there first. Raises: ``Refused``."""
        first, *lines = head.decode("latin-1").split("\r\n")
        try:
            method, target, version = first.split(" ")
        except ValueError:
            raise Refused("400 Bad Request", "this is no request") from None
        if method == "CONNECT":
            host, port = split(target)
            return *await self._reach(host, port or 443), b""
        if not target.lower().startswith("http://"):
            raise Refused("400 Bad Request", "ask by CONNECT, or by a whole http:// address")
        place, rest = re.split(r"/|(?=\?)|$", target[len("http://") :], maxsplit=1)
        host, port = split(place)
        name = f"[{host}]" if ":" in host else host
        kept = [line for line in lines if line and not _is_ours(line)]
        asked = [
            f"{method} /{rest} {version}",
            f"Host: {name}" if port in (None, 80) else f"Host: {name}:{port}",
            *kept,
            "Connection: close",
        ]
        content = "\r\n".join(asked) + "\r\n\r\n"
        return *await self._reach(host, port or 80), content.encode("latin-1")

    async def _reach(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not is_allowed(host, port, self.allow):
            raise Refused("403 Forbidden", f"{host}:{port} is not among this task's hosts")
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Refused("502 Bad Gateway", f"{host}: {error}") from None
        excepted = host.lower().rstrip(".") in self.private
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        usable = [address for address in addresses if excepted or is_public(address)]
        if not usable:
            raise Refused("403 Forbidden", f"{host} is an address that is not public")
        trouble = ""
        for address in usable:
            try:
                return await asyncio.open_connection(address, port)
            except OSError as error:
                trouble = str(error)
        raise Refused("502 Bad Gateway", f"{host}: {trouble}")

    async def _carry_both(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Until both have ended, or nothing has moved for long."""
        moved = [time.monotonic()]
        tasks = [asyncio.ensure_future(self._carry(*way, moved)) for way in ways]
        try:
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=self.idle, return_when=asyncio.FIRST_EXCEPTION
                )
                broken = any(task.exception() for task in done)
                if broken or time.monotonic() - moved[0] >= self.idle:
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, moved: list[float]
    ) -> None:
        while data := await reader.read(CHUNK):
            moved[0] = time.monotonic()
            self.left -= len(data)
            if self.left < 0:
                raise ConnectionAbortedError("no more bytes may be sent or received")
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _is_ours(line: str) -> bool:
    """Whether a line of a header is for the proxy, or said anew by it."""
    name = line.partition(":")[0].strip().lower()
    return name in ("host", "connection", "keep-alive") or name.startswith("proxy-")


async def main(sandbox: socket.socket, settings: dict[str, object]) -> None:
    """Serve as long as the sandbox is there."""
    egress = Egress(**settings)  # type: ignore[arg-type]
    await _readable(sandbox)
    told, fds, *_ = socket.recv_fds(sandbox, 1, 1)
    if not told or not fds:
        return  # it ended before it listened
    listener = socket.socket(fileno=fds[0])
    listener.setblocking(False)
    server = await asyncio.start_server(egress.serve, sock=listener, limit=MAX_HEADER)
    await _readable(sandbox)  # it says nothing more: this is its end
    server.close()


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    await ready.wait()
    loop.remove_reader(sock)


def accepted(path: str) -> socket.socket:
    """The first connection to a Unix socket at that path."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(JOIN_TIME)
        return listener.accept()[0]


def lend(path: str, port: int, seconds: float) -> None:
    """Have whoever listens at the path serve a port of our loopback, while it lives and time is."""
    with socket.socket(socket.AF_UNIX) as link:
        with socket.create_server(("127.0.0.1", port), backlog=64) as listener:
            _join(link, path)
            socket.send_fds(link, [b"1"], [listener.fileno()])
        with open(f"{path}.ready", "x"):
            pass
        link.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            link.recv(1)  # it says nothing: this is its end


def _join(link: socket.socket, path: str) -> None:
    end = time.monotonic() + JOIN_TIME
    while True:
        try:
            return link.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def become_nobody(user: int) -> None:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    where, said = sys.argv[1:3]
    if where == "lend":
        lend(said, int(sys.argv[3]), float(sys.argv[4]))
        sys.exit()
    config = json.loads(said)
    if (number := config.pop("user")) is not None:
        become_nobody(number)
    link = socket.socket(fileno=int(where)) if where.isdecimal() else accepted(where)
    asyncio.run(main(link, config))
    os._exit(0)  # whatever is still being carried, or resolved
