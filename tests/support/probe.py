"""Loaded in every process of a test run (VERL_USE_EXTERNAL_MODULES): keeps what the trainer saw, breaks things when
told to."""

import json
import os
import signal
import threading
from pathlib import Path

import psutil
import ray
import torch
import transfer_queue as tq
import wrapt

FIELDS = [
    "uid", "teacher_prompt_ids", "prompts", "responses", "response_mask", "teacher_mask", "rollout_log_probs",
    "old_log_probs", "teacher_log_probs", "teacher_entropy", "advantages", "rm_scores",
]  # fmt: skip


@wrapt.when_imported("recipe.egrsd.trainer")
def _keep_batches(module) -> None:
    folder = os.environ.get("EGRSD_PROBE")
    if not folder:
        return
    update_actor = module.EgrsdMixin._update_actor

    def update_and_keep(self, batch, metrics):
        fields = [field for field in FIELDS if field != "old_log_probs" or self.student_scores_needed]
        fields += ["contrast_log_probs"] * self.egrsd.contrasts
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        kept = {
            field: [row.clone() for row in data[field].unbind()]
            if isinstance(data[field], torch.Tensor)
            else list(data[field])
            for field in fields
        }
        kept |= {
            "is_padding": [tag.get("is_padding", False) for tag in batch.tags],
            **self.of_batch,
        }
        kept |= {"baseline": self.baseline.state_dict()}
        kept |= {"cpus": {"all": ray.cluster_resources()["CPU"], "free": ray.available_resources().get("CPU", 0)}}
        result = update_actor(self, batch, metrics)
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.save({**kept, "metrics": dict(metrics)}, Path(folder) / f"{self.global_steps}.pt")
        return result

    module.EgrsdMixin._update_actor = update_and_keep


@wrapt.when_imported("verl.trainer.ppo.v1.trainer_base")
def _disturb_old_log_probs(module) -> None:
    """EGRSD_NOISE=nats adds so much to every old_log_prob that verl's scoring pass writes: whoever trains on them shows
    it.

    A GPU computes them with such a noise, because the pass packs other rows together than the update; a CPU does not.
    """
    if "EGRSD_NOISE" not in os.environ:
        return
    compute = module.PPOTrainer._compute_old_log_prob

    def compute_and_disturb(self, batch, metrics):
        batch = compute(self, batch, metrics)
        where = {"keys": batch.keys, "partition_id": batch.partition_id}
        data = tq.kv_batch_get(**where, select_fields=["old_log_probs"])
        data["old_log_probs"] = data["old_log_probs"] + float(os.environ["EGRSD_NOISE"])
        tq.kv_batch_put(**where, fields=data.select("old_log_probs"))
        return batch

    module.PPOTrainer._compute_old_log_prob = compute_and_disturb


@wrapt.when_imported("recipe.egrsd.teacher.worker")
def _keep_places(module) -> None:
    """rank_R.json: on which Ray node that rank runs, and whose code."""
    folder = os.environ.get("EGRSD_PROBE")
    if not folder:
        return

    @wrapt.patch_function_wrapper(module.EgrsdWorker, "init_model")
    def init_and_keep(wrapped, worker, args, kwargs):
        Path(folder).mkdir(parents=True, exist_ok=True)
        place = {"node": ray.get_runtime_context().get_node_id(), "code": module.__file__}
        (Path(folder) / f"rank_{worker.rank}.json").write_text(json.dumps(place))
        return wrapped(*args, **kwargs)


@wrapt.when_imported("recipe.egrsd.trainer")
def _kill_on_request(module) -> None:
    """EGRSD_KILL=method:step:seconds kills the trainer's process that long after it entered the method in that step."""
    if "EGRSD_KILL" not in os.environ:
        return
    name, step, seconds = os.environ["EGRSD_KILL"].split(":")
    method = getattr(module.EgrsdMixin, name)

    def die_in(self, *args, **kwargs):
        if self.global_steps == int(step):
            threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL)).start()
        return method(self, *args, **kwargs)

    setattr(module.EgrsdMixin, name, die_in)


