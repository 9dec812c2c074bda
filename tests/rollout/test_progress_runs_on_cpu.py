"""Whole runs: one that is stuck says so with numbers and ends; one that is merely slow says so and goes on."""

import re
import signal

import pytest
from inputs import write_inputs
from runs import COIN_REWARD, good, processes, run

WATCH = "ASK_SECONDS=1,ANSWER_SECONDS=2,SAY_SECONDS=5,IDLE_SECONDS=20"


@pytest.mark.slow
@pytest.mark.long
def test_a_lost_prompt_ends_the_run(tmp_path):
    """A whole run in which verl's agent loop starts a prompt of the second step and forgets it."""
    write_inputs(tmp_path / "inputs")
    result = run(
        tmp_path / "inputs", tmp_path / "run", [*COIN_REWARD], timeout=400, EGRSD_WATCH=WATCH, EGRSD_LOSE_PROMPT="2"
    )
    assert result.returncode not in (0, None, -signal.SIGTERM)
    stuck = re.search(r"Stuck: the rollouts that the trainer waits for will not come: .*", result.log).group()
    assert "so nobody works on them. step 2 is in fit > step > _step_once > sample" in stuck
    assert "prompts: 0 pending, 1 running, 1 finished, 0 failure; responses finished: 4" in stuck


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("sent", "reason"), [("SIGSTOP", "do not come: no token"), ("SIGKILL", "agent-loop worker died|died")]
)
def test_a_stopped_worker_ends_the_run(sent, reason, tmp_path):
    write_inputs(tmp_path / "inputs", train=64)
    stopped = []

    def stop_after_first_step(process, log_path):
        metrics = tmp_path / "run" / "metrics.jsonl"
        if not stopped and metrics.exists() and metrics.read_text():
            stopped.extend(processes("ray::AgentLoopWorkerTQ", tmp_path / "run"))
            assert stopped
            for worker in stopped:
                worker.send_signal(getattr(signal, sent))

    overrides = [*COIN_REWARD, "trainer.total_training_steps=100000", "trainer.total_epochs=100000"]
    result = run(
        tmp_path / "inputs", tmp_path / "run", overrides, timeout=400, watch=stop_after_first_step, EGRSD_WATCH=WATCH
    )
    for worker in stopped:
        worker.send_signal(signal.SIGKILL) if worker.is_running() else None
    assert result.returncode not in (0, None, -signal.SIGTERM)
    assert re.search(reason, result.log)
    if sent == "SIGSTOP":
        assert re.search(r"EGRSD sees no progress: step \d+ is in .* for \d s; .* no answer within 2 s", result.log)


@pytest.mark.slow
@pytest.mark.long
def test_a_slow_reward_is_waited_for(tmp_path):
    """Longer than the log's patience, not than the watchdog's, for each response of its own: vLLM has nothing to do
    meanwhile. Of two prompts one may be done when the log speaks."""
    write_inputs(tmp_path / "inputs")
    (tmp_path / "slow.py").write_text("import time\n\ndef compute_score(**_):\n    time.sleep(8)\n    return 1.0\n")
    reward = [f"reward.custom_reward_function.path={tmp_path / 'slow.py'}", "trainer.total_training_steps=1"]
    result = good(run(tmp_path / "inputs", tmp_path / "run", reward, EGRSD_WATCH=WATCH))
    assert "EGRSD sees no progress: step 1 is in fit > step > _step_once > sample" in result.log
    assert re.search(r"_step_once > sample, .*prompts held by each agent-loop worker: [12]\. ", result.log)
    assert "Stuck" not in result.log
