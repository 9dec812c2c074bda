"""What pyproject.toml and requirements/ say, which files the recipe has, and which pages there are."""

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from runs import ROOT

RECIPE = ROOT / "recipe" / "egrsd"
FILES = sorted(RECIPE.rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *RECIPE.glob("*.md")])


def files_below(folder: Path) -> set[str]:
    """The files of the recipe, relative to the folder that holds ``recipe``."""
    recipe = folder / "recipe" / "egrsd"
    files = (path for path in recipe.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in files}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(lines: Iterable[str]) -> dict[str, Requirement]:
    """By normal name; comments and empty lines are left out."""
    bare = (line.split("#")[0].strip() for line in lines)
    found = [Requirement(line) for line in bare if line]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def verl_lines() -> dict[str, str]:
    """REQUIRED_VERL.txt as verl-recipe's installer reads it: what follows the first "=" of each key's first line."""
    lines = (line.strip() for line in (RECIPE / "REQUIRED_VERL.txt").read_text().splitlines())
    pairs = [line.partition("=")[::2] for line in lines if "=" in line and not line.startswith("#")]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def pinned() -> dict[str, Version]:
    """requirements/*.txt by normal name."""
    folder = ROOT / "requirements"
    lines = requirements(
        line for name in ("torch", "cpu") for line in (folder / f"{name}.txt").read_text().splitlines()
    )
    assert all(str(requirement.specifier).startswith("==") for requirement in lines.values())
    return {name: Version(str(requirement.specifier)[2:]) for name, requirement in lines.items()}


def is_pinned(name: str) -> bool:
    """Whether that package is here in the pinned version, whatever its build."""
    return Version(Version(version(name)).public) == pinned()[name]
