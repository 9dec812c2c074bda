"""A dead engine or worker ends the run with its cause; two runs on one machine keep apart."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from inputs import write_inputs
from runs import COIN_REWARD, ROOT, run

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


@pytest.mark.long
def test_two_runs_on_one_machine_use_two_sockets():
    """Each has a Ray of its own, in which it is the first job. With one socket for both, both wait for ever."""
    settings = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT, "env": {**os.environ, "VERL_PLATFORM": "cpu"}}
    runs = [subprocess.Popen([sys.executable, "-c", ONE_RUN], **settings) for _ in range(2)]
    outputs = [run.communicate()[0].splitlines() for run in runs]
    (job, server, trainer), (other_job, other_server, other_trainer) = (json.loads(lines[-1]) for lines in outputs)
    assert job == other_job
    assert server == trainer != other_server == other_trainer
    assert len(server) < 90  # Linux allows 107 with the folder
