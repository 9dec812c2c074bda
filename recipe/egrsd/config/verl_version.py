"""The versions of verl that the tests ran on (REQUIRED_VERL.txt), and what becomes of another one."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

ALLOW_UNTESTED = "EGRSD_ALLOW_UNTESTED_VERL"
"""Environment variable: 1 turns the refusal of a verl outside REQUIRED_VERL.txt into a warning."""


def required() -> Requirement:
    """The verl versions that the tests ran on: the line REQUIREMENT=…; the others are for verl-recipe's installer."""
    text = Path(__file__).parents[1].joinpath("REQUIRED_VERL.txt").read_text()
    (line,) = re.findall(r"^REQUIREMENT=(.*)$", text, re.MULTILINE)
    return Requirement(line)


def folder() -> Path:
    """Of the verl that Python imports, which need not be the one that pip installed: a checkout in the working
    directory comes before it. Nothing is imported.

    Raises:
        RuntimeError: without verl.
    """
    found = find_spec("verl")
    if found is None or found.origin is None:
        raise RuntimeError(f"verl is not installed here; pip install '{required()}'.")
    return Path(found.origin).parent


def installed() -> str:
    """The version of that verl, where verl/__init__.py reads it, too."""
    return (folder() / "version" / "version").read_text().strip()


def untested() -> str | None:
    """Both versions in words where the tests never ran on the installed verl, else None."""
    wanted, found = required(), installed()
    tested = wanted.specifier.contains(found, prereleases=True)
    return None if tested else f"EGRSD was tested with {wanted}; this is verl {found}"


def allows_untested() -> bool:
    """Whether the user asked to run on any verl; hydra_plugin.py hands the variable to the workers."""
    return os.environ.get(ALLOW_UNTESTED) == "1"


def check() -> None:
    """RuntimeError where no test ran on the installed verl and the user did not ask for it."""
    fault = untested()
    if fault and not allows_untested():
        raise RuntimeError(f"{fault}. Install a version in that range, or set {ALLOW_UNTESTED}=1 to try this one.")
