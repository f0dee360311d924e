"""Settings by environment and YAML."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

import service.__main__
from service.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


JUDGES = re.findall(r"```yaml\n(.*?)```", (DOCS / "critic.md").read_text(), re.DOTALL)


@pytest.fixture
def yaml_file(tmp_path, monkeypatch):
    [block] = re.findall(r"```yaml\n(.*?)```", (DOCS / "http.md").read_text(), re.DOTALL)
    file = tmp_path / "pilotfish.yaml"
    file.write_text(block)
    monkeypatch.setenv("PILOTFISH_CONFIG", str(file))
    return file


def test_the_documented_file_is_read(yaml_file):
    settings = Settings()
    assert settings.policies["coder"].url == "http://policy:8000/v1"
    assert settings.critics["coder-critic"].type == "vllm"
    assert settings.keys[0].key.get_secret_value() == "a-long-secret"
    assert "a-long-secret" not in repr(settings)


def test_the_documented_judges_are_read(tmp_path, monkeypatch):
    kinds = set()
    for number, block in enumerate(JUDGES):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        monkeypatch.setenv("PILOTFISH_CONFIG", str(file))
        kinds |= {critic.type for critic in Settings().critics.values()}
    assert kinds == {"yes_no", "reasoning", "classify", "ensemble", "vllm"}


def test_the_environment_wins_over_the_file(yaml_file, monkeypatch):
    monkeypatch.setenv("PILOTFISH_LOOKAHEAD_K", "8")
    monkeypatch.setenv("PILOTFISH_REDIS_URL", "redis://elsewhere:1/0")
    assert (Settings().lookahead_k, Settings().redis_url) == (8, "redis://elsewhere:1/0")


def test_nested_settings_come_by_double_underscores(monkeypatch):
    monkeypatch.setenv("PILOTFISH_POLICIES__P__URL", "http://x/v1")
    monkeypatch.setenv("PILOTFISH_POLICIES__P__MODEL", "m")
    monkeypatch.setenv("PILOTFISH_POLICIES__P__TYPE", "openai")
    assert next(iter(Settings().policies.values())).url == "http://x/v1"


def test_a_misspelt_variable_is_refused(monkeypatch):
    monkeypatch.setenv("PILOTFISH_LOOKAHED_K", "8")
    with pytest.raises(SettingsError, match="PILOTFISH_LOOKAHED_K in the environment"):
        Settings()


def test_what_kubernetes_tells_of_a_service_of_our_name_is_no_setting(monkeypatch):
    monkeypatch.setenv("PILOTFISH_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("PILOTFISH_PORT_8700_TCP", "tcp://10.0.0.1:8700")
    Settings()


@pytest.mark.parametrize(
    "text", ["lookahead_k: 0", "colour: red", "policies: {p: {type: telepathy}}", "lease: 0.1"]
)
def test_a_wrong_setting_is_refused(yaml_file, text):
    yaml_file.write_text(text)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lookahead_k: 0", "setting lookahead_k: Input should be greater than or equal to 1"),
        ("a: [b", "while parsing a flow sequence"),
        (None, "which is no file"),
        ("- 1", "is no YAML file of settings"),
        ("critics: {c: {type: torch, checkpoint: /nowhere}}", "has no config.json"),
        ("redis_url: redis://:secret@127.0.0.1:1/0", "Redis does not answer at 127.0.0.1:1/0"),
        ("redis_url: nowhere", "redis_url: Redis URL must specify one of the following schemes"),
    ],
)
def test_a_wrong_setting_is_one_line_on_the_command_line(
    yaml_file, monkeypatch, capsys, text, told
):
    yaml_file.unlink() if text is None else yaml_file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["service", "serve"])
    monkeypatch.setattr(service.__main__, "configure_logs", lambda level: None)
    with pytest.raises(SystemExit) as ended:
        service.__main__.main()
    assert ended.value.code in (1, 2)
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_help_names_the_commands():
    shown = subprocess.run(
        [sys.executable, "-m", "service", "--help"], capture_output=True, text=True, check=True
    )
    assert all(command in shown.stdout for command in ("serve", "up"))
