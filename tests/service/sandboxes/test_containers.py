"""How containers start, are found again, and end; and what is said where they do not."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pilotfish import Task
from search.errors import SandboxError, SandboxLost
from service.local.process import ProcessId
from service.sandboxes import actions
from service.sandboxes.container import ContainerProvider, ContainerSettings
from service.sandboxes.engine import Engine
from service.sandboxes.swerex import SwerexSandbox
from service.settings import Settings
from tests.service.sandboxes.conftest import container_settings
from tests.service.sandboxes.partition import Line, line
from tests.service.sandboxes.podman import BUSYBOX, Podman
from tests.service.sandboxes.test_conformance import of_run, run

pytestmark = pytest.mark.containers
ROOT = Path(__file__).parents[3]


def ours(engine: Podman, owner: str) -> list[str]:
    """All containers of that owner, running or not."""
    found = engine(
        "ps", "-a", "--filter", f"label=pilotfish.sandbox={owner}", "--format={{.Names}}"
    )
    return found.split()


async def until(engine: Podman, owner: str) -> str:
    while not (found := await asyncio.to_thread(ours, engine, owner)):
        await asyncio.sleep(0.01)
    return found[0]


# ---- what a container is


def test_the_documented_settings() -> None:
    text = (ROOT / "docs" / "sandboxes.md").read_text()
    example = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    settings = Settings(sandboxes=example["sandboxes"]).sandboxes["containers"]
    assert isinstance(settings, ContainerSettings)
    assert (settings.memory, settings.cpus) == (4 * 2**30, 2.0)


async def test_busybox_is_enough(containers: ContainerProvider) -> None:
    task = Task(id="t", statement="s", image=BUSYBOX, files={"a/b": "text"})
    async with containers.start(task) as sandbox:
        assert await run(sandbox, "cat a/b; ls -d /usr || true") == (
            "textls: /usr: No such file or directory\n"
        )
        result = await sandbox.execute(
            "echo x; setsid sleep 99 & sleep 99", action_id="a", timeout=0.5
        )
        assert (result.timed_out, result.output) == (True, "x\n")
        assert await run(sandbox, "ps | grep -c '[s]leep 99' || true") == "0\n"
        result = await sandbox.execute("yes | head -c 1000000", action_id="b", timeout=20)
        assert "900,000 bytes left out" in result.output
        assert (await sandbox.execute("kill -9 -1", action_id="c", timeout=5)).exit_code == 137


async def test_an_image_without_the_tools(
    engine: Podman, owner: str, containers: ContainerProvider, task: Task
) -> None:
    name = "docker.io/library/nothing:latest"
    archive = subprocess.check_output(["tar", "-C", "/etc", "-c", "hostname"])  # noqa: ASYNC221
    await asyncio.to_thread(engine, "import", "-", name, given=archive)
    with pytest.raises(SandboxError, match=r"cannot start a container of .*nothing.*sh"):
        async with containers.start(task.model_copy(update={"image": name})):
            pass
    assert ours(engine, owner) == []


async def test_git_in_the_working_folder(jar: SwerexSandbox) -> None:
    log = "git init -q && git add . && git -c user.name=n -c user.email=e commit -qm m && git log"
    assert "m" in await run(jar, log)


async def test_its_first_process_collects_what_others_leave(jar: SwerexSandbox) -> None:
    await run(jar, "for i in $(seq 30); do (sh -c 'sleep 0.01 & exit' &); done")
    await run(jar, "while grep -ls '(zombie)' /proc/[0-9]*/status; do sleep 0.02; done")


async def test_labels(engine: Podman, jar: SwerexSandbox, owner: str) -> None:
    labels = json.loads(engine("inspect", jar.id, "--format={{json .Config.Labels}}"))
    assert labels["pilotfish.sandbox"] == owner
    assert labels["pilotfish.run"] == "r1"
    assert labels["pilotfish.sandbox.task"] == "t"
    assert float(labels["pilotfish.sandbox.expires"]) > time.time() + 14_000


async def test_limits_reach_the_engine(engine: Podman, jar: SwerexSandbox) -> None:
    limits = json.loads(engine("inspect", jar.id, "--format={{json .HostConfig}}"))
    assert limits["Memory"] == limits["MemorySwap"] == 256 * 2**20
    assert limits["NanoCpus"] == 10**9
    assert limits["PidsLimit"] == 128
    assert limits["NetworkMode"] == "none"
    assert await run(jar, "ulimit -n; ulimit -c") == "4096\n0\n"


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"runtime": "runsc"}, "and not 'runsc'"),
        ({"files": 1000}, "nr_inodes"),
        ({"disk_in": "quota"}, "pquota"),
    ],
)
async def test_what_this_engine_has_not_is_refused(
    engine: Podman, owner: str, task: Task, others: dict[str, Any], reason: str
) -> None:
    settings = container_settings(engine, owner).model_copy(update=others)
    async with ContainerProvider(settings) as provider:
        with pytest.raises(SandboxError, match=reason):
            async with provider.start(task):
                pass
    assert ours(engine, owner) == []


async def test_the_images_own_working_folder(engine: Podman, owner: str, task: Task) -> None:
    """As SWE-bench's images have it: a repository of root's, in which commands are root's too."""
    settings = container_settings(engine, owner, disk_in="quota", user="root")
    settings.disk = None
    etc = task.model_copy(update={"workdir": "/etc", "files": {"new": "x"}})
    async with ContainerProvider(settings).start(etc) as sandbox:
        assert await run(sandbox, "cat new; head -n 1 passwd; id -u; echo $HOME") == (
            "xroot:x:0:0::/root:/bin/sh\n0\n/root\n"
        )
    settings.user = None
    with pytest.raises(SandboxError, match="cannot write to its working folder /etc: set `user`"):
        async with ContainerProvider(settings).start(etc):
            pass
    settings.disk_in = "memory"
    with pytest.raises(SandboxError, match="has files in the working folder /etc, which"):
        async with ContainerProvider(settings).start(etc):
            pass
    async with ContainerProvider(settings).start(task.model_copy(update={"workdir": "/root"})):
        pass
    assert ours(engine, owner) == []


