"""Python as a user starts it, in a shell that has set nothing for it."""

import os
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
