"""The service's command line: ``python -m service serve | up | openapi``."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn, TextIO

import structlog
import typer
import uvicorn
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.markup import escape
from stamina.instrumentation import RetryDetails, set_on_retry_hooks
from yaml import YAMLError

from critic.errors import CriticInputError
from pilotfish.errors import first_wrong
from search.errors import SearchError
from service.app import check, create_app
from service.local.stack import StackSettings, local_stack
from service.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
_errors = Console(stderr=True)


@app.command()
def serve(
    host: str = "127.0.0.1",
    port: int = 8700,
) -> None:
    """Serve with the settings of the environment (PILOTFISH_...) and of the YAML file that
    PILOTFISH_CONFIG names. Redis, policy and critic run elsewhere."""
    settings = Settings()
    configure_logs(settings.log_level)
    asyncio.run(check(settings))
    app = create_app(settings)
    calm_collector()
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning")


@app.command()
def up(
    policy: Annotated[Path, typer.Option(exists=True, help="Folder of a causal LM.")],
    critic: Annotated[Path | None, typer.Option(exists=True, help="Folder of a critic.")] = None,
    host: str = "127.0.0.1",
    port: int = 8700,
    name: Annotated[str, typer.Option(help="What callers know the policy by.")] = "policy",
    max_model_len: int | None = None,
    data: Annotated[Path | None, typer.Option(help="Folder that keeps runs.")] = None,
    logs: Annotated[Path | None, typer.Option(help="Folder for the servers' logs.")] = None,
) -> None:
    """Everything on this machine: Redis, policy and critic on vLLM, sandboxes, the service."""
    configure_logs("info")
    settings = StackSettings(
        policy=policy,
        policy_name=name,
        critics={"critic": critic} if critic else {},
        host=host,
        port=port,
        max_model_len=max_model_len,
        redis_data=data,
        logs=logs,
    )
    asyncio.run(_up(settings))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document, which no setting changes."""
    print(json.dumps(create_app(Settings()).openapi(), indent=2))


async def _up(settings: StackSettings) -> None:
    async with local_stack(settings, report=lambda text: _errors.print(f"{text}...")) as stack:
        calm_collector()
        url = stack.url
        _errors.print(f"[green]Pilotfish is up:[/] {url}   docs: {url}/docs   stop: Ctrl-C")
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()


def calm_collector() -> None:
    """What was imported is never garbage, and is not looked through again: else collections stop a
    worker of 200 runs for a quarter of a second, twice a second. A pause is as long as what is
    looked through at a time, so that is little: 1,000 young objects take 2 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000, 5, 200)


def configure_logs(level: str) -> None:
    """JSON lines on standard error."""
    set_on_retry_hooks([_log_retry])
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=_Unbroken(sys.stderr)),  # type: ignore[arg-type]
    )


class _Unbroken:
    """A stream of log lines: that nobody reads them any more must not fail what logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _log_retry(details: RetryDetails) -> None:
    """Not with its arguments: they are whole histories."""
    structlog.get_logger().warning(
        "tried again", what=details.name, tried=details.retry_num, error=str(details.caused_by)
    )


def main() -> None:
    """Run, and put an error that the user can mend on a line."""
    try:
        app()
    except (SearchError, CriticInputError) as error:
        _fail(str(error), 1)
    except (SettingsError, YAMLError) as error:
        _fail(str(error), 2)
    except ValidationError as error:
        _fail(f"setting {first_wrong(error.errors())[1]}", 2)


def _fail(message: str, code: int) -> NoReturn:
    told = escape(" ".join(message.split()))
    _errors.print(f"[red]error:[/] {told}", soft_wrap=True, highlight=False)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
