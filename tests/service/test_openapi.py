"""The OpenAPI document is true: Schemathesis finds nothing in the running service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import service  # noqa: F401

CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.slow
async def test_schemathesis_finds_nothing(service, tmp_path):  # noqa: F811
    url, _ = service
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG, "run"),
        *("--header", "Authorization: Bearer k1", "--max-examples", "10", "--seed", "1"),
        f"{url}/openapi.json",
    ]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, text=True
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
