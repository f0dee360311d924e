"""The server inside a bubblewrap sandbox: runs commands, reads and writes files, by the SWE-ReX
protocol on a Unix socket that the host bound. Knows nothing of tasks, of the host, or of any
package: it is one file, run by ``python3 -I -S -E`` as process 1 of the sandbox's own PID
namespace.

Why not the stock SWE-ReX server: measured on the same two cores, that one takes 0.43 s of CPU and
55 MB until it answers; this one 26 ms and 12 MB, and then 3 ms for a command. The stock one handles
one request at a time (its ``is_alive`` times out while a command runs), cannot stop a command
before its time, keeps all output in memory and remembers only the last request. This one

1. runs commands side by side, and a command that ends is answered at once, whatever it left running
   in the background;
2. treats ``X-Request-ID`` as what it promises to be: a second delivery of an ``/execute`` waits for
   the first, or gets its recorded answer, and runs nothing (``/cancel`` with a ``request_id`` stops
   one); one that asks for something else is refused;
3. stops a command with all that it started, also what left its session, when its time is up or when
   nobody waits for it any more;
4. keeps the head and the tail of the output and counts the rest;
5. stops whoever takes the sandbox past its memory, its file count, or its background processes;
6. cannot be killed from inside (it is process 1) and ends by itself when its lifetime is over.

Event loop and HTTP are written out over ``selectors``, because importing asyncio alone costs 46 ms,
almost twice the whole start-up.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import selectors
import signal
import socket
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_HEADER = 65_536
MAX_BODY = 64 * 2**20
MAX_FILE = 32 * 2**20
"""Bytes of the largest file that ``/read_file`` gives."""
MAX_RECORDED = 64 * 2**20
"""Bytes of recorded answers; beyond it the oldest are forgotten, and say so when asked for."""
CHUNK = 65_536
TICK = 0.1
"""Seconds between two looks at what the processes use."""
DYING = 3.0
"""Seconds for which the answer of a stopped command waits until all that it started is gone."""
UNCLAIMED = 20.0
"""Seconds without any connection at the beginning; then it ends, since nobody knows of it."""
HEADROOM = 64
"""Processes that this server may start beyond the limit of the commands."""
OTHER = "builtins.KeyError"
"""What a request is refused with whose id is another command's."""
WHAT = ("command", "cwd")
"""Fields of a request that a second delivery of it shares with the first."""
MARK = "PILOTFISH_ACTION"
PROXY_PORT = 3128
"""Where commands find the proxy, if the sandbox has one."""


