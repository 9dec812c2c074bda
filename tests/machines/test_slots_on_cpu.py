"""The CPUs that a run takes from Ray: counted by hand, refused by name, and compared with what Ray says while a run
trains."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import composing
import pytest
from omegaconf import DictConfig, OmegaConf
from runs import ROOT, Run, command

from recipe.egrsd.machines import slots

ONE_GPU = "trainer.n_gpus_per_node=1"
UNITS = slots.UNITS_KEY


def composed(*overrides: str) -> DictConfig:
    config = composing.composed(*overrides, algorithm="cl_egrsd")
    OmegaConf.resolve(config)
    return config


@pytest.fixture(autouse=True)
def ray_folder(monkeypatch) -> Iterator[Path]:
    """No cluster, and a folder of our own where ray start would leave the address of one."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: the path of a socket in it may have 107 characters
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("overrides", "cpus"),
    [
        ([], 1 + 1 + 3 * 8),
        ([ONE_GPU], 1 + 1 + 3),
        ([ONE_GPU, f"{UNITS}=8"], 1 + 8 + 3),  # verl's own number of units
        (["trainer.nnodes=2"], 1 + 2 + 3 * 16),  # a unit on each node
        ([ONE_GPU, "transfer_queue.backend.storage_backend=MooncakeStore"], 1 + 3),
        ([ONE_GPU, "reward.reward_manager.name=remote", "reward.num_workers=2"], 1 + 1 + 3 + 2 * 2),
        (
            [ONE_GPU, "reward.reward_model.enable_resource_pool=true", "reward.reward_model.nnodes=1",
             "reward.reward_model.n_gpus_per_node=2"],
            1 + 1 + 3 + 3 * 2,
        ),
        # they hold none
        ([ONE_GPU, "actor_rollout_ref.rollout.agent.num_workers=64", "reward.num_workers=64"], 1 + 1 + 3),
    ],
)  # fmt: skip
def test_the_sum(overrides, cpus):
    assert slots.total(composed(*overrides)) == cpus


def test_each_summand_has_its_source():
    """Where the installed packages ask for the CPUs; the lines may move between versions, the words do not."""
    pool = [
        "reward.reward_model.enable_resource_pool=true",
        "reward.reward_model.nnodes=1",
        "reward.reward_manager.name=remote",
    ]
    asked = {"controller.py": "num_cpus=1", "simple_storage.py": "num_cpus=1", "base.py": "max_colocate_count: int = 3"}
    found = slots.cpu_slots(composed(*pool))
    assert len(found) == 5
    for summand in found:
        file, line = summand.source.rsplit(":", 1)
        package, _, rest = file.partition("/")
        lines = (Path(find_spec(package).origin).parent / rest).read_text().splitlines()
        near = "\n".join(lines[int(line) - 20 : int(line) + 20])
        assert asked.get(Path(file).name, "num_cpus=1") in near, summand


def test_a_ray_that_is_told_too_few_is_refused_before_it_starts():
    told = "ray_kwargs.ray_init.num_cpus"
    slots.check_before_ray(composed(ONE_GPU, f"{told}=5"))
    with pytest.raises(RuntimeError) as refused:
        slots.check_before_ray(composed(ONE_GPU, f"{told}=4"))
    said = str(refused.value)
    assert said.startswith(
        "Ray has 4 CPUs and the run holds 5 = 1 for TransferQueue's controller + 1 for its storage units ("
    )
    assert "3 for trainer.nnodes × n_gpus_per_node = 1 rank(s), 3 each" in said
    assert "ray_kwargs.ray_init.num_cpus=…" in said and "\n" not in said


