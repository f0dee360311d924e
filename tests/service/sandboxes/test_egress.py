"""A task's hosts, and no others: real sandboxes, real servers on this machine."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pilotfish import Task
from search.errors import SandboxError
from service.sandboxes.bubblewrap import BubblewrapProvider, BubblewrapSettings
from service.sandboxes.container import ContainerProvider, ContainerSettings
from service.sandboxes.deployment import DeploymentProvider, DeploymentSettings
from service.sandboxes.kubernetes import KubernetesProvider, KubernetesSettings
from service.sandboxes.swerex import SwerexProvider, SwerexSandbox
from tests.service.sandboxes.conftest import container_settings
from tests.service.sandboxes.podman import BUSYBOX, IMAGE, Podman
from tests.service.sandboxes.test_conformance import of_run, run

MIRROR = "127.0.0.2"
"""An address of this machine's that no program takes for its own."""
FETCH = """
import sys, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:
        print(answer.status, answer.read().decode())
except OSError as error:
    print(error, error.read().decode() if hasattr(error, "read") else "")
"""
TUNNEL = """
import http.client, sys
host, port, path = sys.argv[1:]
link = http.client.HTTPConnection("127.0.0.1", 3128, timeout=60)
link.set_tunnel(host, int(port))
try:
    for _ in range(2):  # one after the other, by one tunnel
        link.request("GET", path)
        print(link.getresponse().read().decode())
except OSError as error:
    print(error)
"""
ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", 3128)) as link:
    link.sendall(sys.argv[1].encode().decode("unicode_escape").encode())
    link.settimeout(60)
    print(b"".join(iter(lambda: link.recv(65536), b"")).decode())
