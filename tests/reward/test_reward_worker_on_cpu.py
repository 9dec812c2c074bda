"""The processes that compare answers: what kills them, what they leave behind, what they load. They are real."""

import inspect
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from scored import BOMB, MEMORY_BOMB, ROOT, score

from recipe.egrsd.reward import pool
from recipe.egrsd.reward import worker as worker_process


def child_of(worker: pool._Worker) -> int:
    return int(Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text())


IMPORTS = "from pathlib import Path\nfrom recipe.egrsd import reward\nfrom recipe.egrsd.reward import pool\n\n"
CHILD_OF = f"{IMPORTS}{inspect.getsource(child_of)}"


def numbers_printed(code: str, output: Path) -> list[int]:
    """By a program that has just ended. What it left behind may hold its output open, so no pipe is waited for."""
    with output.open("w") as file:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=file, stderr=file, timeout=60)
    return [int(word) for word in output.read_text().split()]


def alive(pid: int) -> bool:
    try:  # a process can end before the file is opened, and before it is read
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def test_a_child_out_of_memory_is_replaced(worker):
    pid = child_of(worker)
    assert resource.prlimit(pid, resource.RLIMIT_AS) == (worker_process.WORKER_BYTES,) * 2
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    assert worker.compare("1/2", "0.5", 30.0) == "equal" and child_of(worker) == pid
    resource.prlimit(pid, resource.RLIMIT_AS, (1 << 28,) * 2)  # less than half: as if an earlier pair had taken it
    assert worker.compare("5", MEMORY_BOMB, 30.0) == "different" and not alive(pid)
    assert worker.compare("1/2", "0.5", 30.0) == "equal" and child_of(worker) != pid


def test_the_next_child_comes_without_a_new_process(worker):
    process, waits = worker.process, []
    for _ in range(10):
        hung = child_of(worker)
        start = time.monotonic()
        assert worker.compare("5", BOMB, 0.2) == "timed_out" and not alive(hung)
        waits.append(time.monotonic() - start - 0.2)
    assert worker.process is process and process.poll() is None
    assert min(waits) < 0.1, waits  # the imports alone take longer


VICTIMS = {
    "child": lambda worker: os.kill(child_of(worker), signal.SIGKILL),
    "process": lambda worker: worker.process.kill(),
    "both": lambda worker: os.killpg(worker.process.pid, signal.SIGKILL),
}


@pytest.mark.parametrize("victim", ["child", "both"])
def test_a_child_that_dies_costs_one_response(worker, victim):
    threading.Timer(0.5, VICTIMS[victim], [worker]).start()
    assert worker.compare("5", BOMB, 30.0) == "crashed"
    assert worker.compare("1/2", "0.5", 30.0) == "equal"


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_died_idle_costs_none(worker, victim):
    child = child_of(worker)
    VICTIMS[victim](worker)
    assert victim == "process" or gone_within(child, 5.0)
    assert worker.compare("1/2", "0.5", 30.0) == "equal"
    assert worker.compare("5", BOMB, 0.5) == "timed_out"
    assert worker.compare("1/2", "0.5", 30.0) == "equal"


def test_a_hung_child_whose_process_died_is_killed_too(worker):
    hung = child_of(worker)
    worker.pipe.send(("5", BOMB, 60.0))
    time.sleep(0.2)
    worker.process.kill()
    start = time.monotonic()
    worker.renew_child()
    assert gone_within(hung, 1.0) and time.monotonic() - start < 30.0
    assert worker.compare("1/2", "0.5", 30.0) == "equal"


