"""The watchdog of a run that is stuck: each of its rules, on verl's own replay buffer and TransferQueue."""

import re
import threading
import time
from types import SimpleNamespace

import pytest
import ray
import transfer_queue as tq
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from recipe.egrsd.rollout import progress
from recipe.egrsd.rollout.progress import Progress, Rollouts


@ray.remote
class Server:
    """What the watchdog asks of a vLLM server, without the engine."""

    async def __init__(self):
        request = SimpleNamespace(detokenizer=SimpleNamespace(output_token_ids=[1, 2, 3]))
        self.engine = SimpleNamespace(output_processor=SimpleNamespace(request_states={}))
        self.request = request

    async def write(self, tokens: int) -> None:
        self.request.detokenizer.output_token_ids = [7] * tokens
        self.engine.output_processor.request_states = {"request": self.request} if tokens else {}


class Manager:
    """verl's hands prompts to its workers."""

    def __init__(self, workers: list):
        self.agent_loop_workers = workers

    def generate_sequences(self, prompts: None) -> None:
        ray.get([worker.hold.remote(1) for worker in self.agent_loop_workers])


@ray.remote
class Worker:
    """An agent-loop worker that holds so many prompts."""

    async def __init__(self, prompts: int):
        self.background_tasks = set(range(prompts))

    async def hold(self, prompts: int) -> None:
        self.background_tasks = set(range(prompts))

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  as an agent loop with a call that does not await


@pytest.fixture(scope="module")
def cluster():
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    yield
    tq.close()
    ray.shutdown()


@pytest.fixture
def waiting(cluster, monkeypatch):
    """A trainer whose thread waits in verl's own ReplayBuffer.sample for two prompts, of which one has finished."""
    for name, seconds in {"ASK_SECONDS": 0.0, "ANSWER_SECONDS": 2.0, "SAY_SECONDS": 0.5, "IDLE_SECONDS": 3.0}.items():
        monkeypatch.setattr(progress, name, seconds)
    buffer = ReplayBuffer("sync", OmegaConf.create({}), None, "drop", OmegaConf.create({}), poll_interval=0.1)
    server, workers = Server.remote(), [Worker.remote(0), Worker.remote(1)]
    ray.get([server.write.remote(0), *(worker.__ray_ready__.remote() for worker in workers)])
    trainer = SimpleNamespace(
        global_steps=3,
        replay_buffer=buffer,
        llm_server_manager=SimpleNamespace(get_replicas=lambda: [SimpleNamespace(servers=[server])]),
        agent_loop_manager=Manager(workers),
    )
    tags = [{"is_prompt": True, "status": status, "global_steps": 3} for status in ("finished", "running")]
    tq.kv_batch_put(keys=["a", "b"], partition_id="train", tags=tags)
    thread = threading.Thread(
        target=buffer.sample, kwargs={"global_steps": 3, "partition_id": "train", "batch_size": 2}
    )
    thread.start()
    yield SimpleNamespace(trainer=trainer, server=server, workers=workers, progress=Progress(trainer, thread.ident))
    # The trajectory first: verl refuses two finished prompts without one, and may look between the two lines.
    tq.kv_batch_put(keys=["a_0_0"], partition_id="train", tags=[{"status": "success", "seq_len": 1}])
    tq.kv_batch_put(keys=["b"], partition_id="train", tags=[{"status": "finished"}])
    thread.join(10)
    tq.kv_clear(keys=["a", "b", "a_0_0"], partition_id="train")


def looks(watched: Progress, seconds: float) -> str | None:
    """What it says within that time, with five looks a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if stuck := watched.look():
            return stuck
        time.sleep(0.2)
    return None


def test_a_prompt_that_nobody_works_on_is_lost(waiting):
    """verl#7155: it never leaves "running"."""
    assert looks(waiting.progress, 1.5) is None  # a worker holds it
    ray.get(waiting.workers[1].hold.remote(0))
    stuck = looks(waiting.progress, 10)
    assert (
        "will not come: no agent-loop worker holds a prompt and vLLM holds no request, so nobody works on them" in stuck
    )
    assert "step 3 is in sample" in stuck
    assert "prompts: 0 pending, 1 running, 1 finished, 0 failure; responses finished: 0" in stuck
    assert "in each vLLM server: 0 (0 tokens); prompts held by each agent-loop worker: 0, 0" in stuck