"""


class Server(http.server.ThreadingHTTPServer):
    """Says what it was asked; ``/big`` gives a megabyte."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("0.0.0.0", 0), Handler)
        self.asked: list[dict[str, str]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(
            {"path": self.path, **{k.lower(): v for k, v in self.headers.items()}}
        )
        content = b"x" * 2**20 if self.path == "/big" else f"you asked {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def settings(folder: Path, **others: Any) -> BubblewrapSettings:
    return BubblewrapSettings(state_dir=folder, egress_private=["localhost", MIRROR], **others)


def task(*hosts: str) -> Task:
    files = {"fetch.py": FETCH, "tunnel.py": TUNNEL, "ask.py": ASK}
    return Task(id="t", statement="s", image="host", allow_hosts=list(hosts), files=files)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def start(*hosts: str, **others: Any) -> AsyncIterator[SwerexSandbox]:
        provider = BubblewrapProvider(settings(tmp_path / "state", **others))
        async with provider, provider.start(task(*hosts)) as sandbox:
            yield sandbox

    return start


def proxies(of: str) -> list[str]:
    """Numbers of the processes that are a sandbox's proxy."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            words = (
                (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
            )
            if of.encode() in words and any(word.endswith(b"egress.py") for word in words):
                found.append(process.name)
    return found


async def until_no_proxy(of: str) -> None:
    async with asyncio.timeout(60):
        while proxies(of):
            await asyncio.sleep(0.02)


# ---- what comes through, and what does not


async def test_an_allowed_host_is_found_by_the_environment(
    start: Callable[..., Any], server: Server
) -> None:
    port = server.server_port
    async with start(f"{MIRROR}:{port}") as sandbox:
        said = await run(sandbox, f"python3 fetch.py 'http://{MIRROR}:{port}/a?b=c'", 90)
        assert said == "200 you asked /a?b=c\n"
        [asked] = server.asked
        assert (asked["path"], asked["host"]) == ("/a?b=c", f"{MIRROR}:{port}")
        assert not any(name.startswith("proxy") for name in asked)
        said = await run(sandbox, f"python3 tunnel.py {MIRROR} {port} /t", 90)
        assert said == 2 * "you asked /t\n"


async def test_a_name_is_resolved_outside(start: Callable[..., Any], server: Server) -> None:
    port = server.server_port
    async with start(f"localhost:{port}") as sandbox:
        assert "you asked /x" in await run(sandbox, f"python3 tunnel.py LOCALHOST {port} /x", 90)
        ask = f"GET http://localhost:{port}?q HTTP/1.1\\r\\nHost: other.example\\r\\n\\r\\n"
        assert "you asked /?q" in await run(sandbox, f"python3 ask.py '{ask}'", 90)
        assert server.asked[-1]["host"] == f"localhost:{port}"


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1", "localhost.example.org", "[::1]"])
async def test_no_other_host(start: Callable[..., Any], server: Server, host: str) -> None:
    port = server.server_port
    async with start(f"localhost:{port}") as sandbox:
        said = await run(sandbox, f"python3 tunnel.py '{host}' {port} /", 90)
        assert "403 Forbidden" in said
        ask = f"GET http://{host}:{port}/ HTTP/1.1\\r\\nHost: localhost:{port}\\r\\n\\r\\n"
        assert "is not among this task's hosts" in await run(sandbox, f"python3 ask.py '{ask}'", 90)
        assert server.asked == []


async def test_no_other_port_and_no_private_address(
    start: Callable[..., Any], server: Server
) -> None:
    port = server.server_port
    async with start("localhost", f"127.0.0.3:{port}") as sandbox:
        assert "403 Forbidden" in await run(sandbox, f"python3 tunnel.py localhost {port} /", 90)
        ask = f"GET http://127.0.0.3:{port}/ HTTP/1.1\\r\\n\\r\\n"
        assert "not public" in await run(sandbox, f"python3 ask.py '{ask}'", 90)
        assert server.asked == []


async def test_there_is_no_other_way_out(start: Callable[..., Any], server: Server) -> None:
    port = server.server_port
    async with start(f"localhost:{port}") as sandbox:
        direct = f"socket.create_connection(('{MIRROR}', {port}), timeout=60)"
        result = await sandbox.execute(
            f'python3 -c "import socket; {direct}"', action_id="a", timeout=90
        )
        assert "Error" in result.output
        resolve = "socket.getaddrinfo('example.org', 80)"
        result = await sandbox.execute(
            f'python3 -c "import socket; {resolve}"', action_id="b", timeout=90
        )
        assert "gaierror" in result.output
        result = await sandbox.execute("cat /proc/net/dev", action_id="c", timeout=90)
        assert [line.split(":")[0].strip() for line in result.output.splitlines()[2:]] == ["lo"]


async def test_without_hosts_there_is_no_proxy(start: Callable[..., Any]) -> None:
    async with start() as sandbox:
        assert await run(sandbox, "env | grep -ci proxy || true", 90) == "0\n"
        assert proxies(sandbox.id) == []


@pytest.mark.parametrize(
    "ask",
    ["nonsense\\r\\n\\r\\n", "GET / HTTP/1.1\\r\\n\\r\\n", "CONNECT :x HTTP/1.1\\r\\n\\r\\n",
     "CONNECT [ HTTP/1.1\\r\\n\\r\\n", "GET http:///x HTTP/1.1\\r\\n\\r\\n"],
)  # fmt: skip
async def test_nonsense_is_answered(start: Callable[..., Any], ask: str) -> None:
    async with start("localhost") as sandbox:
        assert "400 Bad Request" in await run(sandbox, f"python3 ask.py '{ask}'", 90)


async def test_bounds(start: Callable[..., Any], server: Server) -> None:
    port = server.server_port
    async with start(f"{MIRROR}:{port}", egress_bytes=100_000, egress_connections=1) as sandbox:
        url = f"http://{MIRROR}:{port}"
        assert "you asked /a" in await run(sandbox, f"python3 fetch.py {url}/a", 90)
        held = "import socket; s = socket.create_connection(('127.0.0.1', 3128)); "
        more = "t = socket.create_connection(('127.0.0.1', 3128)); print(t.recv(999).decode())"
        assert "503" in await run(sandbox, f'python3 -c "{held}{more}"', 90)
        result = await sandbox.execute(f"python3 fetch.py {url}/big", action_id="a", timeout=90)
        assert "200" not in result.output
        assert "no more bytes" in await run(sandbox, f"python3 fetch.py {url}/a", 90)


async def test_a_connection_on_which_nothing_moves_is_closed(
    start: Callable[..., Any], server: Server
) -> None:
    port = server.server_port
    async with start(f"{MIRROR}:{port}", egress_idle=0.2) as sandbox:
        ask = f"CONNECT {MIRROR}:{port} HTTP/1.1\\r\\n\\r\\n"
        assert "200 Connection established" in await run(sandbox, f"python3 ask.py '{ask}'", 90)


# ---- how long it lives


async def test_the_proxy_ends_with_the_sandbox(start: Callable[..., Any]) -> None:
    async with start("example.org") as sandbox:
        # Whoever can be nobody is nobody: it was root's only until it ran.
        assert len(proxies(sandbox.id)) == 1
        async with asyncio.timeout(60):
            while os.getuid() == 0 and owner_of(proxies(sandbox.id)[0]) == 0:
                await asyncio.sleep(0.02)
    assert proxies(sandbox.id) == []


def owner_of(number: str) -> int:
    return os.stat(f"/proc/{number}").st_uid


STARTER = """
import asyncio, json, sys
from pathlib import Path
from pilotfish import Task
from service.sandboxes.bubblewrap import BubblewrapProvider, BubblewrapSettings

async def main():
    provider = BubblewrapProvider(BubblewrapSettings.model_validate_json(sys.argv[1]))
    async with provider.start(Task.model_validate_json(sys.argv[2])) as sandbox:
        print(sandbox.id, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("outlives", [True, False])
async def test_its_starter_is_killed(tmp_path: Path, server: Server, outlives: bool) -> None:
    there = settings(tmp_path / "state", outlive_parent=outlives)
    port = server.server_port
    given = [there.model_dump_json(), task(f"{MIRROR}:{port}").model_dump_json()]
    root = Path(__file__).parents[3]
    env = os.environ | {"PYTHONPATH": f"{root}:{root / 'clients' / 'python'}"}
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER, *given), stdout=subprocess.PIPE, env=env
    )
    assert starter.stdout
    name = (await asyncio.wait_for(starter.stdout.readline(), 90)).decode().strip()
    assert len(proxies(name)) == 1
    starter.kill()
    await starter.wait()
    if outlives:
        sandbox = await BubblewrapProvider(there).attach(name)
        fetched = await run(sandbox, f"python3 fetch.py http://{MIRROR}:{port}/on", 90)
        assert "you asked /on" in fetched
        await sandbox.close()
    await until_no_proxy(name)