@pytest.mark.parametrize("seconds", [30.0, pool.WORKER_START_SECONDS], ids=["for the verdict", "for the next child"])
def test_an_interrupted_wait_leaves_no_verdict_for_the_next_one(worker, monkeypatch, seconds):
    poll = pool.Connection.poll

    def interrupted(pipe, timeout=0.0):
        if timeout == seconds:
            raise KeyboardInterrupt
        return poll(pipe, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(pool.Connection, "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.compare("1/2", "0.5", 30.0) if seconds == 30.0 else worker.compare("5", BOMB, 0.2)
    assert worker.compare("1/2", "0.6", 30.0) == "different"


def test_a_late_verdict_is_not_the_next_ones(worker):
    outcomes = set()
    for step in range(60):
        outcomes.add(worker.compare("1/2", "0.5", 0.0001 * step + 0.0001))
        assert worker.compare("1/2", "0.6", 30.0) == "different"
    assert outcomes <= {"timed_out", "equal"} and "timed_out" in outcomes


def test_half_a_verdict_is_none(worker):
    def die_in_the_middle() -> None:
        theirs.recv()
        os.write(theirs.fileno(), b"\0\0\0\x20half")  # the length says 32
        theirs.close()

    worker.pipe, theirs = pool.Pipe()
    threading.Thread(target=die_in_the_middle).start()
    assert worker.compare("1/2", "0.5", 30.0) == "crashed"
    assert worker.compare("1/2", "0.6", 30.0) == "different"


@pytest.mark.parametrize("alone", [False, True])
def test_a_hung_child_outlives_a_killed_parent_by_no_more_than_its_time(alone, tmp_path):
    """It is killed at once; if the process that does that is dead as well (alone), by its own timer."""
    code = f"""
import os, threading, time
{CHILD_OF}
worker, idle = pool._Worker(), pool._Worker()
worker.renew_child()
idle.renew_child()
pids = child_of(worker), child_of(idle), worker.process.pid, idle.process.pid
threading.Thread(target=worker.compare, args=("5", "{BOMB}", {8.0 if alone else 120.0}), daemon=True).start()
time.sleep(0.5)
if {alone}:
    worker.process.kill()
    idle.process.kill()
print(*pids, flush=True)
os.kill(os.getpid(), 9)
"""
    hung, *others = numbers_printed(code, tmp_path / "pids")
    assert alive(hung) or not alone
    assert all(gone_within(pid, 30.0) for pid in others)
    assert gone_within(hung, 30.0)  # which is soon, or at all, when its own timer has 8 seconds left, or 120


def test_nothing_is_left_when_the_parent_ends(tmp_path):
    code = "reward.compute_score('', '\\\\boxed{2^{-1}}', '1/2'); worker = pool._idle.queue[-1]\n"
    code = f"{CHILD_OF}\n{code}print(worker.process.pid, child_of(worker))"
    process, child = numbers_printed(code, tmp_path / "pids")
    assert not alive(process) and gone_within(child, 10.0)


def test_a_forked_child_does_not_share_its_parents_workers():
    assert score("1/2", "2^{-1}") == 1.0
    ours = {worker.process.pid for worker in pool._idle.queue if worker.process}
    with multiprocessing.get_context("fork").Pool(1) as forked:
        theirs = forked.apply(_score_and_pids)
    assert theirs[0] == 1.0 and ours and not ours & theirs[1]
    assert all(alive(pid) for pid in ours) and score("1/2", "2^{-1}") == 1.0


def _score_and_pids() -> tuple[float, set[int]]:
    return score("1/2", "2^{-1}"), {worker.process.pid for worker in pool._idle.queue if worker.process}


def test_it_loads_nothing_heavy_and_runs_nothing_twice(tmp_path):
    """A worker must not run the parent's __main__ again: in a Ray worker that would import ray."""
    script = tmp_path / "main.py"
    script.write_text(
        "import sys\nfrom recipe.egrsd import reward\n"
        "print('main', *{'math_verify', 'sympy', 'verl', 'ray', 'torch', 'numpy'} & set(sys.modules))\n"
        "print(reward.compute_score('', '\\\\boxed{2^{-1}}', '1/2')['score'])\n"
        "from recipe.egrsd.reward.worker import outcome\n"
        "outcome('1/2', 'x^2')  # what a worker does\n"
        "print('worker', *{'verl', 'ray', 'torch', 'numpy'} & set(sys.modules))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n") == ["main", "1.0", "worker", ""]


def test_a_checker_that_cannot_start_is_an_error_not_a_zero(monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    worker = pool._Worker()
    with pytest.raises(RuntimeError, match="/bin/false import math_verify"):
        worker.compare("1/2", "0.5", 5.0)
    assert worker.process is None