@pytest.mark.parametrize(("user", "says"), [("me", "1000"), ("1000:1000", "1000"), ("0", "0")])
async def test_a_user_that_is_set(
    engine: Podman, owner: str, task: Task, user: str, says: str
) -> None:
    async with ContainerProvider(container_settings(engine, owner, user=user)).start(task) as box:
        assert await run(box, "id -u; python3 module/a.py") == f"{says}\nhello\n"


async def test_a_network_that_is_named(engine: Podman, owner: str, task: Task) -> None:
    settings = container_settings(engine, owner, network="no-such-network")
    with pytest.raises(SandboxError, match="no-such-network"):
        async with ContainerProvider(settings).start(task):
            pass
    assert ours(engine, owner) == []
    settings.network = "host"
    async with ContainerProvider(settings).start(task) as sandbox:
        assert "eth" in await run(sandbox, "ls /sys/class/net; echo eth")


@pytest.mark.parametrize("workdir", ["/", "relative", "/proc/1", "/a/../usr", "/pilotfish"])
async def test_working_folders_that_cannot_be(
    containers: ContainerProvider, task: Task, workdir: str
) -> None:
    with pytest.raises(SandboxError, match="working folder"):
        async with containers.start(task.model_copy(update={"workdir": workdir})):
            pass


@pytest.mark.parametrize("text", ["", "\n", "a\0b", "x" * 300_000, "\\n %s '\"\n\n", "täglich 魚"])
async def test_texts_arrive_as_they_are(jar: SwerexSandbox, text: str) -> None:
    await jar.write("a/b", text)
    assert await jar.read("a/b") == text
    assert int(await run(jar, "wc -c <a/b")) == len(text.encode())


async def test_output_that_looks_like_the_end_of_a_command(jar: SwerexSandbox) -> None:
    await jar.write("a", "x\n=exit 0 0\n=exit ")
    assert await jar.read("a") == "x\n=exit 0 0\n=exit "
    assert await run(jar, "cat a; cat a >&2") == 2 * "x\n=exit 0 0\n=exit "


