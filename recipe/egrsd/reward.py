"""1.0 if the last \\boxed{...} of a response equals the ground truth, else 0.0, decided by math-verify.

verl calls ``compute_score`` from many threads of a Ray actor. math-verify bounds its own time with SIGALRM, which fails
in a thread, and 9^{9^{9^9}} keeps sympy busy for ever, so a comparison that is not plain runs in a worker: this very
file, started as a script. It imports math-verify and nothing else (not the parent's __main__, not verl, ray or torch)
and then only forks. Its child compares, in limited memory, and is killed when it exceeds its time; the next one takes
milliseconds, not the imports' second. Both end with the parent. Times are seconds, lengths characters, memory bytes.
"""

import atexit
import contextlib
import functools
import logging
import mmap
import numbers
import os
import queue
import re
import resource
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe

logger = logging.getLogger(__name__)

MAX_ANSWER_CHARS = 1000  # a longer answer scores 0 (answer_too_long), a longer ground truth is a bad one
MAX_PRED_CHARS = 100  # of ``pred``, the answer's beginning, on which verl's maj@N votes
WORKERS = 2  # per process that scores; each starts when it is first needed
WORKER_BYTES = 1 << 30  # address space of a worker's child, which uses about 60 MiB
WORKER_START_SECONDS = 120  # within which a worker is ready (usual: below 1); not part of any response's time


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | int,
    extra_info: dict | None = None,
    *,
    timeout_seconds: float = 5.0,
    **kwargs,
) -> dict[str, float | int | str]:
    """Scores one response; the signature is that of verl's ``reward.custom_reward_function``. Thread-safe.

    A ground truth that is empty, too long, neither str nor int, or unreadable to math-verify when that is asked does
    not stop the run: the response scores 0, ``bad_ground_truth`` is 1, and a warning names the value once per process.

    Args:
        solution_str: the response, any length. Without a closed last ``\\boxed{...}`` it scores 0.
        ground_truth: the expected answer: ``7``, ``\\frac12``, or a text whose last ``\\boxed{...}`` holds it.
        timeout_seconds: for this comparison in its worker; waiting for a free worker comes on top.
        data_source, extra_info, kwargs: not used; verl may add its reward model's address and tokenizer.

    Returns:
        The same keys with the same types for every response: ``score`` and ``acc`` (1.0 if equal, else 0.0);
        ``has_answer``, ``answer_too_long``, ``timed_out``, ``crashed`` (the worker died, for instance of a stack
        overflow) and ``bad_ground_truth`` (0 or 1); ``response_chars`` (int); ``pred`` (str, "" without an answer).

    Raises:
        TypeError, ValueError: solution_str is not a str; timeout_seconds is not a positive number of seconds.
        RuntimeError: no worker can be started, so that no score would mean anything.
    """
    if not isinstance(solution_str, str):
        raise TypeError(f"solution_str is {type(solution_str).__name__}, expected the decoded response as a str.")
    if not 0 < timeout_seconds < float("inf"):
        raise ValueError(f"timeout_seconds={timeout_seconds} is no time limit; give seconds, for instance 5.0.")
    answer = last_boxed(solution_str)
    outcome = _outcome(answer, expected_answer(ground_truth), timeout_seconds)
    if outcome == "bad_ground_truth":
        _warn_once(repr(ground_truth)[:200])
    return {
        "score": float(outcome == "equal"),
        "acc": float(outcome == "equal"),
        "has_answer": int(answer is not None),
        **{flag: int(outcome == flag) for flag in ("answer_too_long", "timed_out", "crashed", "bad_ground_truth")},
        "response_chars": len(solution_str),
        "pred": (answer or "")[:MAX_PRED_CHARS],
    }


def last_boxed(text: str) -> str | None:
    """Content of the last \\boxed{...}, white space collapsed; None without one, or if its braces do not close."""
    last = ["", *re.split(r"\\boxed\s*\{", text)[1:]][-1]  # "" has no brace that closes
    depth = 1
    for token in re.finditer(r"\\.|[{}]", last, re.DOTALL):  # \\. steps over \{ and \}, which nest nothing
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return " ".join(last[: token.start()].split())
    return None


def expected_answer(ground_truth: str | int) -> str | None:
    """The answer within a ground truth, white space collapsed; None if it is unusable. A bool is not an int here."""
    if isinstance(ground_truth, numbers.Integral) and not isinstance(ground_truth, bool):
        return str(ground_truth)
    if not isinstance(ground_truth, str):
        return None
    answer = last_boxed(ground_truth) if "\\boxed" in ground_truth else " ".join(ground_truth.split())
    return answer if answer and len(answer) <= MAX_ANSWER_CHARS else None


def _outcome(answer: str | None, expected: str | None, timeout_seconds: float) -> str:
    """``equal``, ``different``, or the flag of compute_score's result that says why there is no verdict."""
    if expected is None:
        return "bad_ground_truth"
    if not answer:
        return "different"
    if len(answer) > MAX_ANSWER_CHARS:
        return "answer_too_long"
    if answer == expected:
        return "equal"
    if all(re.fullmatch(r"[+-]?[0-9]+", text) for text in (answer, expected)):
        return "equal" if int(answer) == int(expected) else "different"
    worker = _idle.get()
    try:
        return worker.compare(expected, answer, timeout_seconds)
    finally:
        _idle.put(worker)


