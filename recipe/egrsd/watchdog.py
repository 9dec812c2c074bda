"""Ends a run whose rollout engine died, with the engine's own error.

verl waits for ever in two places: a weight sync whose receiver raised or died, and a batch whose prompts can no longer be
generated. The watchdog asks every vLLM server for its health; when one is gone it interrupts the trainer, wherever it waits.
"""

import ctypes
import glob
import os
import re
import threading
import urllib.error
import urllib.request
from typing import Any

import ray

POLL_SECONDS = 3.0
FAILURES_BEFORE_DEATH = 3
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
        self._main_thread = threading.get_ident()
        servers = [(r.server_address, server) for r in self.trainer.llm_server_manager.get_replicas() for server in r.servers[:1]]
        pids = ray.get([server.__ray_call__.remote(lambda _: os.getpid()) for _, server in servers])
        addresses = [address for address, _ in servers]
        self._thread = threading.Thread(target=self._watch, args=(dict(zip(addresses, pids, strict=True)),), daemon=True)
        self._thread.start()

    def __exit__(self, kind, error, traceback) -> None:
        self._stopped.set()
        if error is not None and self.cause is not None:
            raise EngineDied(self.cause) from error

    def _watch(self, pids: dict[str, int]) -> None:
        failures = dict.fromkeys(pids, 0)
        while not self._stopped.wait(POLL_SECONDS):
            for address, pid in pids.items():
                problem = _health_problem(address)
                failures[address] = failures[address] + 1 if problem else 0
                if failures[address] >= FAILURES_BEFORE_DEATH:
                    self._interrupt(f"the vLLM server at {address} (pid {pid}) died: {problem}.\n{_last_errors(pid)}")
                    return

    def _interrupt(self, cause: str) -> None:
        self.cause = cause
        # The trainer waits either in Python (polling for samples) or inside Ray for a worker that waits for the engine.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._main_thread), ctypes.py_object(EngineDied))
        for worker in self.trainer.actor_rollout_wg.workers:
            ray.kill(worker)


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


def _last_errors(pid: int) -> str:
    """The last error lines that a process of this node and its children wrote to Ray's log files."""
    logs = os.path.join(ray._private.worker.global_worker.node.get_session_dir_path(), "logs")
    paths = glob.glob(os.path.join(glob.escape(logs), f"worker-*-{pid}.*"))
    lines = [line.rstrip() for path in sorted(paths) for line in open(path, errors="replace")]
    errors = [line for line in lines if re.search(r"error|exception|traceback|died|killed", line, re.IGNORECASE)]
    return "Its last words:\n" + "\n".join(errors[-SHOWN_LOG_LINES:]) if errors else f"It left no error in {logs}."
