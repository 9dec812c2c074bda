"""The worker of pool.py: a process that imports the judge once and forks a child for each pipe that it is sent."""

import contextlib
import logging
import mmap
import os
import resource
import signal
import socket
from multiprocessing.connection import Connection

from recipe.egrsd.reward.judge import outcome

WORKER_BYTES = 1 << 30  # address space of a worker's child, which uses about 70 MiB
WARM_UP = [  # what these import, load and cache, every child has
    *[
        r"(x+1)^2",
        r"3+4i",
        r"\{1,\sqrt{2}\}",
        r"[1,2)\cup(3,\infty)",
        r"y=\frac{\pi}{6}x",
        r"\sin 2x",
        r"x>2",
        r"5\text{ cm}",
    ],
    r"\begin{pmatrix}1\\2\end{pmatrix}",
]


def _fork_children(requests: socket.socket) -> None:
    """The worker: forks a child for each pipe that it is sent and kills the one before; ends with its parent."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would free a dead child's id before we kill it
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    for answer in WARM_UP:
        outcome(answer, "x^2+2x+1")
        outcome(answer, answer.replace("2", "3"))
    while pipes := socket.recv_fds(requests, 1, 1)[1]:
        if (child := os.fork()) == 0:
            requests.close()
            _serve(Connection(pipes[0]))
            return
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
            verdict = outcome(expected, answer)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send((verdict, _has_room()))


def _has_room() -> bool:
    """Whether half of the memory limit is free, so that the next pair does not pay for this one."""
    with contextlib.suppress(OSError):
        mmap.mmap(-1, WORKER_BYTES // 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ).close()
        return True
    return False


if __name__ == "__main__":
    _fork_children(socket.socket(fileno=0))  # stdin, see pool._Worker.start
