"""A rollout engine that dies, or cannot take the new weights, ends the run with its own error and soon."""

import os
import re
import signal
import time

import pytest
from runs import COIN_REWARD, run, write_inputs

pytestmark = pytest.mark.slow


def test_a_killed_engine_ends_the_run_within_a_minute(tmp_path):
    write_inputs(tmp_path / "inputs", train=64)
    killed_at = []

    def kill_engine_after_first_step(process, log_path):
        metrics = tmp_path / "run" / "metrics.jsonl"
        if killed_at or not metrics.exists() or not metrics.read_text():
            return
        pids = {int(pid) for pid in re.findall(r"\(EngineCore pid=(\d+)\)", log_path.read_text(errors="replace"))}
        assert pids, "the log names no engine"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        killed_at.append(time.monotonic())

    overrides = [*COIN_REWARD, "trainer.total_training_steps=100000", "trainer.total_epochs=100000"]
    result = run(tmp_path / "inputs", tmp_path / "run", overrides, watch=kill_engine_after_first_step)
    assert result.returncode not in (0, None, -signal.SIGTERM)
    assert time.monotonic() - killed_at[0] < 60
    assert re.search(r"EngineDied: the vLLM server at \S+ \(pid \d+\) died", result.log)
    assert "Its last words:" in result.log


def test_an_engine_that_cannot_take_the_weights_ends_the_run_with_its_error(tmp_path):
    """The receiver raises before it answers, as it does for a weight it does not know; verl alone would wait for ever."""
    write_inputs(tmp_path / "inputs")
    result = run(tmp_path / "inputs", tmp_path / "run", [*COIN_REWARD], timeout=200, EGRSD_BREAK_SYNC="1")
    assert result.returncode not in (0, None, -signal.SIGTERM)
    assert "the rollout engine could not take the new weights" in result.log
    assert "this engine was told to break" in result.log