@wrapt.when_imported("recipe.egrsd.trainer")
def _kill_the_engine_on_request(module) -> None:
    """EGRSD_KILL_ENGINE=method:step kills the vLLM engines of this run when the trainer enters the method in that
    step."""
    if "EGRSD_KILL_ENGINE" not in os.environ:
        return
    name, step = os.environ["EGRSD_KILL_ENGINE"].split(":")
    method = getattr(module.EgrsdSync, name)

    def kill_engines_first(self, *args, **kwargs):
        if self.global_steps == int(step):
            for pid in engines_of_this_run():
                os.kill(pid, signal.SIGKILL)
            print("The engines were killed.")
        return method(self, *args, **kwargs)

    setattr(module.EgrsdSync, name, kill_engines_first)


def engines_of_this_run() -> list[int]:
    """Process ids below this run's raylet, which started this process, too; runs beside this one have engines of
    their own."""
    return [child.pid for child in psutil.Process(os.getppid()).children(recursive=True) if "EngineCor" in child.name()]


@wrapt.when_imported("recipe.egrsd.cpu.engine")
def _hide_our_engine(module) -> None:
    """EGRSD_HIDE_ENGINE=1 leaves verl's own engine as the only one, which it then takes without a word."""
    if os.environ.get("EGRSD_HIDE_ENGINE"):
        engines = module.EngineRegistry._engines["language_model"]["fsdp2"]
        engines["cpu"] = engines["cuda"]
        del engines[("cpu", module.VENDOR)]


@wrapt.when_imported("recipe.egrsd.cpu.engine")
def _poison_the_reference(module) -> None:
    if not os.environ.get("EGRSD_POISON"):
        return
    initialize = module.CpuEgrsdEngine.initialize

    def initialize_and_poison(self):
        initialize(self)
        if self.engine_config.forward_only:
            with torch.no_grad():
                self.module.lm_head.weight.fill_(torch.nan)

    module.CpuEgrsdEngine.initialize = initialize_and_poison


@wrapt.when_imported("verl.workers.rollout.vllm_rollout.utils")
def _break_sync(module) -> None:
    if os.environ.get("EGRSD_BREAK_SYNC"):

        def receive(self, *args, **kwargs):
            raise RuntimeError("this engine was told to break")

        module.vLLMColocateWorkerExtension.update_weights_from_ipc = receive


@wrapt.when_imported("recipe.egrsd.rollout.progress")
def _be_impatient(module) -> None:
    """EGRSD_WATCH=NAME=seconds,... sets what the watchdog waits for."""
    for setting in filter(None, os.environ.get("EGRSD_WATCH", "").split(",")):
        name, seconds = setting.split("=")
        assert hasattr(module, name)
        setattr(module, name, float(seconds))


@wrapt.when_imported("verl.trainer.ppo.v1.agent_loop_tq")
def _lose_a_prompt(module) -> None:
    """EGRSD_LOSE_PROMPT=step: the agent loop starts a prompt of that step, and nothing more is ever heard of it."""
    if "EGRSD_LOSE_PROMPT" not in os.environ:
        return
    worker = module.AgentLoopWorkerTQ.__ray_metadata__.modified_class
    run_prompt, step, lost = worker._run_prompt, int(os.environ["EGRSD_LOSE_PROMPT"]), []

    async def run_or_lose(self, prompt, *args, trajectory, **kwargs):
        if trajectory["step"] != step or lost:
            return await run_prompt(self, prompt, *args, trajectory=trajectory, **kwargs)
        lost.append(prompt["uid"])
        await tq.async_kv_put(key=prompt["uid"], partition_id="train", tag={"status": "running"})
        return None

    worker._run_prompt = run_or_lose
