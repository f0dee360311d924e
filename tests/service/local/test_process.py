from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from search.errors import SearchError
from service.local.process import ProcessId, ServerProcess

FAMILY = """
import os, signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: Path('told').touch())
child = subprocess.Popen(['sleep', '1000'])
away = subprocess.Popen(['sleep', '1000'], start_new_session=True)
Path('pids').write_text(f'{os.getpid()} {child.pid} {away.pid}')
Path('up').touch()
while True:
    time.sleep(1)
"""


def script(tmp_path: Path, text: str, grace: float = 10) -> ServerProcess:
    code = f"import os; os.chdir({str(tmp_path)!r})\n{text}"
    return ServerProcess(
        "it", [sys.executable, "-c", code], log=tmp_path / "log", grace=grace, env=dict(os.environ)
    )


async def test_all_that_it_started_ends(tmp_path: Path) -> None:
    async def up() -> bool:
        return (tmp_path / "up").exists()

    async with script(tmp_path, FAMILY, grace=0.5) as server:
        await server.ready(up, timeout=30)
        family = [ProcessId.of(int(pid)) for pid in (tmp_path / "pids").read_text().split()]
        assert all(process.alive for process in family)
        assert server.exit_code is None
    assert not any(process.alive for process in family)
    assert (tmp_path / "told").exists()
    assert server.exit_code == 137


async def test_one_that_ends_well_is_not_waited_for(tmp_path: Path) -> None:
    async def up() -> bool:
        return (tmp_path / "up").exists()

    text = "import time; open('up', 'w').close(); time.sleep(1000)"
    async with script(tmp_path, text, grace=60) as server:
        await server.ready(up, timeout=30)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert server.exit_code == 143


async def test_one_that_ends_before_it_is_up(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async with script(tmp_path, "print('the reason'); raise SystemExit(3)") as server:
        with pytest.raises(SearchError, match=r"it ended with code 3\n.*\nthe reason"):
            await server.ready(never, timeout=30)


async def test_one_that_does_not_come_up(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async with script(tmp_path, "import time; time.sleep(1000)") as server:
        with pytest.raises(SearchError, match="it was not up in 0 s"):
            await server.ready(never, timeout=0.2)


async def test_one_that_is_not_there(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async with ServerProcess("it", ["/no/such/program"], log=tmp_path / "log") as server:
        with pytest.raises(SearchError, match=r"code 127\n.*\n/no/such/program: No such file"):
            await server.ready(never, timeout=30)
