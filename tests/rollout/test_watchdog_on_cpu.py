"""The watchdog, on real servers that are no engines: what is wrong with one, and what becomes of the run."""

import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import ray

from recipe.egrsd.rollout import watchdog
from recipe.egrsd.rollout.watchdog import EngineDied, Stuck, Watchdog


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
