"""Whether a run moves: says so with numbers where it does not, and tells what is slow from what will never come.

verl's trainer asks TransferQueue for finished prompts until there are enough (ReplayBuffer.sample), for ever if one is
lost. A reward function, a tool or a checkpoint may take long, so that time alone ends a run only where it waits for
rollouts and nothing at all has happened to them for an hour.
"""

import inspect
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError

ASK_SECONDS = 15.0  # between two looks
ANSWER_SECONDS = 5.0  # within which vLLM's servers and the agent loop's workers say what they hold
SHOWN_CHARS = 300  # of an error
SAY_SECONDS = 600.0  # without progress, until the log says so; then after twice as long, and so on
LOST_LOOKS = 3  # in a row that find nobody at work on what the trainer waits for
IDLE_SECONDS = 3600.0  # in which no token was written and no response finished

STATES = ("pending", "running", "finished", "failure")  # of a prompt (replay_buffer.py)
PARTITIONS = ("train", "val")
MODULES = ("verl.trainer.ppo.v1", "recipe.egrsd")


@dataclass(frozen=True)
class Rollouts:
    """What can be seen of the rollouts that the trainer waits for."""

    prompts: tuple[int, ...]
    """How many are in each of STATES."""
    responses: int
    engines: tuple[tuple[int, int] | Exception, ...]
    """Of each vLLM server: requests in flight, tokens written for them; or why it did not say."""
    workers: tuple[int | Exception, ...]
    """Of each agent-loop worker: prompts that it works on; or why it did not say."""

    @property
    def done(self) -> int:
        return self.prompts[2] + self.prompts[3] + self.responses

    @property
    def engines_known(self) -> bool:
        return all(isinstance(engine, tuple) for engine in self.engines)

    @property
    def lost(self) -> str | None:
        """Why they can never finish, or None if they may."""
        died = [worker for worker in self.workers if isinstance(worker, ActorDiedError)]
        if died:
            return f"an agent-loop worker died, and its prompts with it ({_one_line(died[0])})"
        held = [engine[0] for engine in self.engines if isinstance(engine, tuple)]
        if self.workers and self.engines_known and not any((*held, *self.workers)):
            return "no agent-loop worker holds a prompt and vLLM holds no request, so nobody works on them"
        return None

    def __str__(self) -> str:
        prompts = ", ".join(f"{count} {state}" for count, state in zip(self.prompts, STATES, strict=True))
        engines = [f"{e[0]} ({e[1]} tokens)" if isinstance(e, tuple) else _one_line(e) for e in self.engines]
        workers = [str(worker) if isinstance(worker, int) else _one_line(worker) for worker in self.workers]
        return (
            f"prompts: {prompts}; responses finished: {self.responses}; requests in flight in each vLLM server: "
            f"{', '.join(engines)}; prompts held by each agent-loop worker: {', '.join(workers) or 'unknown'}"
        )


