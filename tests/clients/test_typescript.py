"""The TypeScript client: generated from the document that the service has now, type-checked, and
run on Node over the real service."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from search.fakes import FakePolicy
from service.app import create_app
from service.settings import Settings
from tests.clients.conftest import TURNS

CLIENT = Path(__file__).parents[2] / "clients" / "typescript"
MODULES = CLIENT / "node_modules"
GENERATED = CLIENT / "src" / "schema.ts"
FENCE = re.compile(r"^```ts\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SERVICE = "http://127.0.0.1:8700"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm, so no Node"),
]


def npm(*words: str) -> None:
    done = subprocess.run(["npm", *words], cwd=CLIENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (words, done.stdout, done.stderr)


@pytest.fixture(scope="module", autouse=True)
def _built():
    """What the lock names is installed, and the client compiled."""
    installed, lock = MODULES / ".package-lock.json", CLIENT / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        npm("ci", "--no-audit", "--no-fund")
    npm("run", "build")


async def on_node(file: Path, url: str) -> str:
    """What the program says. With the client's folder as its own, it finds the client by name."""
    env = {**os.environ, "PILOTFISH_URL": url, "PILOTFISH_KEY": "k1"}
    process = await asyncio.create_subprocess_exec(
        *("node", str(file)), cwd=CLIENT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


def compiled(source: Path, out: Path) -> None:
    """Type-checked as the client's own tests are. Raises: ``AssertionError`` with what is wrong."""
    settings = {
        "extends": str(CLIENT / "tests" / "tsconfig.json"),
        "compilerOptions": {"rootDir": str(source.parent), "outDir": str(out)},
        "include": [str(source)],
    }
    project = (
        CLIENT / "build" / f"{source.stem}.json"
    )  # ignored by git: it has this machine's paths
    project.parent.mkdir(exist_ok=True)
    project.write_text(json.dumps(settings))
    npm("exec", "tsc", "--", "--project", str(project))


def test_the_types_are_those_of_the_service_s_document(tmp_path):
    document = CLIENT / "build" / "openapi.json"
    document.parent.mkdir(exist_ok=True)
    document.write_text(json.dumps(create_app(Settings()).openapi(), indent=2))
    made = tmp_path / "schema.ts"
    npm("run", "generate", "--", "--output", str(made))
    assert made.read_text() == GENERATED.read_text(), "run `make typescript`"


async def test_its_own_tests_pass_over_the_service(service):
    compiled(CLIENT / "tests" / "service.test.ts", CLIENT / "build" / "tests")
    said = await on_node(CLIENT / "build" / "tests" / "service.test.js", service[0])
    assert re.search(r"^# pass 4$", said, re.MULTILINE), said


async def test_the_example_of_its_readme_runs(service):
    url, app = service
    app.state.context.parts.policies["p"] = FakePolicy(TURNS, name="p")
    [example] = FENCE.findall((CLIENT / "README.md").read_text())
    source = CLIENT / "build" / "example.ts"
    source.write_text(example.replace(SERVICE, url).replace('"none"', '"k1"'))
    compiled(source, CLIENT / "build" / "example")
    assert "run_ended" in await on_node(CLIENT / "build" / "example" / "example.js", url)


def test_what_the_service_does_not_have_is_no_typescript():
    source = CLIENT / "build" / "wrong.ts"
    source.parent.mkdir(exist_ok=True)
    source.write_text(
        'import { createPilotfish } from "pilotfish";\n'
        f'await createPilotfish({{ baseUrl: "{SERVICE}" }}).GET("/v1/nothing");\n'
    )
    with pytest.raises(AssertionError, match=r"wrong\.ts.*error TS"):
        compiled(source, CLIENT / "build" / "wrong")
