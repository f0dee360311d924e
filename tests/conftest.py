"""What several test packages share."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from service.local.redis_server import find_binary


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
