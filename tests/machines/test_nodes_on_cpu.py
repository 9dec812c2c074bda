"""Two Ray nodes, one FSDP rank on each: the same training as on one node, however the code gets there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from nodes import cluster, python_without_us
from runs import COIN_REWARD, DESCENT, ROOT, Run, environment, good, replaying, run
from same_training import assert_same_training

import recipe.egrsd

ONE_NODE, SEVERAL_NODES = (ROOT / "examples" / f"run_qwen3_8b_{name}.sh" for name in ("fsdp", "multinode"))
# Ray counts what the nodes offer; a run that joins them may not say it again.
JOIN = ["ray_kwargs.ray_init.num_cpus=null", "ray_kwargs.ray_init.num_gpus=null"]
TWO_NODES = [*JOIN, "trainer.nnodes=2", "trainer.n_gpus_per_node=1"]
SHIPPED = {
    "py_modules": f"+ray_kwargs.ray_init.runtime_env.py_modules=[{ROOT / 'recipe'}]",
    "working_dir": f"+ray_kwargs.ray_init.runtime_env.working_dir={ROOT}",
}


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    return python_without_us(tmp_path_factory.mktemp("bare"))


def run_on_two_nodes(
    inputs: Path, folder: Path, overrides: list[str], *, second: Path | str, timeout: float = 600
) -> Run:
    """From an empty folder, because Ray lets workers import from the folder that the driver was started in."""
    with cluster(folder / "nodes", [sys.executable, second], environment(folder)) as join:
        return run(inputs, folder, [*TWO_NODES, *overrides], cwd=folder / "nodes", timeout=timeout, **join)


def places(result: Run) -> list[dict[str, str]]:
    """Node and code of each rank."""
    return [json.loads(path.read_text()) for path in sorted((result.folder / "probe").glob("rank_*.json"))]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("code", ["installed", *SHIPPED])
def test_two_nodes_train_as_one(code, full, rollouts, inputs, bare_python, tmp_path):
    """On the rollouts of the run whose two ranks shared a node."""
    overrides = [*COIN_REWARD, *DESCENT, *replaying(rollouts), "trainer.save_freq=3"]
    if code == "installed":
        result = good(run_on_two_nodes(inputs, tmp_path, overrides, second=sys.executable))
    else:
        result = good(run_on_two_nodes(inputs, tmp_path, [*overrides, SHIPPED[code]], second=bare_python))
    assert_same_training(result, full)
    one, other = places(result)
    assert one["node"] != other["node"]
    assert len({place["node"] for place in places(full)}) == 1
    ours = str(Path(recipe.egrsd.__file__).parent)
    assert [place["code"].startswith(ours) for place in (one, other)] == [code == "installed"] * 2


REFUSALS = {
    "no code": "cannot run the recipe: ModuleNotFoundError: No module named 'recipe",
    "other code": ", the trainer verl ",
}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("second", REFUSALS)
def test_a_node_without_the_trainers_code_stops_the_run_by_name(second, inputs, tmp_path):
    python = python_without_us(tmp_path / "bare")
    if second == "other code":
        (site_packages,) = (tmp_path / "bare").glob("lib/python*/site-packages")
        shutil.copytree(Path(recipe.egrsd.__file__).parent, site_packages / "recipe" / "egrsd")
        with (site_packages / "recipe" / "egrsd" / "method" / "weights.py").open("a") as weights:
            weights.write("# an older version\n")
    for attempt in range(
        8
    ):  # verl lets Ray place the trainer anywhere: on the second node it dies itself, without our sentence
        result = run_on_two_nodes(inputs, tmp_path / f"run_{attempt}", [], second=python, timeout=200)
        assert result.returncode not in (0, None)
        if "The actor with name TaskRunnerV1 failed to import on the worker" not in result.log:
            break
        assert "ModuleNotFoundError: No module named 'recipe" in result.log
    assert "RuntimeError: Ray node " in result.log and REFUSALS[second] in result.log
    assert "Install the same egrsd-verl and verl on every node, or ship the trainer's recipe with" in result.log
    assert not (result.folder / "probe").exists()  # no worker was started


@pytest.mark.skipif(not ONE_NODE.exists(), reason=f"{ONE_NODE.name} is not here")
def test_the_script_is_the_one_node_script_on_more_nodes(tmp_path):
    """Its command line composes, and differs from run_qwen3_8b_fsdp.sh in the number of nodes and GPUs."""
    one = dry_run(ONE_NODE, tmp_path)
    several = dry_run(SEVERAL_NODES, tmp_path, "trainer.project_name=mine", NNODES="3", N_GPUS="4", SHIP_RECIPE="1")
    (shipped,) = several["ray_kwargs"].pop("ray_init")["runtime_env"]["py_modules"]
    assert (Path(shipped) / "egrsd").samefile(Path(recipe.egrsd.__file__).parent)
    del one["ray_kwargs"]["ray_init"]  # its environment names the time of the start
    assert one["trainer"] | {"nnodes": 3, "n_gpus_per_node": 4, "project_name": "mine"} == several.pop("trainer")
    assert (one["trainer"]["nnodes"], one.pop("trainer")["n_gpus_per_node"]) == (1, 8)
    assert several == one


def dry_run(script: Path, folder: Path, *overrides: str, **variables: str) -> dict:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERL_", "RAY_"))}
    process = subprocess.run(
        ["bash", str(script), *overrides, "--cfg", "job"], cwd=folder, capture_output=True, text=True, timeout=120,
        env=kept | {"PYTHON": sys.executable} | variables,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return yaml.safe_load(process.stdout)
