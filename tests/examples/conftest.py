"""What a script in examples/ starts, without starting it: PYTHON names a program that prints the arguments it is given,
so that the script's command is composed in this process."""

import json
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig
from shell_scripts import config_of, shell


@pytest.fixture(scope="module")
def echo(tmp_path_factory) -> Path:
    """Stands in for python: prints its arguments as one line of JSON."""
    path = tmp_path_factory.mktemp("bin") / "echo"
    path.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def arguments(echo, tmp_path):
    """(script, *arguments, **variables) -> the argument lists that it starts python with."""

    def start(script: str, *words: str, **variables) -> list[list[str]]:
        process = shell(script, *words, cwd=tmp_path, **{"PYTHON": echo} | variables)
        assert process.returncode == 0, process.stderr
        return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("[")]

    return start


@pytest.fixture
def composed(arguments):
    """(script, *arguments, **variables) -> the config that its one run would train with."""

    def start(script: str, *words: str, **variables) -> DictConfig:
        (given,) = arguments(script, *words, **variables)
        return config_of(given)

    return start
