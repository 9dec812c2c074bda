"""Writes what a pull request to verl-recipe would add: the folder ``egrsd`` and a workflow. Nothing of it is kept here.

    python -m examples.upstream --out /path/to/verl-recipe      # or any other folder: make upstream OUT=…

Files are those that git tracks. The folder is to stand as ``recipe/egrsd`` in a verl checkout, where verl-recipe is a
submodule, so paths and modules are rewritten for that root.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

from examples.upstream import text

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (
    "examples/upstream/", "tests/examples/", "tests/golden/", "tests/project/",
    "tests/machines/test_kernels_on_cpu.py",  # reads pyproject.toml
)  # fmt: skip
"""Of and about this repository: its package, its pages, its make."""
OTHERS = {"SECURITY.md": "SECURITY.md", "setup.cfg": "tests/tox.ini"}
YEAR = 2026
# As verl-recipe's pyproject.toml has them.
RUFF = ["--isolated", "--quiet", "--line-length", "120", "--target-version", "py310"]
SORTED_IMPORTS = ["--select=I", "--fix", '--config=lint.isort.known-first-party=["verl"]']
AFTERWARDS = """\
{count} files in {out}. Left for a person, who must understand the change and be able to defend it:
- rows for egrsd in the two tables of verl-recipe's README.md (REQUIRED_VERL.txt, available recipes);
- title: [recipe] feat: add EGRSD and CL-EGRSD;
- in the text: similar pull requests and how this differs (verl#6827, #6833, #6909, #7659), the tests that were
  run, what was not run (GPUs), and any help of AI."""


def place(path: str) -> str | None:
    """Where a file of this repository stands below ``recipe/egrsd``; None: it stays behind."""
    if path.startswith(LEFT_OUT):
        return None
    if path.startswith(f"{text.FOLDER}/"):
        return path.removeprefix(f"{text.FOLDER}/")
    return path if Path(path).parts[0] in text.MOVED.split("|") else OTHERS.get(path)


def rewritten(path: str, content: bytes, owner: str) -> bytes:
    """A file's content there."""
    suffix = Path(path).suffix
    if suffix not in (".cfg", ".md", ".py", ".sh", ".txt"):
        return content
    new = content.decode()
    if path == "setup.cfg":
        return text.pytest_settings(new).encode()
    if suffix == ".md":
        new = text.moved_links(new, path, place)
    new = text.moved_paths(new, path)
    if suffix == ".sh":
        new = text.plugged(new)
    if suffix in (".py", ".sh"):
        new = text.licensed(new, year=YEAR, owner=owner)
    return new.encode()


def write(out: Path) -> int:
    """Fills ``out/egrsd`` and ``out/.github/workflows``; the number of files.

    Raises:
        SystemExit: ``out/egrsd`` exists, or this is no clone.
    """
    folder = out / "egrsd"
    if folder.exists():
        sys.exit(f"{folder} exists: remove it first, so that nothing old stays in it")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        sys.exit(f"{ROOT} is no clone: the files are those that git tracks")
    (author,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["authors"]
    files = {path: new for path in listed.stdout.splitlines() if (new := place(path))}
    for path, new in files.items():
        target = folder / new
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(rewritten(path, (ROOT / path).read_bytes(), author["name"]))
        target.chmod((ROOT / path).stat().st_mode)
    workflow = out / ".github" / "workflows" / "egrsd-tests.yml"
    workflow.parent.mkdir(parents=True, exist_ok=True)
    workflow.write_bytes(Path(__file__).with_name("egrsd-tests.yml").read_bytes())
    ruff = [sys.executable, "-m", "ruff"]
    subprocess.run([*ruff, "check", *RUFF, *SORTED_IMPORTS, folder], cwd=out, check=True)
    subprocess.run([*ruff, "format", *RUFF, folder], cwd=out, check=True)
    return len(files) + 1


def main(arguments: list[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m examples.upstream", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a checkout of verl-recipe, or a folder to look at")
    out = parser.parse_args(arguments).out.resolve()
    print(AFTERWARDS.format(count=write(out), out=out))


if __name__ == "__main__":
    main()
