"""The folder that ``make upstream`` writes for verl-recipe: what is in it, and its tests in a verl checkout."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from packages import RECIPE
from runs import ROOT

from examples.upstream import text
from examples.upstream.__main__ import main, place

FEW = (
    "method/test_weights_on_cpu.py", "method/test_lookahead_and_gate_on_cpu.py",
    "method/test_weight_invariants_on_cpu.py", "method/test_weight_gradients_and_dtypes_on_cpu.py",
    "method/test_place_on_cpu.py", "training/test_loss_on_cpu.py",
)  # fmt: skip
"""Of its tests, those that `make test` tries: formulas, verl's own loss, and that nothing comes from elsewhere."""
PLACE = """
from pathlib import Path
import recipe.egrsd
import verl

def test_verl_and_recipe_are_those_of_the_checkout():
    root = Path(__file__).parents[4]
    found = [Path(module.__file__).resolve().parent for module in (recipe.egrsd, verl)]
    assert found == [root / "recipe/egrsd", root / "verl"]
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("this is no clone")
    folder = tmp_path_factory.mktemp("verl-recipe")
    main(["--out", str(folder)])
    return folder


def checkout(out: Path, folder: Path) -> Path:
    """A verl checkout with the folder in place: ``EGRSD_VERL_CHECKOUT``, or the installed verl."""
    given = os.environ.get("EGRSD_VERL_CHECKOUT")
    verl = Path(given) / "verl" if given else Path(importlib.metadata.distribution("verl").locate_file("verl"))
    shutil.copytree(verl, folder / "verl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(out / "egrsd", folder / "recipe" / "egrsd")
    (folder / "recipe" / "egrsd" / "tests" / "method" / "test_place_on_cpu.py").write_text(PLACE)
    return folder


def passing(verl: Path, *arguments: str | Path) -> str:
    """pytest's last lines from the root of that checkout; our own tree and its installed plugin are out of sight."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERL_", "HYDRA_", "PYTHON"))}
    ours = {"VERL_USE_EXTERNAL_PLUGINS": "none", "VERL_USE_EXTERNAL_MODULES": text.PLUGIN}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    result = subprocess.run(command, cwd=verl, env={**kept, **ours}, capture_output=True, text=True, timeout=3600)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-3000:]
    return result.stdout


def test_every_file_of_the_recipe_is_in_it(out):
    """Under its own name; what is neither code nor a page is the same to the byte."""
    listed = subprocess.run(["git", "ls-files", RECIPE], cwd=RECIPE, capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) > 100
    for name in listed.stdout.splitlines():
        new = out / "egrsd" / name
        assert new.is_file(), name
        assert new.suffix in (".py", ".md") or new.read_bytes() == (RECIPE / name).read_bytes(), name


def test_what_stands_beside_the_recipe_moves_into_its_folder(out):
    for name in (
        "docs/method.md",
        "SECURITY.md",
        "tests/tox.ini",
        "tests/method/golden.json",
        "requirements/cpu.txt",
    ):
        assert (out / "egrsd" / name).is_file(), name
    assert os.access(out / "egrsd" / "examples" / "run_qwen3_4b_fsdp.sh", os.X_OK)
    assert "## Required `verl` version" in (out / "egrsd" / "README.md").read_text()


