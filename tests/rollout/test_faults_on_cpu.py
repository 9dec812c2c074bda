"""A dead engine or worker ends the run with its cause; two runs on one machine keep apart."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import ray
from inputs import write_inputs
from runs import COIN_REWARD, ROOT, run

from recipe.egrsd.rollout import watchdog
from recipe.egrsd.rollout.watchdog import EngineDied, Stuck, Watchdog

# ---------------------------------------------------------------- the watchdog, whose servers are no engines


@contextmanager
def answering(*codes: int | None) -> Iterator[tuple[str, list[str]]]:
    """A server that answers with these codes in turn, None cuts the connection; its address, and what it was asked."""
    turns, asked = itertools.cycle(codes), []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if code := next(turns):
                self.send_response(code)
                self.end_headers()

        def log_message(self, format: str, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_what_is_wrong_with_a_server():
    with answering(200, 500, None) as (address, asked):
        found = [watchdog._health_problem(address) for _ in range(3)]
    said = ["its health check answers 500", "its health check fails: Remote end closed connection without response"]
    assert found == [None, *said] and asked == ["/health"] * 3
    assert watchdog._health_problem(address) == "its health check fails: [Errno 111] Connection refused"


def test_a_server_that_died_in_the_middle_of_its_answer():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def half_an_answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTT\r\n")

        thread = threading.Thread(target=half_an_answer)
        thread.start()
        problem = watchdog._health_problem("{}:{}".format(*server.getsockname()))
        thread.join()
    assert problem == "its health check fails: BadStatusLine HTT"


def test_a_busy_server_is_alive(monkeypatch):
    """It takes a connection and never answers; then its queue is full, and it takes no other."""
    monkeypatch.setattr(watchdog, "POLL_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = "{}:{}".format(*server.getsockname())
        assert watchdog._health_problem(address) is None
        with pytest.raises(TimeoutError):
            socket.create_connection(server.getsockname(), timeout=0.2)
        assert watchdog._health_problem(address) is None


@ray.remote
class Server:
    """The actor of a vLLM server, without the engine."""

    def write(self, words: str) -> int:
        print(words, file=sys.stderr, flush=True)
        return os.getpid()


@pytest.fixture(scope="module")
def server():
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield Server.remote()
    ray.shutdown()


def watched(server, *addresses: str) -> Watchdog:
    replicas = [SimpleNamespace(servers=[server], server_address=address) for address in addresses]
    return Watchdog(SimpleNamespace(llm_server_manager=SimpleNamespace(get_replicas=lambda: replicas)))


def train(until) -> None:
    """What the watchdog interrupts, for at most 20 seconds."""
    end = time.monotonic() + 20
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_server_that_fails_three_checks_ends_the_run_with_its_last_words(server, monkeypatch):
    """Asked once more, for the obituary."""
    monkeypatch.setattr(watchdog, "POLL_SECONDS", 0.1)
    pid = ray.get(server.write.remote("all is well\nRuntimeError: no memory is left"))
    with answering(200) as (well, _), answering(500) as (ill, asked):
        dog = watched(server, well, ill)
        with pytest.raises(EngineDied) as died, dog:
            train(lambda: False)
    said = f"the vLLM server at {ill} (pid {pid}) died: its health check answers 500."
    assert str(died.value) == f"{said}\nIts last words:\nRuntimeError: no memory is left"
    assert type(died.value.__cause__) is EngineDied and len(asked) >= 3 + 1
    elsewhere = "Its last words are in Ray's logs/worker-*-7.* on Ray node other."
    assert watchdog._last_errors("other", 7) == elsewhere


def test_two_failures_in_a_row_are_no_death(server, monkeypatch):
    monkeypatch.setattr(watchdog, "POLL_SECONDS", 0.1)
    with answering(500, 500, 200) as (address, asked), watched(server, address):
        train(lambda: len(asked) >= 3 * 3)


def test_an_error_that_a_dead_server_explains_is_its_cause(server):
    """The trainer may meet it before the watchdog does. Beside a server that lives, its own error ends the run."""
    lost = ConnectionError("no answer")
    for code, expected in ((500, EngineDied), (200, ConnectionError)):
        with answering(code) as (address, _), pytest.raises(expected) as raised, watched(server, address):
            raise lost
        assert lost is (raised.value.__cause__ if code == 500 else raised.value)


def test_what_the_watchdog_knows_stands_for_the_error_that_it_caused(server):
    bare, stuck = Stuck(), Stuck("nobody works on them")
    dog = watched(server)
    dog.problem = stuck
    with pytest.raises(Stuck) as raised, dog:
        raise bare
    assert raised.value is stuck and stuck.__cause__ is bare


# ---------------------------------------------------------------- whole runs


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
