"""A killed trainer resumes where it was, a torn checkpoint is named, a dead engine or worker ends the run with its
cause."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import COIN_REWARD, DESCENT, PADDED, ROOT, good, parameters, replaying, run, write_inputs

from recipe.egrsd import checkpoint

KILLS = (
    ("_step_once", 1, 0.3), ("_save_checkpoint", 1, 0.05), ("_score_with_teacher", 2, 0.3),
    ("_save_checkpoint", 2, 0.1), ("_update_actor", 3, 0.3),
)  # fmt: skip
"""Method of the trainer, step, longest delay after it was entered: rollout, checkpoint (0.1 s in all), scoring,
update."""


@pytest.mark.slow
@pytest.mark.second_lane
@pytest.mark.timeout(2400)  # six runs, behind two that others make meanwhile
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 6))])
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


@pytest.fixture
def saved(tmp_path) -> SimpleNamespace:
    """A trainer config whose folder holds a complete checkpoint of step 2 and a torn one of step 3."""
    for step, parts in ((2, ("actor", "data.pt")), (3, ("actor",))):
        checkpoint.save(tmp_path / f"global_step_{step}", {"baseline": {}})
        for part in parts:
            (tmp_path / f"global_step_{step}" / part).mkdir()
    (tmp_path / checkpoint.TRACKER).write_text("2")
    places = {"resume_from_path": None, "default_local_dir": str(tmp_path)}
    return SimpleNamespace(resume_mode="auto", nnodes=1, n_gpus_per_node=2, **places)


def test_the_last_complete_checkpoint_is_taken(saved):
    assert checkpoint.folder_to_resume(saved, has_teacher=False) == Path(saved.default_local_dir) / "global_step_2"
    saved.resume_mode = "disable"
    assert checkpoint.folder_to_resume(saved, has_teacher=False) is None
    assert checkpoint.beginning(saved, None) == "starts from the initial weights"


def test_complete_checkpoints_without_a_tracker_are_not_written_over(saved):
    """So does async_save=true leave them; verl starts at step 0 in the same folder."""
    folder = Path(saved.default_local_dir)
    (folder / checkpoint.TRACKER).unlink()
    newest = folder / "global_step_10"  # another trainer's: as precious, and by number the last
    newest.mkdir()
    torch.save({}, newest / "data.pt")
    way_out = rf"resume_mode=resume_path trainer.resume_from_path={newest}, or start over with another"
    with pytest.raises(ValueError, match=rf"{newest} is a complete checkpoint, but .* start at step 0 .*{way_out}"):
        checkpoint.folder_to_resume(saved, has_teacher=False)
    saved.resume_mode = "disable"
    assert checkpoint.folder_to_resume(saved, has_teacher=False) is None


def test_a_run_killed_in_its_first_save_starts_over_and_says_so(saved):
    """Before data.pt, within it, or in an asynchronous mode while TransferQueue's part was being written behind it."""
    folder = Path(saved.default_local_dir)
    (folder / checkpoint.TRACKER).unlink()
    for step, length in ((1, None), (2, -1)):
        data = folder / f"global_step_{step}" / "data.pt"
        data.parent.mkdir(exist_ok=True)
        data.rmdir() if data.is_dir() else None
        torch.save({"state": 1}, data)
        data.write_bytes(data.read_bytes()[:length])
    (folder / "global_step_1" / "transfer_queue.tmp").mkdir()
    assert checkpoint.folder_to_resume(saved, has_teacher=False) is None
    torn = f"{folder}/global_step_3 holds no complete checkpoint (a run was killed in its first"
    assert checkpoint.beginning(saved, None).startswith(f"starts from the initial weights; {torn}")


def test_a_checkpoint_of_another_number_of_ranks_is_named(saved):
    """verl's shards are of one number of ranks; on another one it misses a file."""
    actor = Path(saved.default_local_dir) / "global_step_2" / "actor"
    for rank in range(8):
        (actor / f"model_world_size_8_rank_{rank}.pt").touch()
    here = "trainer.nnodes=1 x trainer.n_gpus_per_node=2 are 2"
    said = rf"global_step_2 was written by 8 ranks, and {here}: .* Resume with 8"
    with pytest.raises(ValueError, match=said):
        checkpoint.folder_to_resume(saved, has_teacher=False)
    saved.nnodes = 4
    assert checkpoint.folder_to_resume(saved, has_teacher=False) == actor.parent


def test_a_full_disk_names_what_it_left(saved):
    """/dev/full answers every write as a full disk does."""
    folder = Path(saved.default_local_dir) / "global_step_4"
    folder.mkdir()
    (folder / f"{checkpoint.STATE_FILE}.partial").symlink_to("/dev/full")
    (folder / "data.pt").write_bytes(bytes(3 << 20))
    said = r"global_step_4 \(3 MiB so far\) is not complete: .*No space left on device.*; delete it .* the step before"
    with pytest.raises(RuntimeError, match=said), checkpoint.named_if_it_fails(folder):
        checkpoint.save(folder, {"baseline": {}})


@pytest.mark.parametrize("part", ["egrsd.json", "actor", "data.pt"])
def test_a_torn_checkpoint_is_named(saved, part):
    missing = Path(saved.default_local_dir) / "global_step_2" / part
    missing.unlink() if missing.is_file() else shutil.rmtree(missing)
    with pytest.raises(
        ValueError, match=rf"global_step_2, named by .*, has no {part}: the checkpoint is torn .* or start over"
    ):
        checkpoint.folder_to_resume(saved, has_teacher=False)