async def test_many_that_are_cancelled_leave_nothing_that_runs(jar: SwerexSandbox) -> None:
    for index in range(12):
        waiting = asyncio.ensure_future(jar.execute("sleep 99", action_id=f"{index}", timeout=60))
        await run(jar, "until ps ax | grep -q '[s]leep 99'; do sleep 0.02; done")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    few = '[ "$(ls -d /proc/[0-9]* | wc -l)" -lt 30 ]'
    await run(jar, f"until {few}; do sleep 0.05; done")


# ---- beginnings and ends


async def test_8_at_once(containers: ContainerProvider, task: Task) -> None:
    async def attempt(index: int) -> str:
        async with containers.start(task) as sandbox:
            await sandbox.write("me", str(index))
            return await run(sandbox, "cat me; python3 module/a.py", timeout=60)

    outputs = await asyncio.gather(*(attempt(index) for index in range(8)))
    assert outputs == [f"{index}hello\n" for index in range(8)]


@pytest.mark.parametrize("when", ["made", "set up"])
async def test_a_start_that_is_cancelled_leaves_nothing(
    engine: Podman, containers: ContainerProvider, task: Task, owner: str, when: str
) -> None:
    async def start() -> None:
        async with containers.start(task.model_copy(update={"setup": ["sleep 1000"]})):
            pass

    starting = asyncio.ensure_future(start())
    name = await until(engine, owner)
    if when == "set up":
        while "sleep 1000" not in (
            await asyncio.to_thread(engine, "top", name, "args")
            if "Up" in await asyncio.to_thread(engine, "ps", "--format={{.Names}} {{.Status}}")
            else ""
        ):
            await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert ours(engine, owner) == []


async def test_one_that_is_cancelled_again_and_again(
    engine: Podman, owner: str, task: Task
) -> None:
    """The provider's own end waits for what is still to be removed."""
    async with ContainerProvider(container_settings(engine, owner)) as provider:

        async def start() -> None:
            async with provider.start(task):
                await asyncio.Event().wait()

        starting = asyncio.ensure_future(start())
        await until(engine, owner)
        while not starting.done():
            starting.cancel()
            await asyncio.sleep(0)
    assert ours(engine, owner) == []


async def test_its_lifetime_ends_without_help(engine: Podman, owner: str, task: Task) -> None:
    settings = container_settings(engine, owner, lifetime=3)
    async with ContainerProvider(settings) as provider, provider.start(task) as sandbox:
        began = time.monotonic()
        with pytest.raises(SandboxLost):
            await sandbox.execute("sleep 60", action_id="a", timeout=60)
        assert time.monotonic() - began < 10
        assert list(await provider.reap()) == [sandbox.id]


COMMAND = "echo begun >> log; until [ -e go ]; do sleep 0.02; done; echo ended"
PARENT = """
import asyncio, sys
from pilotfish import Task
from service.sandboxes.container import ContainerProvider, ContainerSettings

async def main():
    settings = ContainerSettings.model_validate_json(sys.argv[1])
    async with ContainerProvider(settings) as provider:
        task = Task(id="t", statement="s", image="host")
        async with provider.start(task, labels={"run": "r"}) as sandbox:
            command = sys.argv[-1]
            running = asyncio.ensure_future(sandbox.execute(command, action_id="a", timeout=60))
            wait = "until [ -e log ]; do sleep 0.02; done"
            await sandbox.execute(wait, action_id="b", timeout=60)
            print(sandbox.id, flush=True)
            await running

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def parent(settings: ContainerSettings) -> AsyncIterator[tuple[ProcessId, str]]:
    """Another process with a sandbox in which a command runs, and the sandbox's id."""
    path = f"{ROOT}:{ROOT / 'clients' / 'python'}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, settings.model_dump_json(), COMMAND),
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": path},
    )
    assert process.stdout is not None
    try:
        yield ProcessId.of(process.pid), (await process.stdout.readline()).decode().strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_one_whose_process_was_killed_is_taken_over_and_reaped(
    containers: ContainerProvider,
) -> None:
    async with parent(containers.settings) as (process, sandbox_id):
        process.kill()
        assert await process.gone(5)
    assert list(await containers.reap()) == []
    sandbox = await containers.attach(sandbox_id)
    redelivered = asyncio.ensure_future(sandbox.execute(COMMAND, action_id="a", timeout=60))
    await sandbox.write("go", "")
    assert (await redelivered).output == "ended\n"
    assert await sandbox.read("log") == "begun\n"
    assert list(await containers.reap(of_run("r"))) == [sandbox_id]
    with pytest.raises(SandboxLost):
        await sandbox.read("log")