# ---- beside a container


@pytest.fixture
def gateway(engine: Podman) -> str:
    """This machine's address on the network that the proxy is on."""
    [network] = json.loads(engine("network", "inspect", "podman"))
    return str(network["subnets"][0]["gateway"])


@pytest.fixture
async def proxied(engine: Podman, owner: str, gateway: str) -> AsyncIterator[ContainerProvider]:
    settings = container_settings(
        engine, owner, egress_image=IMAGE, egress_private=[gateway, "localhost"]
    )
    async with ContainerProvider(settings) as provider:
        yield provider


def all_of(engine: Podman) -> set[str]:
    """Every container of the engine, by its part in a sandbox."""
    names = engine("ps", "-a", "--format={{.Names}}").split()
    return {name[len("pilotfish-") + 32 :] for name in names if name.startswith("pilotfish-")}


@pytest.mark.containers
async def test_a_container_reaches_its_tasks_hosts_and_nothing_else(
    engine: Podman, proxied: ContainerProvider, server: Server, gateway: str
) -> None:
    port = server.server_port
    async with proxied.start(task(f"{gateway}:{port}"), labels={"run": "r"}) as sandbox:
        said = await run(sandbox, f"python3 fetch.py 'http://{gateway}:{port}/a'", 90)
        assert said == "200 you asked /a\n"
        said = await run(sandbox, f"python3 tunnel.py {gateway} {port} /t", 90)
        assert said == 2 * "you asked /t\n"
        asked = len(server.asked)
        for host in ("127.0.0.1", "localhost", MIRROR, "10.255.255.1"):
            said = await run(sandbox, f"python3 tunnel.py {host} {port} /", 90)
            assert "403" in said
        assert "403" in await run(sandbox, f"python3 tunnel.py {gateway} {port + 1} /", 90)
        # Past the proxy: there is no network, so neither the gateway nor a name server.
        assert await run(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1") == "    lo\n"
        connect = f"import socket; socket.create_connection(('{gateway}', {port}), 9)"
        past = await sandbox.execute(f'python3 -c "{connect}"', action_id="past", timeout=60)
        assert "unreachable" in past.output
        assert len(server.asked) == asked
        assert all_of(engine) == {"", "-proxy", "-relay"}
    assert all_of(engine) == set()


@pytest.mark.containers
async def test_what_stands_beside_a_container_is_bounded_and_nobody(
    engine: Podman, proxied: ContainerProvider, owner: str
) -> None:
    async with proxied.start(task("example.org"), labels={"run": "r"}) as sandbox:
        for part in ("proxy", "relay"):
            [found] = json.loads(await asyncio.to_thread(engine, "inspect", f"{sandbox.id}-{part}"))
            host, config = found["HostConfig"], found["Config"]
            assert int(config["User"].split(":")[0]) >= 10_000
            assert host["ReadonlyRootfs"]
            assert not found["EffectiveCaps"]
            assert (host["Memory"], host["PidsLimit"]) == (128 * 2**20, 64)
            assert config["Labels"] == {"pilotfish.run": "r", "pilotfish.sandbox.beside": owner}
        said = await run(sandbox, "python3 tunnel.py example.org 443 /", 90)
        assert "403" not in said  # it may, whether or not there is an internet here
        assert await run(sandbox, "ls /dev/shm; ps -e | grep -c egress || true") == "0\n"


@pytest.mark.containers
async def test_the_way_out_of_a_released_container_stays_and_is_reaped(
    engine: Podman, proxied: ContainerProvider, server: Server, gateway: str
) -> None:
    port = server.server_port
    async with proxied.start(task(f"{gateway}:{port}"), labels={"run": "r"}) as sandbox:
        await sandbox.release()
    again = await proxied.attach(sandbox.id)
    assert "you asked /x" in await run(again, f"python3 tunnel.py {gateway} {port} /x", 90)
    assert list(await proxied.reap()) == []
    assert all_of(engine) == {"", "-proxy", "-relay"}
    assert list(await proxied.reap(of_run("r"))) == [sandbox.id]
    assert all_of(engine) == set()


@pytest.mark.containers
async def test_a_proxy_whose_sandbox_is_gone_is_reaped(
    engine: Podman, proxied: ContainerProvider
) -> None:
    async with proxied.start(task("example.org")) as sandbox:
        for name in (f"{sandbox.id}-relay", sandbox.id):
            await asyncio.to_thread(engine, "rm", "--force", "--time=0", name)
        assert all_of(engine) == {"-proxy"}
        assert list(await proxied.reap()) == []
        assert all_of(engine) == set()


@pytest.mark.containers
@pytest.mark.parametrize("image", [BUSYBOX, "no-such-image"])
async def test_a_proxy_that_cannot_run_leaves_nothing(
    engine: Podman, owner: str, image: str
) -> None:
    settings = container_settings(engine, owner, egress_image=image)
    async with ContainerProvider(settings) as provider:
        with pytest.raises(SandboxError, match=r"python3|no-such-image"):
            async with provider.start(task("example.org")):
                pass
    assert all_of(engine) == set()


# ---- where it cannot be


async def test_swerex_servers_refuse_such_a_task(swerex: SwerexProvider) -> None:
    with pytest.raises(SandboxError, match="cannot be held to"):
        async with swerex.start(task("example.org")):
            pass


@pytest.mark.parametrize(
    ("others", "reason"),
    [({}, "set `egress_image`"), ({"egress_image": "p", "runtime": "runsc"}, "keeps to itself")],
)
async def test_containers_refuse_such_a_task(others: dict[str, Any], reason: str) -> None:
    """Before any engine is asked."""
    async with ContainerProvider(ContainerSettings(**others)) as provider:
        with pytest.raises(SandboxError, match=reason):
            async with provider.start(task("example.org")):
                pass


async def test_pods_and_deployments_refuse_such_a_task() -> None:
    """Before any cluster or engine is asked."""
    cluster = KubernetesSettings(url="http://127.0.0.1:1", namespace="n", token=SecretStr("t"))
    for provider in (
        KubernetesProvider(cluster),
        DeploymentProvider(DeploymentSettings(kind="docker")),
    ):
        async with provider:
            with pytest.raises(SandboxError, match="cannot be held to"):
                async with provider.start(task("example.org")):
                    pass


@pytest.mark.parametrize("host", ["", "*", "a b", "http://a", "a:0", "a:", "*.*.a", "a/b", "[::1]"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="allow_hosts"):
        task(host)
    assert task("*.a.b", "a:8443", "1.2.3.4").allow_hosts == ["*.a.b", "a:8443", "1.2.3.4"]
    assert json.loads(task("a").model_dump_json())["allow_hosts"] == ["a"]