class Output:
    """Head and tail of a stream, at most ``limit`` bytes together, and the count of the rest."""

    def __init__(self, limit: int) -> None:
        self.half = max(limit // 2, 1)
        self.head = bytearray()
        self.tail = bytearray()
        self.total = 0

    def feed(self, data: bytes) -> None:
        self.total += len(data)
        room = self.half - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        self.tail += data
        if len(self.tail) > 2 * self.half + CHUNK:
            del self.tail[: -self.half]

    @property
    def omitted(self) -> int:
        return self.total - len(self.head) - min(len(self.tail), self.half)

    def text(self) -> str:
        return elide(bytes(self.head), bytes(self.tail[-self.half :]), self.omitted)


def elide(head: bytes, tail: bytes, omitted: int) -> str:
    """The output as it is shown: all of it, or its two ends and how much is missing."""
    if omitted <= 0:
        return (head + tail).decode(errors="backslashreplace")
    note = f"\n[... {omitted:,} bytes left out ...]\n"
    return head.decode(errors="backslashreplace") + note + tail.decode(errors="backslashreplace")


class Failure(Exception):
    """An answer that is an error, in the protocol's form."""

    def __init__(self, class_path: str, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.class_path = class_path
        self.extra = extra

    def answer(self) -> tuple[int, dict[str, Any]]:
        transfer = {
            "message": str(self),
            "class_path": self.class_path,
            "traceback": "",
            "extra_info": self.extra,
        }
        return 511, {"swerexception": transfer}


class Refused(Exception):
    """A request that cannot be handled at all."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Process:
    """One line of the process table."""

    def __init__(self, pid: int, line: str) -> None:
        fields = line[line.rindex(")") + 2 :].split()
        self.pid = pid
        self.session = int(fields[3])
        self.started = int(fields[19])
        self.rss = int(fields[21]) * resource.getpagesize()
        """What is shared with others is counted in each of them: an upper bound."""

    def share(self) -> int:
        """Bytes in memory, with what is shared divided among those who share it. Slow to find."""
        try:
            with open(f"/proc/{self.pid}/smaps_rollup", encoding="ascii") as file:
                for line in file:
                    if line.startswith("Pss:"):
                        return int(line.split()[1]) * 1024
        except OSError:
            pass
        return self.rss


def processes() -> list[Process]:
    """All of the sandbox but this server."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                found.append(Process(int(name), file.read()))
        except OSError:
            continue
    return found


class Action:
    """One command: running, or ended and recorded."""

    def __init__(self, number: int, request: dict[str, Any], limit: int) -> None:
        self.number = number
        self.request = request
        self.merged = bool(request.get("merge_output_streams"))
        self.outputs = [Output(limit)] if self.merged else [Output(limit), Output(limit)]
        self.pipes: list[Pipe] = []
        self.pid = 0
        self.began = time.monotonic()
        self.began_ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
        timeout = request.get("timeout")
        self.deadline = None if timeout is None else self.began + float(timeout)
        self.alone_since: float | None = None
        self.waiters: list[Connection] = []
        self.stopped = ""
        """Why it was stopped before its end."""
        self.answer: tuple[int, dict[str, Any]] | None = None
        self.size = 0

    @property
    def running(self) -> bool:
        return self.answer is None

    def finish(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self._conclude(128 - code if code < 0 else code)

    def _conclude(self, code: int) -> None:
        texts = [output.text() for output in self.outputs]
        extra = {
            "truncated": any(output.omitted for output in self.outputs),
            "seconds": round(time.monotonic() - self.began, 6),
            "stopped": self.stopped,
        }
        if self.stopped == "timeout":
            message = f"Timeout ({self.request['timeout']}s) exceeded while running command"
            path = "swerex.exceptions.CommandTimeoutError"
            self._fail(Failure(path, message, output="".join(texts), **extra))
        elif self.request.get("check") and code:
            message = f"Command {self.request['command']!r} failed with exit code {code}. {texts}"
            if self.request.get("error_msg"):
                message = f"{self.request['error_msg']}: {message}"
            self._fail(Failure("swerex.exceptions.NonZeroExitCodeError", message, **extra))
        else:
            stderr = "" if self.merged else texts[1]
            self.answer = 200, {"stdout": texts[0], "stderr": stderr, "exit_code": code, **extra}
        self.size = sum(len(text) for text in texts)
        self.outputs = [Output(1) for _ in self.outputs]

    def _fail(self, failure: Failure) -> None:
        self.answer = failure.answer()


class Pipe:
    """The reading end of a command's output. After the command's end it goes on being read and
    dropped, so that what it left in the background neither blocks nor dies of a closed pipe."""

    def __init__(self, selector: selectors.BaseSelector, fd: int, output: Output) -> None:
        self.selector = selector
        self.fd = fd
        self.output: Output | None = output
        os.set_blocking(fd, False)
        selector.register(fd, selectors.EVENT_READ, self.ready)

    def ready(self, _: int) -> None:
        if self.fd < 0:
            return  # Closed by what came before it in the same round.
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return
        if data and self.output is not None:
            self.output.feed(data)
        if not data:
            self.close()

    def drain(self) -> None:
        """Take what is there, at most what a pipe can hold, however fast somebody fills it."""
        for _ in range(17):
            self.ready(0)
        self.output = None

    def close(self) -> None:
        if self.fd >= 0:
            self.selector.unregister(self.fd)
            os.close(self.fd)
            self.fd = -1


class Connection:
    """One client connection, kept alive from request to request."""

    def __init__(self, guest: Guest, sock: socket.socket) -> None:
        self.guest = guest
        self.sock = sock
        self.received = bytearray()
        self.unsent = bytearray()
        self.action: Action | None = None
        """The one whose end the client waits for."""
        self.last = False
        sock.setblocking(False)
        guest.selector.register(sock, selectors.EVENT_READ, self.ready)

    def ready(self, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                self._send()
            if mask & selectors.EVENT_READ:
                self._receive()
        except OSError:
            self.close()

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.guest.selector.unregister(self.sock)
            self.sock.close()
        if self.action is not None:
            self.guest.abandon(self.action, self)
            self.action = None

    def reply(self, status: int, body: dict[str, Any]) -> None:
        self.action = None
        content = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n"
        head += "connection: close\r\n\r\n" if self.last else "\r\n"
        self.unsent += head.encode() + content
        try:
            self._send()
        except OSError:
            self.close()

    def _send(self) -> None:
        if self.unsent:
            with contextlib.suppress(BlockingIOError):
                del self.unsent[: self.sock.send(self.unsent)]
        if not self.unsent and self.last:
            return self.close()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.unsent else 0)
        self.guest.selector.modify(self.sock, events, self.ready)
        if not self.unsent:
            self._next_request()

    def _receive(self) -> None:
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        if not data:
            return self.close()
        self.received += data
        if len(self.received) > MAX_HEADER + MAX_BODY:
            return self.close()
        self._next_request()

    def _next_request(self) -> None:
        if self.action is not None or self.unsent or self.last:
            return
        try:
            request = self._parse()
            if request is not None:
                self.guest.handle(self, *request)
        except Refused as refused:
            self.reply(refused.status, {"detail": str(refused)})
        except Failure as failure:
            self.reply(*failure.answer())
        except OSError as error:
            path = f"builtins.{type(error).__name__}"
            self.reply(*Failure(path, str(error)).answer())

    def _parse(self) -> tuple[str, str, dict[str, Any]] | None:
        """Route, request id and body of the next whole request, if it is all there."""
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            if len(self.received) > MAX_HEADER:
                self.last = True
                raise Refused(431, "header too long")
            return None
        first, *lines = self.received[:end].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdigit() or int(length) > MAX_BODY:
            self.last = True
            raise Refused(413, f"a body needs a content-length of at most {MAX_BODY}")
        stop = end + 4 + int(length)
        if len(self.received) < stop:
            return None
        body = bytes(self.received[end + 4 : stop])
        del self.received[:stop]
        self.last = headers.get("connection", "").lower() == "close"
        try:
            fields = json.loads(body) if body and body != b"null" else {}
        except ValueError as error:
            raise Refused(422, f"not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise Refused(422, "the body must be an object")
        method, _, rest = first.partition(" ")
        return f"{method} {rest.split(' ')[0]}", headers.get("x-request-id", ""), fields


class Guest:
    """The server: connections, running and recorded actions, and who uses how much."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(fileno=config["socket"])
        self.listener.setblocking(False)
        self.listener.set_inheritable(False)
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self.actions: dict[str, Action] = {}
        """By request id, oldest first: running ones, and the answers of those that ended."""
        self.running: dict[int, Action] = {}
        """By process id of the command's shell."""
        self.sessions: dict[int, Action] = {}
        """By session, also of those that ended: background processes belong to somebody."""
        self.marks: dict[str, Action] = {}
        self.dying: dict[Action, tuple[int, float]] = {}
        """Stopped ones whose processes are not all gone: exit status, and until when to wait."""
        self.count = 0
        self.children = False
        self.looked = 0.0
        self.files = 0
        self.lifetime_ends = time.monotonic() + float(config["lifetime"])
        # Whoever started us may have died before there was a record of us.
        self.ends = min(self.lifetime_ends, time.monotonic() + UNCLAIMED)
        self.routes: dict[str, Callable[[Connection, str, dict[str, Any]], None]] = {
            "GET /is_alive": self._is_alive,
            "POST /execute": self._execute,
            "POST /cancel": self._cancel,
            "POST /read_file": self._read_file,
            "POST /write_file": self._write_file,
            "POST /close": self._close,
        }
        self._limit_self()
        self._watch_children()
        if "egress" in config:
            self._listen_for_egress(config["egress"])

    def _listen_for_egress(self, fd: int) -> None:
        """Hand out a socket that listens in here, to the proxy that accepts on it out there. The
        connection to it is kept, unused: by its end the proxy knows of ours."""
        self.proxy = socket.socket(fileno=fd)
        self.proxy.set_inheritable(False)
        with socket.create_server(("127.0.0.1", PROXY_PORT), backlog=64) as listener:
            socket.send_fds(self.proxy, [b"1"], [listener.fileno()])

    # ---- the loop

    def serve(self) -> None:
        while time.monotonic() < self.ends:
            for key, mask in self.selector.select(self._patience()):
                key.data(mask)
            self._check_time()
            self._check_dying()
            if self.children and time.monotonic() - self.looked >= TICK:
                self._check_use()

    def _patience(self) -> float:
        now = time.monotonic()
        times: list[float] = [self.ends]
        times += [action.deadline for action in self.running.values() if action.deadline]
        if self.children:
            times.append(self.looked + TICK)
        if self.dying:
            times.append(now + TICK / 5)
        return max(min(times) - now, 0.0)

    def _accept(self, _: int) -> None:
        try:
            sock, _peer = self.listener.accept()
        except OSError:
            return
        self.ends = self.lifetime_ends
        Connection(self, sock)

    def handle(
        self, connection: Connection, route: str, request_id: str, body: dict[str, Any]
    ) -> None:
        handler = self.routes.get(route)
        if handler is None:
            raise Refused(404, f"Not Found: {route}")
        try:
            handler(connection, request_id, body)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(422, f"{type(error).__name__}: {error}") from None

    def _limit_self(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        limits = dict(self.config["limits"])
        if "NPROC" in limits:
            limits["NPROC"] += HEADROOM
        for name, value in limits.items():
            if name != "AS":
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))

    # ---- children

    def _watch_children(self) -> None:
        woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

        def reap(_: int) -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            self._reap()

        self.selector.register(woken, selectors.EVENT_READ, reap)

    def _reap(self) -> None:
        for action, status in self._exited():
            if not action.stopped and self._left_too_many(action):
                self.stop(action, "too many background processes")
            if action.stopped:
                self.dying[action] = status, time.monotonic() + DYING
            else:
                self._ended(action, status)

    def _exited(self) -> list[tuple[Action, int]]:
        """The commands that ended, with their status; all that exited is taken off the table."""
        found: list[tuple[Action, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.children = False
                self.sessions.clear()
                self.marks.clear()
                return found
            if pid == 0:
                return found
            action = self.running.pop(pid, None)
            if action is not None:
                found.append((action, status))

    def _left_too_many(self, action: Action) -> bool:
        if not self.children:
            return False
        mine = self._started_by(action)
        left = sum(mine(process, self._owner(process)) for process in processes())
        return left > int(self.config["background"])

    def _check_dying(self) -> None:
        """Answer for stopped commands of which nothing is left. What a fork bomb leaves for a
        moment takes the room that the next command needs."""
        for action, (status, until) in list(self.dying.items()):
            if time.monotonic() < until and self._kill(self._started_by(action)):
                continue
            del self.dying[action]
            self._ended(action, status)

    def _ended(self, action: Action, status: int) -> None:
        for pipe in action.pipes:
            pipe.drain()
        action.pipes = []
        action.finish(status)
        self._forget_old()
        waiters, action.waiters = action.waiters, []
        assert action.answer is not None
        for connection in waiters:
            connection.reply(*action.answer)

    def _forget_old(self) -> None:
        total = sum(action.size for action in self.actions.values())
        for action in self.actions.values():
            if total <= MAX_RECORDED:
                return
            if action.size:
                total -= action.size
                action.size = 0
                text = "the result of this action was forgotten: too many large ones came after it"
                action.answer = Failure("builtins.LookupError", text).answer()

    # ---- stopping

    def _owner(self, process: Process) -> Action | None:
        action = self.sessions.get(process.session)
        if action is not None:
            return action
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                environment = file.read().split(b"\0")
        except OSError:
            return None
        prefix = MARK.encode() + b"="
        for entry in environment:
            if entry.startswith(prefix):
                return self.marks.get(entry[len(prefix) :].decode(errors="replace"))
        return None

    def _kill(self, guilty: Callable[[Process, Action | None], bool]) -> int:
        """Kill all processes that ``guilty`` names; returns how many there were. They are stopped
        first, all at once, because killing a fork bomb one by one only makes room for its next
        child."""
        found = 0
        try:
            os.kill(-1, signal.SIGSTOP)
        except ProcessLookupError:
            return found
        for process in processes():
            if guilty(process, self._owner(process)):
                found += 1
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGCONT)
        return found

    @staticmethod
    def _started_by(action: Action) -> Callable[[Process, Action | None], bool]:
        """Whether a process is of this command. One who hid from us (a new session, a cleared
        environment) is known by having started later and belonging to nobody else."""

        def guilty(process: Process, owner: Action | None) -> bool:
            if owner is None:
                return process.started >= action.began_ticks
            return owner is action

        return guilty

    def stop(self, action: Action, reason: str) -> None:
        """End a command and all that it started."""
        action.stopped = reason
        action.deadline = None
        self._kill(self._started_by(action))

    def abandon(self, action: Action, connection: Connection) -> None:
        if connection in action.waiters:
            action.waiters.remove(connection)
        if action.running and not action.waiters:
            action.alone_since = time.monotonic()
            grace = action.alone_since + self.config["grace"]
            action.deadline = grace if action.deadline is None else min(grace, action.deadline)

    def _check_time(self) -> None:
        now = time.monotonic()
        for action in list(self.running.values()):
            if action.deadline is None or now < action.deadline:
                continue
            timeout = action.request.get("timeout")
            late = timeout is not None and now >= action.began + float(timeout)
            self.stop(action, "timeout" if late else "client gone")

    def _check_use(self) -> None:
        self.looked = time.monotonic()
        table = processes()
        groups: dict[Action | None, list[Process]] = {None: []}
        for process in table:
            owner = self._owner(process)
            background = owner is None or not owner.running
            groups.setdefault(None if background else owner, []).append(process)
        if len(groups[None]) > self.config["background"]:
            self._stop_group(None, "too many background processes")
        elif sum(process.rss for process in table) > self.config["memory"]:
            use = {
                owner: sum(process.share() for process in group) for owner, group in groups.items()
            }
            if sum(use.values()) > self.config["memory"]:
                self._stop_group(max(use, key=lambda owner: use[owner]), "memory")
        files, before = self._files(), self.files
        self.files = files
        # Only who still makes more: what removes them has to be able to run.
        if files > max(self.config["files"], before):
            for action in [*self.running.values(), None]:
                self._stop_group(action, "too many files")

    def _stop_group(self, action: Action | None, reason: str) -> None:
        if action is not None:
            self.stop(action, reason)
        else:
            self._kill(lambda _, owner: owner is None or not owner.running)

    def _files(self) -> int:
        count = 0
        for folder in self.config["writable"]:
            state = os.statvfs(folder)
            count = max(count, state.f_files - state.f_ffree)
        return count

    # ---- the protocol

    def _is_alive(self, connection: Connection, _: str, __: dict[str, Any]) -> None:
        connection.reply(200, {"is_alive": True, "message": ""})

    def _execute(self, connection: Connection, request_id: str, body: dict[str, Any]) -> None:
        action = self.actions.get(request_id) if request_id else None
        if action is None:
            action = self._start(body)
            self.actions[request_id or f"anonymous {action.number}"] = action
        elif any(action.request.get(name, body.get(name)) != body.get(name) for name in WHAT):
            raise Failure(OTHER, f"{request_id} is the id of another command, which was run here")
        if action.answer is not None:
            return connection.reply(*action.answer)
        if action.alone_since is not None and not action.stopped:
            action.alone_since = None
            timeout = action.request.get("timeout")
            action.deadline = None if timeout is None else action.began + float(timeout)
        action.waiters.append(connection)
        connection.action = action

    def _start(self, body: dict[str, Any]) -> Action:
        command = body["command"]
        arguments = [command] if isinstance(command, str) else [str(part) for part in command]
        if body.get("shell"):
            arguments = ["/bin/sh", "-c", *arguments]
        if not arguments:
            raise Refused(422, "the command is empty")
        self.count += 1
        action = Action(self.count, body, self.config["output"])
        environment = dict(self.config["env"] if body.get("env") is None else body["env"])
        environment[MARK] = str(action.number)
        ends = [os.pipe2(os.O_CLOEXEC) for _ in action.outputs]
        try:
            writers = [writer for _, writer in ends]
            action.pid = self._spawn(arguments, environment, body.get("cwd"), writers)
        except OSError:
            for reader, _ in ends:
                os.close(reader)
            raise
        finally:
            for _, writer in ends:
                os.close(writer)
        for (reader, _), output in zip(ends, action.outputs, strict=True):
            action.pipes.append(Pipe(self.selector, reader, output))
        self.running[action.pid] = self.sessions[action.pid] = action
        self.marks[str(action.number)] = action
        self.children = True
        return action

    def _spawn(
        self, arguments: list[str], environment: dict[str, str], cwd: str | None, writers: list[int]
    ) -> int:
        told, tell = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                self._become(arguments, environment, cwd, writers)
            except OSError as error:
                os.write(tell, f"{error.errno} {error.filename or arguments[0]}".encode())
            finally:
                os._exit(127)
        os.close(tell)
        # Ends when the child has become the command: nothing to wait for, and nothing to hang on.
        trouble = os.read(told, 4096).decode(errors="replace")
        os.close(told)
        if trouble:
            number, _, name = trouble.partition(" ")
            raise OSError(int(number), os.strerror(int(number)), name)
        return pid

    def _become(
        self, arguments: list[str], environment: dict[str, str], cwd: str | None, writers: list[int]
    ) -> None:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(writers[0], 1)
        os.dup2(writers[-1], 2)
        os.chdir(cwd or self.config["workdir"])
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        for name, value in self.config["limits"].items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        os.nice(self.config["nice"])
        os.execvpe(arguments[0], arguments, environment)

    def _cancel(self, connection: Connection, _: str, body: dict[str, Any]) -> None:
        action = self.actions.get(body["request_id"])
        if action is None:
            # It may still be on its way; when it comes, it must not run.
            self.count += 1
            action = Action(self.count, {"merge_output_streams": True}, 1)
            action.stopped = "cancelled"
            action.finish(signal.SIGKILL)
            self.actions[body["request_id"]] = action
        elif action.running:
            self.stop(action, "cancelled")
        connection.reply(200, {})

    def _read_file(self, connection: Connection, _: str, body: dict[str, Any]) -> None:
        path = self._path(body["path"])
        # Not blocking, because what looks like a file may be a pipe that nobody writes to.
        with open(path, "rb", opener=lambda p, f: os.open(p, f | os.O_NONBLOCK)) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            if state.st_size > MAX_FILE:
                raise OSError(errno.EFBIG, f"larger than {MAX_FILE} bytes", path)
            data = file.read(MAX_FILE)
        try:
            content = data.decode(body.get("encoding") or "utf-8", body.get("errors") or "strict")
        except (UnicodeDecodeError, LookupError) as error:
            raise Failure("builtins.ValueError", f"{path}: {error}") from None
        connection.reply(200, {"content": content})

    def _write_file(self, connection: Connection, _: str, body: dict[str, Any]) -> None:
        path, data = self._path(body["path"]), body["content"].encode(errors="surrogatepass")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags, 0o666), "wb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            file.truncate(0)
            file.write(data)
        connection.reply(200, {})

    def _path(self, path: str) -> str:
        if "\0" in path or not path:
            raise OSError(errno.EINVAL, "not a path", path)
        return os.path.join(self.config["workdir"], path)

    def _close(self, connection: Connection, _: str, __: dict[str, Any]) -> None:
        connection.last = True
        connection.sock.setblocking(True)
        connection.reply(200, {})
        sys.exit(0)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as config_file:
        configuration = json.load(config_file)
    Guest(configuration).serve()
