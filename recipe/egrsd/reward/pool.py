"""Where two answers are compared: in a process of its own, in limited time and memory.

verl calls ``compute_score`` from many threads of a Ray actor. math-verify bounds its own time with SIGALRM, which fails
in a thread, and 9^{9^{9^9}} keeps sympy busy for ever, so a comparison that is not plain runs in a worker (worker.py).
It imports math-verify and nothing else (not the parent's __main__, not verl, ray or torch) and then only forks. Its
child compares, in limited memory, and is killed when it exceeds its time; the next one takes milliseconds, not the
imports' second. Both end with the parent. Times are seconds, memory bytes.
"""

import atexit
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

WORKERS = 2  # per process that scores; each starts when it is first needed
WORKER_START_SECONDS = 120  # within which a worker is ready (usual: below 2); not part of any response's time


def compare(expected: str, answer: str, timeout_seconds: float) -> str:
    """judge.outcome in a worker, or ``timed_out`` or ``crashed``. Thread-safe; waits for a free worker."""
    worker = _idle.get()
    try:
        return worker.compare(expected, answer, timeout_seconds)
    finally:
        _idle.put(worker)


class _Worker:
    """A process that forks and its child, which compares. Used by one thread at a time; starts on first use."""

    process: subprocess.Popen | None = None
    pipe: Connection | None = None  # of this child alone: what another sent late or in part is lost with its own pipe

    def compare(self, expected: str, answer: str, timeout_seconds: float) -> str:
        """The outcome for one pair."""
        pipe = self.pipe
        if pipe is None or pipe.poll():  # no verdict is due: the child died idle
            pipe = self.renew_child()
        reusable = False
        try:
            pipe.send((expected, answer, timeout_seconds))
            if not pipe.poll(timeout_seconds):
                return "timed_out"
            outcome, reusable = pipe.recv()
            return outcome
        except (EOFError, OSError):
            return "crashed"
        finally:
            if not reusable:
                self.renew_child()

    def renew_child(self) -> Connection:
        """Has the child killed, if there is one; returns when the next is ready. RuntimeError if none is, see
        stderr."""
        self.pipe = None
        if is_new := self.process is None:
            self.start()
        pipe, theirs = Pipe()
        with contextlib.suppress(EOFError, OSError):
            with theirs:
                socket.send_fds(self.requests, [b"+"], [theirs.fileno()])
            if pipe.poll(WORKER_START_SECONDS) and pipe.recv():
                self.pipe = pipe
                return pipe
        self.stop()
        if is_new:
            raise RuntimeError(f"The answer checker does not start. Can {sys.executable} import math_verify?")
        return self.renew_child()

    def start(self) -> None:
        self.requests, theirs = socket.socketpair()
        root = str(Path(__file__).parents[3])  # of the package ``recipe``, whatever the parent's directory is
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        env = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-m", "recipe.egrsd.reward.worker"]
        with theirs:  # a session of its own: Ctrl-C is not for it, and stop reaches its child with it
            self.process = subprocess.Popen(command, stdin=theirs.fileno(), env=env, start_new_session=True)

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.requests.close()
            self.process = self.pipe = None


def _new_pool() -> None:
    global _idle  # noqa: PLW0603  a forked process needs one of its own, with a lock that nobody holds
    _idle = queue.LifoQueue()  # last in, first out: the second worker starts only when two are needed
    for _ in range(WORKERS):
        _idle.put(_Worker())


_new_pool()
atexit.register(lambda: [worker.stop() for worker in _idle.queue])
os.register_at_fork(after_in_child=_new_pool)  # two processes on one pipe would read each other's verdicts