async def test_a_released_one_stays(containers: ContainerProvider, task: Task) -> None:
    async with containers.start(task, labels={"run": "r"}) as sandbox:
        await sandbox.write("kept", "yes")
        await sandbox.release()
    again = await containers.attach(sandbox.id)
    assert await again.read("kept") == "yes"
    await again.close()


async def test_nobody_elses_containers_are_reaped(
    engine: Podman, owner: str, containers: ContainerProvider, task: Task
) -> None:
    other = container_settings(engine, f"{owner}-other")
    async with containers.start(task, labels={"run": "r"}):
        assert list(await ContainerProvider(other).reap(of_run("r"))) == []


# ---- images


async def test_a_missing_image(containers: ContainerProvider, task: Task) -> None:
    missing = task.model_copy(update={"image": "example/none:1"})
    with pytest.raises(
        SandboxError, match=r"no image 'example/none:1' at .*pull or build it there"
    ):
        async with containers.start(missing):
            pass


class Registry:
    """Serves one image for reading, by the registry protocol."""

    def __init__(self, address: str, layout: Path) -> None:
        self.gets: list[str] = []
        index = json.loads((layout / "index.json").read_text())
        manifest = index["manifests"][0]
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.gets.append(self.path)
                kind, name = "application/octet-stream", self.path.rsplit("/", 1)[-1]
                if "/manifests/" in self.path:
                    kind, name = manifest["mediaType"], manifest["digest"]
                path = layout / "blobs" / name.replace(":", "/")
                body = path.read_bytes() if path.is_file() else b"{}"
                known = path.is_file() or self.path == "/v2/"
                known = known and "/absent/" not in self.path
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        host, _, port = address.partition(":")
        self.server = http.server.ThreadingHTTPServer((host, int(port)), Handler)

    def pulls(self) -> int:
        return sum("/manifests/" in path for path in self.gets)


@pytest.fixture
def registry(engine: Podman, tmp_path: Path) -> Iterator[Registry]:
    engine("push", BUSYBOX, f"oci:{tmp_path}/layout:latest")
    registry = Registry(engine.registry, tmp_path / "layout")
    thread = threading.Thread(target=registry.server.serve_forever)
    thread.start()
    yield registry
    registry.server.shutdown()
    thread.join()
    registry.server.server_close()
    subprocess.run(
        ["podman", "rmi", "--force", f"{engine.registry}/small:1"],
        env=engine.environment,
        capture_output=True,
        check=False,
    )


def registry_settings(engine: Podman, owner: str, **others: object) -> ContainerSettings:
    settings = container_settings(engine, owner)
    return settings.model_copy(update={"registry": engine.registry, "pull": "missing", **others})


async def test_images_are_pulled_beforehand(engine: Podman, owner: str, registry: Registry) -> None:
    small = Task(id="t", statement="s", image="small:1")
    async with ContainerProvider(registry_settings(engine, owner, images=["small:1"])) as provider:
        pulls = registry.pulls()
        assert pulls > 0
        async with provider.start(small) as sandbox:
            assert await run(sandbox, "echo on") == "on\n"
        assert registry.pulls() == pulls


