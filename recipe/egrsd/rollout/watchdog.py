"""Ends a run whose rollout engine died, with the engine's own error, or whose rollouts will never come, with what is
known.

verl's trainer polls for samples that a dead engine will never deliver, and reports what remains as failed prompts. The
watchdog asks every vLLM server for its health and interrupts the trainer when one is gone, or ends its process where it
cannot be interrupted; progress.py tells it of a run that is stuck. A weight sync whose receiver failed but lives is
weight_sync.py's business.
"""

import ctypes
import glob
import http.client
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

from recipe.egrsd.rollout.progress import Progress

POLL_SECONDS = 3.0
FAILURES_BEFORE_DEATH = 3
GRACE_SECONDS = 10.0
LOG_SECONDS = 3.0  # in which Ray carries the last words of this process to the driver
SHOWN_LOG_LINES = 15


class EngineDied(RuntimeError):
    """A rollout engine is gone; the message holds what it last wrote."""


class Stuck(RuntimeError):
    """The trainer waits for rollouts that will not come; the message says what it waits for."""


class Watchdog:
    """``with watchdog: ...`` turns the death of a rollout engine into EngineDied in the calling thread, lost rollouts
    into Stuck.

    Args:
        trainer: a verl V1 trainer; its replicas and worker group exist once ``init`` has set them up.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.problem: EngineDied | Stuck | None = None

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
        self.problem = self.problem or self._death()  # the trainer may have met the dead engine before the watchdog did
        if self.problem is not None:
            raise self.problem from error

    def _watch(self) -> None:
        failures, progress = 0, Progress(self.trainer, self._trainer_thread)
        while not self._stopped.wait(POLL_SECONDS):
            failures = failures + 1 if self._death() else 0
            stuck = progress.look()
            if failures >= FAILURES_BEFORE_DEATH or stuck:
                self.problem = self._death() or (Stuck(stuck) if stuck else None)
            if self.problem:
                self._interrupt(self.problem)
                return

    def _interrupt(self, problem: Exception) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._trainer_thread), ctypes.py_object(type(problem))
        )
        if not self._stopped.wait(GRACE_SECONDS):
            # The trainer waits inside Ray for an answer that nobody will send; no exception reaches it there.
            print(f"{type(problem).__name__}: {problem}", file=sys.stderr, flush=True)
            time.sleep(LOG_SECONDS)
            os._exit(1)

    def _death(self) -> EngineDied | None:
        """The obituary of the first dead server, or None."""
        for address, (node, pid) in self._servers.items():
            problem = _health_problem(address)
            if problem:
                return EngineDied(
                    f"the vLLM server at {address} (pid {pid}) died: {problem}.\n{_last_errors(node, pid)}"
                )
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
    except http.client.HTTPException as error:  # it died in the middle of its answer
        return f"its health check fails: {type(error).__name__} {str(error).strip()}"
    return None


def _last_errors(node: str, pid: int) -> str:
    """The last error lines that a process and its children wrote to Ray's log files, which lie on its own node."""
    if node != _place()[0]:
        return f"Its last words are in Ray's logs/worker-*-{pid}.* on Ray node {node}."
    worker = ray._private.worker  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]  no other way there
    logs = os.path.join(worker.global_worker.node.get_session_dir_path(), "logs")
    paths = glob.glob(os.path.join(glob.escape(logs), f"worker-*-{pid}.*"))
    lines = [line for path in sorted(paths) for line in Path(path).read_text(errors="replace").splitlines()]
    errors = [line for line in lines if re.search(r"error|exception|traceback|died|killed", line, re.IGNORECASE)]
    return "Its last words:\n" + "\n".join(errors[-SHOWN_LOG_LINES:]) if errors else f"It left no error in {logs}."
