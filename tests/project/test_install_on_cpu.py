"""What pip would install for README's line, and the wheel on every Python that we allow.

Needs a package index. Downloads no wheel of PyTorch, CUDA or vLLM, for pip resolves from metadata.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from composing import composed
from packages import RECIPE, files_below, project, requirements, verl_lines
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from runs import ROOT

from recipe.egrsd.machines import attention

pytestmark = pytest.mark.long
PYTHONS = ("3.10", "3.11", "3.12")
SECONDS = 1500  # 266 packages


def python(version: str) -> str:
    """An interpreter of that version. pyenv puts one for each on the path, which then run for the chosen version
    alone."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))):
        if found and subprocess.run([found, "-V"], capture_output=True).returncode == 0:
            return str(found)
    pytest.skip(f"there is no Python {version} here")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """setuptools leaves files behind where it builds."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(RECIPE, folder / "recipe" / "egrsd", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def resolved(pip: list[str | Path], what: list[str | Path], folder: Path) -> dict[str, dict]:
    """Metadata of everything that pip would install into an empty environment, by normal name."""
    report = folder / "report.json"
    command = [*pip, "install", "--quiet", "--dry-run", "--ignore-installed", "--report", report, *what]
    process = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert process.returncode == 0, process.stdout + process.stderr
    installs = json.loads(report.read_text())["install"]
    return {canonicalize_name(entry["metadata"]["name"]): entry["metadata"] for entry in installs}


@pytest.fixture(scope="module")
def gpu(sources, tmp_path_factory) -> dict[str, dict]:
    return resolved([sys.executable, "-m", "pip"], [f"{sources}[gpu,kernels]"], tmp_path_factory.mktemp("gpu"))


def test_a_gpu_machine_has_what_the_default_config_imports(gpu):
    """Everything that recipe/ imports, verl's rollout engine, the loggers that verl's default names."""
    config = composed()
    loggers = set(config.trainer.logger) - {"console", "file"}
    assert loggers  # wandb
    needed = {*requirements(project()["dependencies"]), config.actor_rollout_ref.rollout.name, *loggers}
    assert not needed - gpu.keys()
    verl = [Requirement(line) for line in gpu["verl"]["requires_dist"]]
    for pinned in (r for r in verl if r.marker and r.marker.evaluate({"extra": "vllm"})):
        assert pinned.specifier.contains(gpu[canonicalize_name(pinned.name)]["version"]), pinned


def test_a_gpu_machine_has_an_attention(gpu):
    """No flash-attn, so that the run takes what PyTorch has; and a version of kernels that its transformers can use."""
    assert "flash-attn" not in gpu
    assert attention.chosen(None, {"a machine": ("", "flash-attn is not installed")})[0] == attention.ALWAYS_THERE
    ranges = [Requirement(line) for line in gpu["transformers"]["requires_dist"]]
    (theirs,) = (r for r in ranges if r.name == "kernels" and r.marker.evaluate({"extra": "kernels"}))
    assert theirs.specifier.contains(gpu["kernels"]["version"])
    assert requirements(project()["optional-dependencies"]["kernels"])["kernels"].specifier == theirs.specifier


def test_the_page_names_the_driver_of_these_wheels(gpu):
    cuda = Version(gpu["nvidia-cuda-runtime"]["version"]).major
    page = " ".join((ROOT / "docs/install.md").read_text().split())
    series = attention.OLDEST_DRIVER[cuda]
    assert f"These wheels are for CUDA {cuda}: NVIDIA's driver must be of the series {series} or newer." in page
    choice = {name: ".".join(gpu[name]["version"].split(".")[:2]) for name in ("torch", "vllm", "transformers")}
    assert f"verl {gpu['verl']['version']} with its own choice: torch {choice['torch']}, vLLM {choice['vllm']}" in page
    assert f"transformers {choice['transformers']}" in page


def test_the_install_line_for_verl_recipe_has_what_the_recipe_imports(tmp_path):
    """There the folder is copied and only REQUIRED_VERL.txt's PIP_INSTALL is run. pip reads words from a file."""
    (tmp_path / "words.txt").write_text("\n".join(shlex.split(verl_lines()["PIP_INSTALL"])[2:]))
    found = resolved([sys.executable, "-m", "pip"], ["--requirement", tmp_path / "words.txt"], tmp_path)
    needed = requirements(project()["dependencies"])
    assert not needed.keys() - found.keys()
    assert all(requirement.specifier.contains(found[name]["version"]) for name, requirement in needed.items())


@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_on_every_python(version, sources, tmp_path):
    """Built and installed by that Python's pip, compiled by it, and its requirements resolve."""
    subprocess.run([python(version), "-m", "venv", tmp_path / "venv"], check=True)
    pip = [tmp_path / "venv" / "bin" / "python", "-m", "pip"]
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, sources], check=True, timeout=SECONDS
    )
    (wheel,) = tmp_path.glob("egrsd_verl-*.whl")
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True)
    (site_packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    assert files_below(site_packages) == files_below(ROOT)
    compiled = [tmp_path / "venv" / "bin" / "python", "-W", "error", "-m", "compileall", "-q", site_packages / "recipe"]
    subprocess.run(compiled, check=True)
    found = resolved(pip, [wheel], tmp_path)
    assert not requirements(project()["dependencies"]).keys() - found.keys()
    assert SpecifierSet(project()["requires-python"]).contains(version)


def test_the_pythons_are_those_that_verl_allows(gpu):
    allowed = SpecifierSet(gpu["verl"]["requires_python"])
    assert [f"3.{minor}" for minor in range(9, 15) if allowed.contains(f"3.{minor}")] == list(PYTHONS)
