"""The pytest commands of the pages: a figure whose command selects no test has no command."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from typing import NamedTuple

import pytest
from _pytest.mark.expression import Expression
from runs import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PARSER = argparse.ArgumentParser()
PARSER.add_argument("files", nargs="*")
PARSER.add_argument("-k", default="")
PARSER.add_argument("-m", default="not long", help="setup.cfg's own")
PARSER.add_argument("-s", action="store_true")


class Collected(NamedTuple):
    path: str
    names: list[str]
    marks: list[str]

    def is_selected(self, given: argparse.Namespace) -> bool:
        by_name = not given.k or Expression.compile(given.k).evaluate(self._is_named)
        return self.path in given.files and by_name and Expression.compile(given.m).evaluate(self._is_marked)

    def _is_named(self, part: str) -> bool:
        return any(part.lower() in name.lower() for name in self.names)

    def _is_marked(self, mark: str) -> bool:
        return mark in self.marks


def commands() -> list[str]:
    codes = (" ".join(code.split()) for page in PAGES for code in re.findall(r"`([^`]+)`", page.read_text()))
    return sorted({code for code in codes if code.startswith("pytest tests/") and "…" not in code})


@pytest.fixture(scope="module")
def collected() -> list[Collected]:
    command = [sys.executable, "-m", "pytest", "-p", "collected", "--collect-only", "-qq", "-m", "long or not long"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "support")}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr
    lines = [line.removeprefix("collected ") for line in process.stdout.splitlines() if line.startswith("collected ")]
    return [Collected(*json.loads(line)) for line in lines]


def test_every_documented_command_selects_a_test(collected):
    assert len(commands()) > 50 and len(collected) > 1000
    given = {command: PARSER.parse_args(shlex.split(command)[1:]) for command in commands()}
    assert [text for text, options in given.items() if not any(test.is_selected(options) for test in collected)] == []


def test_every_file_of_a_documented_command_exists():
    for command in commands():
        for name in PARSER.parse_args(shlex.split(command)[1:]).files:
            assert (ROOT / name).is_file(), command
