"""A container engine of the tests' own: Podman with its storage, settings and socket in a temporary
folder, and a small image made of this machine's packages. Leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

IMAGE = "docker.io/library/pilotfish-test:latest"
"""Debian's shell, tools, Python and git."""
BUSYBOX = "docker.io/library/pilotfish-busybox:latest"
"""One program."""
PACKAGES = (
    "bash", "coreutils", "dash", "findutils", "git", "grep", "libc-bin", "procps", "python3", "sed",
    "util-linux",
)  # fmt: skip
LEFT_OUT = re.compile(
    r"/share/(doc|man|locale|perl)/|/perl|/gconv/|/lib/git-core/git-|/__pycache__"
)
MERGED = re.compile(r"^/(bin|sbin|lib|lib32|lib64|libx32)/")


class Podman:
    """One engine's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/socket"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.registry = f"127.0.0.1:{probe.getsockname()[1]}"
        (folder / "containers.conf").write_text(
            # Podman's own defaults may be beyond what this process may set.
            '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
            f'tmp_dir = "{folder}/tmp"\nlock_type = "file"\n'
            f'[network]\nnetwork_config_dir = "{folder}/networks"\n'
        )
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\n'
            f'runroot = "{folder}/run"\n'
        )
        (folder / "registries.conf").write_text(
            f'[[registry]]\nlocation = "{self.registry}"\ninsecure = true\n'
        )
        self.environment = {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
            "HOME": str(folder),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
            "HTTPS_PROXY": "http://user:very-secret@proxy.invalid:3128",
            "NO_PROXY": "127.0.0.1",
        }

    def __call__(self, *arguments: str, given: bytes | None = None) -> str:
        """Run ``podman`` on this engine."""
        done = subprocess.run(
            ["podman", *arguments],
            env=self.environment,
            input=given if given is not None else b"",
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, (arguments, done.stderr.decode())
        return done.stdout.decode().strip()

    @contextlib.contextmanager
    def service(self, name: str = "socket") -> Iterator[str]:
        """Docker's API on a socket of that name: its address. The same name again is a restart."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                ["podman", "system", "service", "--time=0", f"unix://{path}"],
                env=self.environment,
                cwd=self.folder,  # conmon leaves a file there when memory runs out
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            client = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)))
            deadline = time.monotonic() + 60
            while True:
                try:
                    client.get("http://engine/_ping").raise_for_status()
                    break
                except httpx.TransportError:
                    said = (self.folder / "log").read_text()
                    assert process.poll() is None, said
                    assert time.monotonic() < deadline, said
                    time.sleep(0.02)
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait(30)

    def make_images(self) -> None:
        root = self.folder / "root"
        _copy_packages(root)
        _base(root)
        self._add(root, IMAGE)
        (root / "bin").mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox
        shutil.copy(busybox, root / "bin" / "busybox")
        for applet in subprocess.check_output([busybox, "--list"], text=True).split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        _base(root)
        self._add(root, BUSYBOX)

    def _add(self, root: Path, image: str) -> None:
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["podman", "import", "-", image],
                env=self.environment,
                stdin=tar.stdout,
                capture_output=True,
                check=True,
            )
        shutil.rmtree(root)

    def derive(self, image: str, base: str, folder: Path) -> None:
        """Make an image of ``base`` with the files of ``folder`` over it, as root's."""
        said = ["--pull=never", "--quiet", "--file", "-", "--tag", image, str(folder)]
        self("build", *said, given=f"FROM {base}\nCOPY . /\n".encode())

    def wipe(self) -> None:
        """Containers, mounts and files."""
        self("rm", "--all", "--force", "--time", "0")
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            place = line.split()[1]
            if Path(place).is_relative_to(self.folder):
                subprocess.run(["umount", place], check=True)
        shutil.rmtree(self.folder)


def _copy_packages(root: Path) -> None:
    """The files of some packages and all that they depend on, without what nobody runs."""
    depends = subprocess.check_output(
        [
            *("apt-cache", "depends", "--recurse", "--installed", "--no-recommends"),
            *("--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces"),
            *("--no-enhances", *PACKAGES),
        ],
        text=True,
    )
    names = sorted({line for line in depends.splitlines() if re.match(r"[\w.+-]+(:\w+)?$", line)})
    listed = subprocess.run(
        ["dpkg-query", "-L", *names], capture_output=True, text=True, check=False
    ).stdout
    merged = os.path.islink("/bin")
    files = {"/bin", "/sbin", "/lib", "/lib64"} if merged else set()
    for name in set(listed.splitlines()):
        if not LEFT_OUT.search(name) and (os.path.islink(name) or os.path.isfile(name)):
            files.add(MERGED.sub(r"/usr/\1/", name) if merged else name)
    root.mkdir()
    there = "\0".join(sorted(name.lstrip("/") for name in files if os.path.lexists(name)))
    pack = subprocess.Popen(
        ["tar", "-C", "/", "--null", "-T", "-", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    unpack = subprocess.Popen(["tar", "-C", root, "-x"], stdin=pack.stdout)
    assert pack.stdin
    assert pack.stdout
    pack.stdout.close()
    pack.stdin.write(there.encode())
    pack.stdin.close()
    assert (pack.wait(), unpack.wait()) == (0, 0)


def _base(root: Path) -> None:
    for name in ("etc", "proc", "sys", "dev", "run", "var", "tmp", "var/tmp", "root"):
        (root / name).mkdir(exist_ok=True)
    for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700)):
        (root / name).chmod(mode)
    (root / "etc" / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/tmp:/bin/sh\n"
    )
    (root / "etc" / "group").write_text("root:x:0:\nme:x:1000:\n")


@contextlib.contextmanager
def podman() -> Iterator[Podman]:
    script = Path(__file__).parents[3] / "deploy" / "podman.sh"
    subprocess.run(["bash", script], check=True, stdin=subprocess.DEVNULL)
    engine = Podman(Path(tempfile.mkdtemp(prefix="pilotfish-", dir="/var/tmp")))
    try:
        engine.make_images()
        with engine.service():
            yield engine
    finally:
        engine.wipe()
