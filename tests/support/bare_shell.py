"""Python and make as a user starts them, in a shell that has set nothing for them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

Process = CompletedProcess[str]


def run(arguments: list[str], cwd: Path, *, stdin: str = "", **variables: str) -> Process:
    """Python with these arguments, in a shell that has set none of verl's variables, or of ours, but the given ones."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VERL_", "HYDRA_", "PYTHON", "EGRSD_"))
    }
    environment = {**kept, **variables}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, input=stdin, capture_output=True, text=True, timeout=300
    )


def make(*words: str, cwd: Path, **variables: str) -> Process:
    """make, though the tests may run under a ``make test VENV=...``, which hands down what it was given."""
    ours = re.findall(r"^(\w+) \?=", (cwd / "Makefile").read_text(), re.MULTILINE)
    unset = {"VERL_PLATFORM", "MFLAGS", *ours}
    kept = {name: value for name, value in os.environ.items() if name not in unset and not name.startswith("MAKE")}
    return subprocess.run(["make", *words], cwd=cwd, env=kept | variables, capture_output=True, text=True, timeout=300)