def test_git_leaves_nothing_of_it_out(out, tmp_path):
    """verl-recipe ignores some names, pytest.ini among them, and git add says nothing of what it leaves out."""
    shutil.copytree(out / "egrsd", tmp_path / "egrsd")
    shutil.copy(Path(__file__).with_name("verl_recipe.gitignore"), tmp_path / ".gitignore")
    for command in (["init", "-q"], ["add", "egrsd"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    added = subprocess.check_output(["git", "ls-files", "-z", "egrsd"], cwd=tmp_path, text=True).split("\0")[:-1]
    written = {str(path.relative_to(tmp_path)) for path in (tmp_path / "egrsd").rglob("*") if path.is_file()}
    assert written - set(added) == set()


def test_code_carries_the_licence(out):
    (author,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["authors"]
    for path in [*out.rglob("*.py"), *out.rglob("*.sh")]:
        lines = path.read_text().splitlines()
        lines = lines[1:] if lines[0].startswith("#!") else lines
        assert lines[0] == f"# Copyright 2026 {author['name']}", path
        assert "http://www.apache.org/licenses/LICENSE-2.0" in lines[6], path
        assert path.suffix == ".py" or path.read_text().startswith("#!/usr/bin/env bash\n"), path


def test_links_of_its_pages_lead_somewhere_inside(out):
    pages = [*out.rglob("*.md")]
    assert len(pages) > 10
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)\s#]+)", page.read_text()):
            found = (page.parent / target).resolve()
            assert found.exists() and out in found.parents, (page, target)


def test_nothing_in_it_reaches_outside(out):
    """No module or path of the repository that it was written from."""
    for path in out.rglob("*.py"):
        content = path.read_text()
        assert not re.search(r"^(?:from|import) (?:benchmarks|examples|tests)\b", content, re.M), path
        assert not re.search(rf"ROOT / [\"'](?:{text.MOVED})", content), path
    for path in out.rglob("*.sh"):
        assert "$HERE/../recipe" not in path.read_text(), path
        assert not re.search(r"(?<![\w/])examples/", path.read_text()), path


def test_its_scripts_name_the_plugin(out):
    script = (out / "egrsd" / "examples" / "run_qwen3_fsdp.sh").read_text()
    assert f"\nexport VERL_USE_EXTERNAL_MODULES={text.PLUGIN}$" in script.split("# ---- what")[0]


def test_an_old_folder_is_not_mixed_with_a_new_one(out):
    with pytest.raises(SystemExit, match="egrsd exists: remove it first"):
        main(["--out", str(out)])


def test_its_workflow_runs_its_tests(out):
    workflow = yaml.safe_load((out / ".github" / "workflows" / "egrsd-tests.yml").read_text())
    (job,) = workflow["jobs"].values()
    (tests,) = (step["run"] for step in job["steps"] if "pytest" in step.get("run", ""))
    assert tests == 'python -m pytest recipe/egrsd/tests -m "not slow and not long"'
    for place_of in re.findall(r"recipe/(egrsd/[\w/.]+)", str(job)):
        assert (out / place_of).exists(), place_of
    assert job["env"]["VERL_USE_EXTERNAL_MODULES"] == text.PLUGIN


def test_its_readme_names_keys_that_exist():
    defaults = OmegaConf.load(RECIPE / "config" / "algorithm" / "egrsd.yaml").algorithm.egrsd
    keys = {*defaults, *(f"teacher.{key}" for key in defaults.teacher)}
    table = (RECIPE / "README.md").read_text().split("## The keys")[1].split("\n## ")[0]
    named = {key for row in re.findall(r"^\| (`.*?`) \|", table, re.M)[1:] for key in re.findall(r"`([\w.]+)`", row)}
    assert len(named) > 5
    assert named <= keys


def test_a_link_to_what_stays_behind_keeps_its_words():
    page = (
        "[keys](../../docs/configuration.md#presets), [all](../../README.md), [paper](https://arxiv.org/abs/2605.13255)"
    )
    moved = text.moved_links(page, "recipe/egrsd/README.md", place)
    assert moved == "[keys](docs/configuration.md#presets), all, [paper](https://arxiv.org/abs/2605.13255)"


@pytest.mark.long
def test_its_tests_of_the_loss_pass_in_a_verl_checkout(out, tmp_path):
    said = passing(checkout(out, tmp_path), *(f"recipe/egrsd/tests/{name}" for name in FEW))
    assert int(re.search(r"(\d+) passed", said)[1]) > 50


@pytest.mark.long
def test_all_tests_without_a_run_pass_in_a_verl_checkout(out, tmp_path):
    assert re.search(
        r"\d+ passed", passing(checkout(out, tmp_path), "recipe/egrsd/tests", "-m", "not slow and not long")
    )