def test_a_machine_with_too_few_is_refused_unless_the_run_may_join_a_cluster(monkeypatch, ray_folder):
    config = composed(ONE_GPU, f"{UNITS}=8")
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    slots.check_before_ray(config)
    monkeypatch.setattr("os.cpu_count", lambda: 11)
    with pytest.raises(RuntimeError, match="Ray has 11 CPUs and the run holds 12 = "):
        slots.check_before_ray(config)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    slots.check_before_ray(config)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(RuntimeError, match="Ray has 11 CPUs"):
        slots.check_before_ray(config)
    monkeypatch.delenv("RAY_ADDRESS")
    (ray_folder / "ray").mkdir()
    (ray_folder / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379")  # ray.init joins it
    slots.check_before_ray(config)


def nodes(*cpus: int) -> list[dict]:
    """As ray.nodes() says; the last one is dead."""
    dead = [{"Alive": False, "NodeID": "0", "NodeManagerAddress": "10.0.0.0", "Resources": {"CPU": 999.0}}]
    return [
        {
            "Alive": True,
            "NodeID": f"{n}",
            "NodeManagerAddress": f"10.0.0.{n}",
            "Resources": {"CPU": float(c)} if c else {},
        }
        for n, c in enumerate(cpus, 1)
    ] + dead


@pytest.mark.parametrize(
    ("cpus", "overrides", "reason"),
    [
        ((5,), [ONE_GPU], ""),
        ((4,), [ONE_GPU], "Ray has 4 CPUs and the run holds 5 = "),
        ((27, 25), ["trainer.nnodes=2"], ""),
        (
            (40, 24),
            ["trainer.nnodes=2"],
            "1 of 2 Ray node(s) have the 24 CPUs left that trainer.n_gpus_per_node=8 ranks",
        ),
        ((0, 9), [ONE_GPU], "Ray node 10.0.0.1 has 0 CPUs, 1 fewer than TransferQueue puts"),
        ((0, 9), [ONE_GPU, "+transfer_queue.backend.SimpleStorage.required_node_resource=CPU"], ""),
        ((4, 4, 4, 4), [ONE_GPU, "trainer.n_gpus_per_node=2"], "0 of 4 Ray node(s) have the 6 CPUs left"),
    ],
)
def test_a_cluster_with_too_few_is_refused(cpus, overrides, reason):
    config = composed(*overrides)
    if not reason:
        slots.check(config, nodes(*cpus))
        return
    with pytest.raises(RuntimeError) as refused:
        slots.check(config, nodes(*cpus))
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_the_ray_that_answers_is_looked_at():
    """A real one, whose number of CPUs nobody knew before: one line, where verl would wait for ever."""
    code = """
import ray
from hydra import compose, initialize_config_module
import recipe.egrsd.hydra_plugin
from recipe.egrsd.machines import slots
with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", ["algorithm=egrsd", "trainer.n_gpus_per_node=1"])
slots.check_when_ray_has_started(config)
ray.init(num_cpus=4, include_dashboard=False)
print("never reached")
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1 and not result.stdout
    assert result.stderr.splitlines()[-1].startswith(
        "EGRSD: Ray has 4 CPUs and the run holds 5 = 1 for TransferQueue's"
    )


def test_the_command_line_refuses(tmp_path):
    """The sum less one, as a user types it, before Ray starts."""
    words = command(tmp_path, tmp_path, ["trainer.n_gpus_per_node=1", "ray_kwargs.ray_init.num_cpus=4"])
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("EGRSD: Ray has 4 CPUs and the run holds 5 = ")
    assert "Started a local Ray instance" not in result.stderr


@pytest.mark.slow
def test_ray_agrees(full: Run, padded: Run):
    """What Ray itself counts while a step trains: padded was given exactly the sum, two ranks of full take it from
    32."""
    for run, ranks, given in ((padded, 1, 5), (full, 2, 32)):
        sum_ = slots.total(composed(f"trainer.n_gpus_per_node={ranks}"))
        for step in (1, 3):
            assert run.probe(step)["cpus"] == {"all": given, "free": given - sum_}


@pytest.mark.slow
@pytest.mark.long
def test_a_rank_has_a_thread_for_each_core_of_its_share():
    """Ray itself gives an actor that asks for no CPU one thread, when it is created and before torch is loaded."""
    unset = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    process = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "rank_threads.py")],
        env=unset | {"VERL_PLATFORM": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.stdout.splitlines()[-1] == f"threads {len(os.sched_getaffinity(0))}", process.stderr[-2000:]
