"""What several test packages share."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from service.local.redis_server import find_binary
from tests.service.sandboxes import podman

# A shell's background job ignores Ctrl-C, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes is the machine's affair.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")
# Before torch is imported: tests run side by side, and threads that outnumber cores wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis of this test process."""
    folder = tmp_path_factory.mktemp("r")
    sock = folder / "s"
    process = subprocess.Popen(
        [find_binary(), "--port", "0", "--unixsocket", str(sock), "--save", ""],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    while not sock.exists():
        time.sleep(0.01)
    yield f"unix://{sock}"
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def engine() -> Iterator[podman.Podman]:
    """A container engine of this test process."""
    with podman.podman() as running:
        yield running