async def test_an_image_is_pulled_once_for_all_that_want_it(
    engine: Podman, owner: str, registry: Registry
) -> None:
    small = Task(id="t", statement="s", image="small:1")
    async with ContainerProvider(registry_settings(engine, owner)) as provider:

        async def start() -> str:
            async with provider.start(small) as sandbox:
                return await run(sandbox, "echo on")

        impatient = asyncio.ensure_future(start())
        others = [asyncio.ensure_future(start()) for _ in range(3)]
        while not registry.gets:
            await asyncio.sleep(0.001)
        impatient.cancel()
        assert await asyncio.gather(*others) == 3 * ["on\n"]
    once = registry.pulls()
    always = registry_settings(engine, owner, pull="always")
    async with ContainerProvider(always) as provider, provider.start(small):
        assert registry.pulls() > once


@pytest.mark.parametrize("image", ["absent/one:1", "127.0.0.1:1/a:1"])
async def test_an_image_that_cannot_be_pulled(
    engine: Podman, owner: str, registry: Registry, image: str
) -> None:
    settings = registry_settings(engine, owner, images=[image])
    with pytest.raises(SandboxError, match=rf"image .*{image} cannot be pulled: .+"):
        async with ContainerProvider(settings):
            pass


# ---- the engine


@pytest.mark.parametrize("host", ["ssh://host", "npipe:////./pipe/docker", "unix://", "nonsense"])
def test_addresses_that_are_none(host: str) -> None:
    with pytest.raises(ValidationError, match="is no engine's address"):
        ContainerSettings(host=host)


