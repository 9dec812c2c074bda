"""1.0 if the last \\boxed{...} of a response equals the ground truth, else 0.0, decided by math-verify.

verl calls ``compute_score`` from many threads of a Ray actor. math-verify bounds its own time with SIGALRM, which fails
in a thread, and 9^{9^{9^9}} keeps sympy busy for ever, so a comparison that is not plain runs in a worker process: this
very file, started as a script. A worker that exceeds its time is killed and replaced, its memory is limited, and it
ends with its parent. It imports math-verify and nothing else: not the parent's __main__, not verl, ray or torch.

Times are seconds, lengths are characters, memory is bytes.
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
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe

logger = logging.getLogger(__name__)

MAX_ANSWER_CHARS = 1000  # a longer answer scores 0 (answer_too_long), a longer ground truth is a bad one
MAX_PRED_CHARS = 100  # of ``pred``, the answer's beginning, on which verl's maj@N votes
WORKERS = 2  # per process that scores; each starts when it is first needed
WORKER_BYTES = 1 << 30  # address space of one worker, which uses about 60 MiB
WORKER_START_SECONDS = 120  # within which a new worker is ready (usual: 0.4); not part of any response's time


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
        TypeError: solution_str is not a str.
        ValueError: timeout_seconds is not a positive number of seconds.
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
    start = None
    for opening in re.finditer(r"\\boxed\s*\{", text):
        start = opening.end()
    if start is None:
        return None
    depth = 1
    for token in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):  # \\. steps over \{ and \}, which nest nothing
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return " ".join(text[start : start + token.start()].split())
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
    """One worker process, used by one thread at a time. It starts on first use, and anew after it was killed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None

    def compare(self, expected: str, answer: str, timeout_seconds: float) -> str:
        """The outcome for one pair. However it ends, a late verdict cannot be taken for that of the next pair."""
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.start()
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
                self.stop()

    def start(self) -> None:
        """Runs this file as a script. RuntimeError if that fails; the worker's own message is on stderr."""
        self.pipe, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONSAFEPATH": "1"},  # the files beside this one are no top-level modules
            )
        ready = False
        with contextlib.suppress(EOFError, OSError):
            ready = self.pipe.poll(WORKER_START_SECONDS) and self.pipe.recv()
        if not ready:
            self.stop()
            raise RuntimeError(f"The answer checker does not start. Can {sys.executable} import math_verify?")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.pipe.close()
            self.process = None


def _new_pool() -> None:
    global _idle
    _idle = queue.LifoQueue()  # last in, first out: the second worker starts only when two are needed
    for _ in range(WORKERS):
        _idle.put(_Worker())


@atexit.register
def _stop_idle_workers() -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            _idle.get_nowait().stop()


_idle: queue.LifoQueue[_Worker]
_new_pool()
os.register_at_fork(after_in_child=_new_pool)  # two processes on one pipe would read each other's verdicts


def _serve(pipe: Connection) -> None:
    """The worker: answers (expected, answer, seconds) with (outcome, reusable) until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; its end closes the pipe
    resource.setrlimit(resource.RLIMIT_AS, (WORKER_BYTES, WORKER_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    _compare("\\frac12", "0.5")  # imports, compiles and loads the grammar
    pipe.send(True)
    with contextlib.suppress(EOFError, OSError):
        while True:
            expected, answer, seconds = pipe.recv()
            signal.setitimer(signal.ITIMER_REAL, seconds + 1)  # SIGALRM ends the process if the parent no longer can
            outcome = _compare(expected, answer)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send((outcome, _has_room()))


def _compare(expected: str, answer: str) -> str:
    """math-verify's verdict. It swallows its own errors, RecursionError and MemoryError included, as "different"."""
    from math_verify import verify

    gold = _parse(expected)
    if not gold:
        return "bad_ground_truth"
    return "equal" if verify(gold, _parse(answer), timeout_seconds=None) else "different"


def _parse(answer: str) -> list:
    """The answer as at most one sympy object; read whole or not at all, no number is picked out of the unreadable."""
    from latex2sympy2_extended.antlr_parser import PSParser
    from math_verify import LatexExtractionConfig, parse

    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):  # missing from its antlr 4.9.3 grammar: 50\% is unreadable
        PSParser.AtomContext.FUNC_GAMMA = lambda self: None
    boxed = [LatexExtractionConfig(boxed_match_priority=0)]
    text = f"\\boxed{{{answer}}}"
    return parse(text, boxed, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None)


def _has_room() -> bool:
    """Whether half of the memory limit is free, so that the next pair does not pay for this one."""
    try:
        mmap.mmap(-1, WORKER_BYTES // 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
