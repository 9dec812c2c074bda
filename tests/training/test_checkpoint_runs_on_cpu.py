"""Whole runs: a killed trainer resumes where it was, to the bit."""

import random
import shutil
import signal

import pytest
import torch
from runs import COIN_REWARD, DESCENT, PADDED, good, parameters, replaying, run

from recipe.egrsd import checkpoint

KILLS = (
    ("_step_once", 1, 0.3), ("_save_checkpoint", 1, 0.05), ("_compute_advantage", 2, 0.3),
    ("_save_checkpoint", 2, 0.1), ("_update_actor", 3, 0.3),
)  # fmt: skip
"""Method of the trainer, step, longest delay after it was entered: rollout, checkpoint (0.1 s in all), scoring,
update."""


@pytest.mark.slow
def test_a_run_resumes_to_the_same_end(padded, inputs, rollouts, tmp_path):
    """From the second step's checkpoint; ``make test-long`` kills, and resumes in bfloat16."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(padded.folder / "checkpoints" / "global_step_2", folder / "global_step_2")
    (folder / "latest_checkpointed_iteration.txt").write_text("2")
    saved = ["trainer.save_freq=1", f"trainer.default_local_dir={folder}", "ray_kwargs.ray_init.num_cpus=5"]
    resumed = good(run(inputs, tmp_path, [*COIN_REWARD, *DESCENT, *PADDED, *replaying(rollouts), *saved]))
    assert [step["training/global_step"] for step in resumed.metrics] == [3]
    before, expected = parameters(padded, 2), parameters(padded, 3)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parameters(resumed, 3).items())
    assert any(not torch.equal(before[name], expected[name]) for name in expected)
    assert resumed.probe(3)["baseline"] == padded.probe(3)["baseline"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(2400)  # six runs, behind two that others make meanwhile
@pytest.mark.parametrize("seed", range(6))
def test_a_killed_trainer_resumes_to_the_same_end(seed, padded, inputs, rollouts, tmp_path):
    """Kills at random moments of four phases, each resumed: bit for bit the parameters of the run that never
    stopped."""
    overrides = [
        *COIN_REWARD, *DESCENT, *PADDED, *replaying(rollouts), "trainer.save_freq=1",
        f"trainer.default_local_dir={tmp_path / 'checkpoints'}",
    ]  # fmt: skip
    chance = random.Random(seed)
    for method, step, longest in KILLS:
        moment = f"{method}:{step}:{chance.uniform(0, longest):.3f}"
        killed = run(inputs, tmp_path / f"{method}_{step}", overrides, timeout=600, EGRSD_KILL=moment)
        assert killed.returncode not in (0, None, -signal.SIGTERM), f"{moment}: not killed, or left hanging"
        assert "The actor is dead because its worker process has died" in killed.log, moment
        print(moment, *sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("checkpoints/*/*")), sep="\n")
    resumed = good(run(inputs, tmp_path, overrides))
    assert resumed.metrics[-1]["training/global_step"] == 3
    expected = parameters(padded, 3)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parameters(resumed, 3).items())
    states = [checkpoint.load(folder / "checkpoints" / "global_step_3") for folder in (tmp_path, padded.folder)]
    assert states[0]["baseline"] == states[1]["baseline"]
    assert states[1]["alarms"]["length collapse"] == padded.metrics[0]["response_length/mean"]