async def test_no_engine(tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    provider = ContainerProvider(ContainerSettings(away=0.2))
    with pytest.raises(SandboxError, match=r"unix://.*/none does not answer"):
        async with provider.start(task):
            pass
    assert list(await provider.reap()) == []


async def test_what_is_no_engine(task: Task) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"tcp://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(SandboxError, match="not as Docker or Podman"):
            async with ContainerProvider(ContainerSettings(host=url)).start(task):
                pass
        server.shutdown()
        thread.join()


async def test_an_engine_that_is_away_for_a_moment(engine: Podman, owner: str, task: Task) -> None:
    """Its containers go on, and so does what waits for them."""
    with contextlib.ExitStack() as first:
        host = first.enter_context(engine.service("other"))
        settings = container_settings(engine, owner).model_copy(update={"host": host, "away": 20})
        async with ContainerProvider(settings) as provider, provider.start(task) as sandbox:
            command = "echo x >> log; until [ -e go ]; do sleep 0.05; done; cat log"
            running = asyncio.ensure_future(sandbox.execute(command, action_id="a", timeout=60))
            await run(sandbox, "until [ -e log ]; do sleep 0.05; done")
            first.close()
            writing = asyncio.ensure_future(sandbox.write("go", ""))
            await asyncio.to_thread(first.enter_context, engine.service("other"))
            await writing
            assert (await running).output == "x\n"


async def test_an_engine_that_stays_away(engine: Podman, owner: str, task: Task) -> None:
    with contextlib.ExitStack() as running:
        host = running.enter_context(engine.service("other"))
        settings = container_settings(engine, owner).model_copy(update={"host": host, "away": 1})
        async with ContainerProvider(settings) as provider, provider.start(task) as sandbox:
            running.close()
            began = time.monotonic()
            with pytest.raises(SandboxLost, match="does not answer"):
                await sandbox.execute("true", action_id="a", timeout=60)
            assert time.monotonic() - began < 5
    async with ContainerProvider(container_settings(engine, owner)) as provider:
        assert list(await provider.reap(of_all)) == [sandbox.id]


@pytest.fixture
async def cut_off(engine: Podman, tmp_path: Path) -> AsyncIterator[tuple[Line, str]]:
    """A line to the engine that can be cut, and its address."""
    path = tmp_path / "line"
    async with line(path, engine.url.removeprefix("unix://")) as made:
        yield made, f"unix://{path}"


@pytest.mark.parametrize("new", [False, True], ids=["under way", "about to begin"])
async def test_a_partition_that_heals(
    cut_off: tuple[Line, str], engine: Podman, owner: str, task: Task, new: bool
) -> None:
    """The command goes on, its end comes late, and it ran once."""
    between, host = cut_off
    settings = container_settings(engine, owner).model_copy(update={"host": host, "away": 1})
    async with ContainerProvider(settings) as provider, provider.start(task) as sandbox:
        await run(sandbox, "true")  # a shell is kept, which the next command is given to
        command = "echo x >> log; until [ -e go ]; do sleep 0.05; done; cat log"
        if new:
            between.cut()
        running = asyncio.ensure_future(sandbox.execute(command, action_id="a", timeout=60))
        if not new:
            await run(sandbox, "until [ -e log ]; do sleep 0.05; done")
            between.cut()
        writing = asyncio.ensure_future(sandbox.write("go", ""))
        done, _ = await asyncio.wait([running, writing], timeout=3)
        assert not done
        between.heal()
        await writing
        assert (await running).output == "x\n"
        again = await sandbox.execute(command, action_id="a", timeout=60)
        assert again.output == "x\n"


@pytest.mark.parametrize("new", [False, True], ids=["under way", "about to begin"])
async def test_a_partition_that_does_not_heal(
    cut_off: tuple[Line, str],
    engine: Podman,
    owner: str,
    task: Task,
    monkeypatch: pytest.MonkeyPatch,
    new: bool,
) -> None:
    between, host = cut_off
    settings = container_settings(engine, owner).model_copy(update={"host": host, "away": 1})
    async with ContainerProvider(settings) as provider, provider.start(task) as sandbox:
        monkeypatch.setattr(actions, "GRACE", 1.0)
        sandbox.actions.wait = 50  # type: ignore[attr-defined]
        if new:
            between.cut()
        running = asyncio.ensure_future(
            sandbox.execute("echo x >> log; sleep 60", action_id="a", timeout=60)
        )
        if not new:
            wait = ["sh", "-c", "until [ -e log ]; do sleep 0.05; done"]
            here = ["exec", "--workdir", sandbox.workdir, sandbox.id]
            await asyncio.to_thread(engine, *here, *wait)
            between.cut()
        began = time.monotonic()
        with pytest.raises(SandboxLost, match=r"does not answer: silent for 2 s"):
            await running
        assert time.monotonic() - began < 10
        between.heal()
    assert ours(engine, owner) == []


async def of_all(labels: object) -> bool:
    return True


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Of an authority, a server and a client, in the form that Docker's clients want."""
    folder = tmp_path / "certificates"
    folder.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *new, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=ca")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name, key, file in (("server", "server-key", "server"), ("client", "key", "cert")):
        openssl("req", *new, "-keyout", f"{key}.pem", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem",
                "-CAcreateserial", "-out", f"{file}.pem", "-extfile", "names")  # fmt: skip
    return folder


@contextlib.asynccontextmanager
async def behind_tls(engine: Podman, certificates: Path) -> AsyncIterator[int]:
    """The engine on a port that only those with a certificate may use."""

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = engine.url.removeprefix("unix://")
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates / "server.pem", certificates / "server-key.pem")
    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("by", ["settings", "environment"])
async def test_client_certificates(
    engine: Podman,
    owner: str,
    task: Task,
    certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    async with behind_tls(engine, certificates) as port:
        settings = container_settings(engine, owner)
        if by == "settings":
            settings.host, settings.certificates = f"https://127.0.0.1:{port}", certificates
        else:
            settings.host = None
            monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
            monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
            monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
        async with ContainerProvider(settings) as provider, provider.start(task) as sandbox:
            assert await run(sandbox, "python3 module/a.py") == "hello\n"
        (certificates / "cert.pem").unlink()
        async with Engine(settings.host, certificates=certificates, away=0.2) as stranger:
            with pytest.raises(SandboxLost, match="does not answer"):
                await stranger.inspect("any")


async def test_commands_cost_little(jar: SwerexSandbox) -> None:
    """A loose bound, for machines that do other things too; docs/sandboxes.md has the figures."""
    began = time.monotonic()
    for index in range(10):
        await jar.execute("true", action_id=str(index), timeout=5)
    assert (time.monotonic() - began) / 10 < 1