def test_a_torn_checkpoint_is_named_when_asked_for(saved):
    saved.resume_mode, saved.resume_from_path = "resume_path", f"{saved.default_local_dir}/global_step_3"
    with pytest.raises(ValueError, match=r"global_step_3, named by trainer.resume_from_path, has no data.pt"):
        checkpoint.folder_to_resume(saved, has_teacher=False)


@pytest.mark.parametrize("text", ["", "2\n3", "two"])
def test_a_torn_tracker_is_named(saved, text):
    (Path(saved.default_local_dir) / checkpoint.TRACKER).write_text(text)
    with pytest.raises(ValueError, match=r"not a step: the run was killed while writing it. Resume from another"):
        checkpoint.folder_to_resume(saved, has_teacher=False)


def test_a_checkpoint_that_is_gone_does_not_mean_from_scratch(saved):
    """verl prints a line and starts over."""
    (Path(saved.default_local_dir) / checkpoint.TRACKER).write_text("7")
    with pytest.raises(
        ValueError, match=r"global_step_7, named by .*latest_checkpointed_iteration.txt, has no egrsd.json"
    ):
        checkpoint.folder_to_resume(saved, has_teacher=False)


DIED = r"EngineDied: the vLLM server at \S+ \(pid \d+\) died"
CAUSES = {
    "EngineCore": rf"{DIED}[\s\S]*Its last words:",
    "OwnSocketServer": rf"{DIED}|actor.*(died|dead)",
    "WorkerDict": r"actor.*(died|dead)",
}


@pytest.mark.slow
@pytest.mark.long
def test_an_engine_killed_before_the_weights_reach_it_ends_the_run(tmp_path):
    """The trainer then waits inside Ray, where no exception reaches it."""
    write_inputs(tmp_path / "inputs", train=64)
    killed_at = []

    def notice(process, log_path):
        if not killed_at and "The engines were killed." in log_path.read_text(errors="replace"):
            killed_at.append(time.monotonic())

    result = run(tmp_path / "inputs", tmp_path / "run", [*COIN_REWARD], watch=notice, EGRSD_KILL_ENGINE="on_step_end:1")
    assert result.returncode not in (0, None, -signal.SIGTERM)
    assert time.monotonic() - killed_at[0] < 60
    assert re.search(CAUSES["EngineCore"], result.log)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("victim", CAUSES)
def test_a_killed_process_ends_the_run_within_a_minute(victim, tmp_path):
    write_inputs(tmp_path / "inputs", train=64)
    killed_at = []

    def kill_after_first_step(process, log_path):
        metrics = tmp_path / "run" / "metrics.jsonl"
        if killed_at or not metrics.exists() or not metrics.read_text():
            return
        pids = {int(pid) for pid in re.findall(rf"\({victim} pid=(\d+)\)", log_path.read_text(errors="replace"))}
        assert pids, f"the log names no {victim}"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        killed_at.append(time.monotonic())

    overrides = [*COIN_REWARD, "trainer.total_training_steps=100000", "trainer.total_epochs=100000"]
    result = run(tmp_path / "inputs", tmp_path / "run", overrides, watch=kill_after_first_step)
    assert result.returncode not in (0, None, -signal.SIGTERM)
    assert time.monotonic() - killed_at[0] < 60
    assert re.search(CAUSES[victim], result.log)


@pytest.mark.slow
@pytest.mark.long
def test_an_engine_that_cannot_take_the_weights_ends_the_run_with_its_error(tmp_path):
    """The receiver raises before it answers, as it does for a weight it does not know; verl alone would wait for
    ever."""
    write_inputs(tmp_path / "inputs")
    result = run(tmp_path / "inputs", tmp_path / "run", [*COIN_REWARD], timeout=400, EGRSD_BREAK_SYNC="1")
    assert result.returncode not in (0, None, -signal.SIGTERM)
    assert re.search(r"the rollout engine could not take the new weights: .*this engine was told to break", result.log)


ONE_RUN = """
import json
import os

import ray

def sockets():
    from recipe.egrsd.rollout import server, weight_sync

    job_id = ray.get_runtime_context().get_job_id()
    name = "rl-colocate-zmq-{}-replica-0-rank-0.sock".format

    def init_server(self):  # what both of verl's do, without the engine
        os.environ["VERL_RAY_JOB_ID"] = job_id

    def init_adapter(self):
        self._pd_role, self.zmq_handle = None, name(job_id)

    server.vLLMHttpServer.__init__, weight_sync.ServerAdapter.__init__ = init_server, init_adapter
    server.OwnSocketServer()
    return job_id, name(os.environ["VERL_RAY_JOB_ID"]), weight_sync.WatchedServerAdapter().zmq_handle

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
print(json.dumps(ray.get(ray.remote(sockets).remote())))
"""


def test_two_runs_on_one_machine_use_two_sockets():
    """Each has a Ray of its own, in which it is the first job. With one socket for both, both wait for ever."""
    settings = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT, "env": {**os.environ, "VERL_PLATFORM": "cpu"}}
    runs = [subprocess.Popen([sys.executable, "-c", ONE_RUN], **settings) for _ in range(2)]
    outputs = [run.communicate()[0].splitlines() for run in runs]
    (job, server, trainer), (other_job, other_server, other_trainer) = (json.loads(lines[-1]) for lines in outputs)
    assert job == other_job
    assert server == trainer != other_server == other_trainer
    assert len(server) < 90  # Linux allows 107 with the folder