def test_a_dead_worker_is_named(waiting):
    ray.kill(waiting.workers[0])
    stuck = looks(waiting.progress, 10)
    assert "will not come: an agent-loop worker died, and its prompts with it (ActorDiedError: " in stuck


def test_what_is_silent_for_long_is_said_and_then_ended(waiting, capsys):
    stuck = looks(waiting.progress, 20)
    assert re.search(
        r"do not come: no token, no response. step 3 is in sample, where nothing has moved for [34] s; ", stuck
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3  # after 0.5, 1 and 2 seconds
    pattern = r"EGRSD sees no progress: step 3 is in sample, .* The run may be slow; it is ended after 3 s\."
    assert all(re.fullmatch(pattern, line) for line in lines)


def test_tokens_and_responses_are_progress(waiting, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SAY_SECONDS", 2.0)
    for tokens in range(1, 12):
        ray.get(waiting.server.write.remote(tokens))
        assert looks(waiting.progress, 0.4) is None
    ray.get(waiting.server.write.remote(0))
    for number in range(11):
        tq.kv_batch_put(keys=[f"b_{number}_0"], partition_id="train", tags=[{"status": "success", "seq_len": 1}])
        assert looks(waiting.progress, 0.4) is None
    assert capsys.readouterr().out == ""
    tq.kv_clear(keys=[f"b_{number}_0" for number in range(11)], partition_id="train")


def test_a_worker_that_cannot_answer_is_not_lost(waiting, monkeypatch, capsys):
    monkeypatch.setattr(progress, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(progress, "IDLE_SECONDS", 60.0)
    ray.get(waiting.workers[1].hold.remote(0))
    blocked = waiting.workers[1].block.remote(4)
    assert looks(waiting.progress, 3) is None
    assert "prompts held by each agent-loop worker: 0, no answer within 0 s" in capsys.readouterr().out
    ray.get(blocked)


def test_a_worker_that_takes_no_prompts_is_waited_for_as_rollouts_are(waiting, monkeypatch):
    monkeypatch.setattr(progress, "ANSWER_SECONDS", 0.1)
    blocked = waiting.workers[0].block.remote(6)
    thread = threading.Thread(target=waiting.trainer.agent_loop_manager.generate_sequences, args=(None,))
    thread.start()
    stuck = looks(Progress(waiting.trainer, thread.ident), 5)
    assert (
        "do not come: no token, no response. step 3 is in generate_sequences, where nothing has moved for 3 s" in stuck
    )
    assert "prompts held by each agent-loop worker: no answer within 0 s, 1" in stuck
    ray.get(blocked)
    thread.join()


def test_what_cannot_be_asked_is_said_once_and_ends_nothing(waiting, capsys):
    waiting.trainer.llm_server_manager = None
    assert looks(waiting.progress, 1) is None
    said = capsys.readouterr().out
    assert said.count("EGRSD cannot tell from here on whether the run makes progress: AttributeError") == 1


def test_elsewhere_it_is_only_said(waiting, monkeypatch, capsys):
    """A thread that is in none of verl's functions stands for one in a long checkpoint or update."""
    waiting.progress._thread = threading.get_ident()
    assert looks(waiting.progress, 4) is None
    assert "The run may be slow; it is left alone." in capsys.readouterr().out


def test_a_server_that_does_not_say_keeps_the_run(waiting, capsys):
    class Other:
        __ray_call__ = waiting.workers[0].__ray_call__  # an actor without an engine, as one of another vLLM

    waiting.trainer.llm_server_manager.get_replicas = lambda: [SimpleNamespace(servers=[Other])]
    ray.get(waiting.workers[1].hold.remote(0))
    assert looks(waiting.progress, 4) is None
    assert "vLLM server: RayTaskError(AttributeError)" in capsys.readouterr().out


def test_lost_is_what_nobody_holds():
    def lost(engines, workers):
        return Rollouts((0, 1, 1, 0), 4, engines, workers).lost

    gone = TimeoutError("no answer")
    assert lost(((0, 0), (0, 0)), (0, 0))
    assert lost(((0, 0), (1, 0)), (0,)) is lost(((0, 0),), (0, 1)) is None
    assert lost(((0, 0),), (0, gone)) is lost((gone,), (0,)) is lost(((0, 0),), ()) is None  # somebody did not say