@functools.cache
def _warn_once(shown: str) -> None:
    logger.warning("math-verify cannot use the ground truth %s (bad_ground_truth): responses to it score 0.", shown)


class _Worker:
    """A process that forks and its child, which compares. Used by one thread at a time; starts on first use."""

    process: subprocess.Popen | None = None
    pipe: Connection | None = None  # of this child alone: what another sent late or in part is lost with its own pipe

    def compare(self, expected: str, answer: str, timeout_seconds: float) -> str:
        """The outcome for one pair."""
        if self.pipe is None or self.pipe.poll():  # no verdict is due: the child died idle
            self.renew_child()
        reusable = False
        try:
            self.pipe.send((expected, answer, timeout_seconds))
            if not self.pipe.poll(timeout_seconds):
                return "timed_out"
            outcome, reusable = self.pipe.recv()
            return outcome
        except (EOFError, OSError):
            return "crashed"
        finally:
            if not reusable:
                self.renew_child()

    def renew_child(self) -> None:
        """Has the child killed, if there is one, and returns when the next is ready. RuntimeError if none is; stderr says why."""
        self.pipe = None
        if is_new := self.process is None:
            self.start()
        pipe, theirs = Pipe()
        with contextlib.suppress(EOFError, OSError):
            with theirs:
                socket.send_fds(self.requests, [b"+"], [theirs.fileno()])
            if pipe.poll(WORKER_START_SECONDS) and pipe.recv():
                self.pipe = pipe
                return
        self.stop()
        if is_new:
            raise RuntimeError(f"The answer checker does not start. Can {sys.executable} import math_verify?")
        self.renew_child()

    def start(self) -> None:
        self.requests, theirs = socket.socketpair()
        env = {**os.environ, "PYTHONSAFEPATH": "1"}  # the files beside this one are no top-level modules
        with theirs:  # a session of its own: Ctrl-C is not for it, and stop reaches its child with it
            self.process = subprocess.Popen([sys.executable, __file__], stdin=theirs, env=env, start_new_session=True)

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.requests.close()
            self.process = self.pipe = None


def _new_pool() -> None:
    global _idle
    _idle = queue.LifoQueue()  # last in, first out: the second worker starts only when two are needed
    for _ in range(WORKERS):
        _idle.put(_Worker())


_new_pool()
atexit.register(lambda: [worker.stop() for worker in _idle.queue])
os.register_at_fork(after_in_child=_new_pool)  # two processes on one pipe would read each other's verdicts


def _fork_children(requests: socket.socket) -> None:
    """The worker: forks a child for each pipe that it is sent and kills the one before; ends with its parent."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would free a dead child's id before we kill it
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    for answer in [r"(x+1)^2", r"3+4i", r"\{1,\sqrt{2}\}", r"[1,2)\cup(3,\infty)", r"y=\frac{\pi}{6}x"]:
        _compare(answer, "x^2+2x+1")  # what this imports, loads and caches, every child has
    while pipes := socket.recv_fds(requests, 1, 1)[1]:
        if (child := os.fork()) == 0:
            requests.close()
            return _serve(Connection(pipes[0]))
        os.close(pipes[0])
        requests.recv(1, socket.MSG_PEEK)  # returns when the next request waits or the parent has ended
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _serve(pipe: Connection) -> None:
    """The child: answers (expected, answer, seconds) with (outcome, reusable) until the parent closes the pipe."""
    resource.setrlimit(resource.RLIMIT_AS, (WORKER_BYTES, WORKER_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError, OSError):
        pipe.send(True)
        while True:
            expected, answer, seconds = pipe.recv()
            signal.setitimer(signal.ITIMER_REAL, seconds + 1)  # SIGALRM ends the child if nobody else can
            outcome = _compare(expected, answer)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send((outcome, _has_room()))


def _compare(expected: str, answer: str) -> str:
    """math-verify's verdict. It swallows its own errors, RecursionError and MemoryError included, as "different"."""
    from latex2sympy2_extended.antlr_parser import PSParser
    from math_verify import LatexExtractionConfig, parse, verify

    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):  # missing from its antlr 4.9.3 grammar: 50\% is unreadable
        PSParser.AtomContext.FUNC_GAMMA = lambda self: None
    # A text is read whole, as at most one sympy object, or not at all: no number is picked out of the unreadable.
    boxed = [LatexExtractionConfig(boxed_match_priority=0)]
    read = functools.partial(parse, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None)
    if not (gold := read(f"\\boxed{{{expected}}}", boxed)):
        return "bad_ground_truth"
    return "equal" if verify(gold, read(f"\\boxed{{{answer}}}", boxed), timeout_seconds=None) else "different"


def _has_room() -> bool:
    """Whether half of the memory limit is free, so that the next pair does not pay for this one."""
    with contextlib.suppress(OSError):
        mmap.mmap(-1, WORKER_BYTES // 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ).close()
        return True
    return False


if __name__ == "__main__":
    _fork_children(socket.socket(fileno=0))  # stdin, see _Worker.start
