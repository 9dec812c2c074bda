"""Ends a run whose rollout engine died, with the engine's own error.

verl's trainer polls for samples that a dead engine will never deliver, and reports what remains as failed prompts. The
watchdog asks every vLLM server for its health and interrupts the trainer when one is gone, or ends its process where it cannot be
interrupted. A weight sync whose receiver failed but lives is rollout.py's business.
"""

import ctypes
import glob
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import ray

POLL_SECONDS = 3.0
FAILURES_BEFORE_DEATH = 3
GRACE_SECONDS = 10.0
LOG_SECONDS = 3.0  # in which Ray carries the last words of this process to the driver
SHOWN_LOG_LINES = 15


class EngineDied(RuntimeError):
    """A rollout engine is gone; the message holds what it last wrote."""


class EngineWatchdog:
    """``with watchdog: ...`` turns the death of a rollout engine into EngineDied in the calling thread.

    Args:
        trainer: a verl V1 trainer; its replicas and worker group exist once ``init`` has set them up.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.cause: str | None = None

    def __enter__(self) -> None:
        self._stopped = threading.Event()
        self._trainer_thread = threading.get_ident()
        replicas = self.trainer.llm_server_manager.get_replicas()
        places = ray.get([replica.servers[0].__ray_call__.remote(lambda _: _place()) for replica in replicas])
        self._servers = {replica.server_address: place for replica, place in zip(replicas, places, strict=True)}
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, kind, error, traceback) -> None:
        self._stopped.set()
        if error is None:
            return
        self.cause = self.cause or self._look()  # the trainer may have met the dead engine before the watchdog did
        if self.cause is not None:
            raise EngineDied(self.cause) from error

    def _watch(self) -> None:
        failures = 0
        while failures < FAILURES_BEFORE_DEATH:
            if self._stopped.wait(POLL_SECONDS):
                return
            failures = failures + 1 if self._look() else 0
        self.cause = self._look()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._trainer_thread), ctypes.py_object(EngineDied))
        if not self._stopped.wait(GRACE_SECONDS):
            # The trainer waits inside Ray for an answer that nobody will send; no exception reaches it there.
            print(f"EngineDied: {self.cause}", file=sys.stderr, flush=True)
            time.sleep(LOG_SECONDS)
            os._exit(1)

    def _look(self) -> str | None:
        """The obituary of the first dead server, or None."""
        for address, (node, pid) in self._servers.items():
            problem = _health_problem(address)
            if problem:
                return f"the vLLM server at {address} (pid {pid}) died: {problem}.\n{_last_errors(node, pid)}"
        return None


def _place() -> tuple[str, int]:
    """Ray's id of this process's node, and its own process id there."""
    return ray.get_runtime_context().get_node_id(), os.getpid()


def _health_problem(address: str) -> str | None:
    """None while the server lives or is merely busy; else what is wrong with it."""
    try:
        urllib.request.urlopen(f"http://{address}/health", timeout=POLL_SECONDS)
    except urllib.error.HTTPError as error:
        return f"its health check answers {error.code}"
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, TimeoutError) else f"its health check fails: {error.reason}"
    except TimeoutError:
        return None
    except OSError as error:
        return f"its health check fails: {error}"
    return None


def _last_errors(node: str, pid: int) -> str:
    """The last error lines that a process and its children wrote to Ray's log files, which lie on its own node."""
    if node != _place()[0]:
        return f"Its last words are in Ray's logs/worker-*-{pid}.* on Ray node {node}."
    logs = os.path.join(ray._private.worker.global_worker.node.get_session_dir_path(), "logs")
    paths = glob.glob(os.path.join(glob.escape(logs), f"worker-*-{pid}.*"))
    lines = [line for path in sorted(paths) for line in Path(path).read_text(errors="replace").splitlines()]
    errors = [line for line in lines if re.search(r"error|exception|traceback|died|killed", line, re.IGNORECASE)]
    return "Its last words:\n" + "\n".join(errors[-SHOWN_LOG_LINES:]) if errors else f"It left no error in {logs}."