class Progress:
    """``look()`` every few seconds: a sentence if the run is stuck for good.

    Args:
        trainer: a verl V1 trainer.
        thread: id of the thread that trains.
    """

    def __init__(self, trainer: Any, thread: int):
        self._trainer, self._thread = trainer, thread
        self._asked = time.monotonic()
        self._place: tuple = ()
        self._broken = False
        self._moved(None)

    def look(self) -> str | None:
        if self._broken or time.monotonic() - self._asked < ASK_SECONDS:
            return None
        try:
            return self._look()
        except Exception as error:  # noqa: BLE001  another verl or vLLM; the watchdog's other duties go on
            self._broken = True
            print(f"EGRSD cannot tell from here on whether the run makes progress: {_one_line(error)}", flush=True)
            return None

    def _look(self) -> str | None:
        names, waits = standing(sys._current_frames()[self._thread], self._waiting())
        rollouts = seen(self._trainer) if waits else None
        self._asked = time.monotonic()
        place = (self._trainer.global_steps, *names)
        if place != self._place or (rollouts and self._has_moved(rollouts)):
            self._place = place
            self._moved(rollouts)
            return None
        return self._verdict(rollouts, self._asked - self._since)

    def _waiting(self) -> list[CodeType]:
        """Where the trainer waits for rollouts: for enough of them, and for the agent loop's workers to take
        prompts."""
        waiting = [type(self._trainer.replay_buffer).sample]
        if manager := getattr(self._trainer, "agent_loop_manager", None):  # there is none before training begins
            waiting.append(type(manager).generate_sequences)
        return [inspect.unwrap(function).__code__ for function in waiting]

    def _has_moved(self, rollouts: Rollouts) -> bool:
        """verl fills its counts anew at each poll, so that one may be seen too small, never too large."""
        return rollouts.done > self._done or (rollouts.engines_known and rollouts.engines != self._engines)

    def _moved(self, rollouts: Rollouts | None) -> None:
        self._since, self._say_after, self._lost = self._asked, SAY_SECONDS, 0
        self._done, self._engines = (rollouts.done, rollouts.engines) if rollouts else (0, ())

    def _verdict(self, rollouts: Rollouts | None, quiet: float) -> str | None:
        step, *names = self._place
        where = f"step {step} is in {' > '.join(dict.fromkeys(names))}, where nothing has moved for {quiet:.0f} s"
        if rollouts:
            where += f"; {rollouts}"
            self._lost = self._lost + 1 if rollouts.lost else 0
            if self._lost >= LOST_LOOKS:
                return f"the rollouts that the trainer waits for will not come: {rollouts.lost}. {where}."
            if rollouts.engines_known and quiet >= IDLE_SECONDS:
                return f"the rollouts that the trainer waits for do not come: no token, no response. {where}."
        if quiet >= self._say_after:
            self._say_after *= 2
            ends = f"is ended after {IDLE_SECONDS:.0f} s" if rollouts and rollouts.engines_known else "is left alone"
            print(f"EGRSD sees no progress: {where}. The run may be slow; it {ends}.", flush=True)
        return None


def standing(frame: FrameType | None, waiting: Collection[CodeType]) -> tuple[list[str], bool]:
    """Functions of verl's trainer and of ours that a thread is in, outermost first; whether one that waits is the
    last."""
    names: list[str] = []
    waits = False
    while frame:
        if frame.f_code in waiting:
            names, waits = [frame.f_code.co_name], True  # what it calls changes with every poll
        elif frame.f_globals.get("__name__", "").startswith(MODULES):
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names[::-1], waits


def seen(trainer: Any) -> Rollouts:
    """Reads the replay buffer's counts and asks vLLM's servers and the agent loop's workers what they hold."""
    buffer = trainer.replay_buffer
    counts = [getattr(buffer, f"{state}_keys", {}) for state in STATES]  # a custom sampler may have others
    prompts = tuple(sum(len(keys.get(name, ())) for name in PARTITIONS) for keys in counts)
    responses = sum(len(getattr(buffer, "partitions", {}).get(name, ())) for name in PARTITIONS)
    servers = [replica.servers[0] for replica in trainer.llm_server_manager.get_replicas()]
    workers = getattr(getattr(trainer, "agent_loop_manager", None), "agent_loop_workers", [])
    asked = [(server, _in_flight) for server in servers] + [(worker, _held) for worker in workers]
    refs = [actor.__ray_call__.remote(question) for actor, question in asked]
    ray.wait(refs, num_returns=len(refs), timeout=ANSWER_SECONDS)
    answers = tuple(map(_answer, refs))
    return Rollouts(prompts, responses, answers[: len(servers)], answers[len(servers) :])


def _in_flight(server: Any) -> tuple[int, int]:
    """Runs in a vLLM server: requests that are not finished, and the tokens written for them."""
    requests = list(server.engine.output_processor.request_states.values())
    return len(requests), sum(len(request.detokenizer.output_token_ids) for request in requests)


def _held(worker: Any) -> int:
    """Runs in an agent-loop worker: prompts that it works on."""
    return len(worker.background_tasks)


def _answer(ref: ray.ObjectRef) -> Any:
    try:
        return ray.get(ref, timeout=0)
    except Exception as error:  # noqa: BLE001  an answer, too: who died, who does not answer
        return error


def _one_line(error: Exception) -> str:
    if isinstance(error, GetTimeoutError):
        return f"no answer within {ANSWER_SECONDS:.0f} s"
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
