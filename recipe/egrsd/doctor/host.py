"""What a run takes of a node besides its GPUs: Ray's CPUs, and the node's own memory, estimated as a GPU's is
(memory.py).

N ranks of the node. Not counted: pages of files, and what CUDA keeps for itself.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from recipe.egrsd import cpu
from recipe.egrsd.config import derived
from recipe.egrsd.config.teacher import MOVING_KINDS
from recipe.egrsd.doctor.case import Case, Finding, Level, graded
from recipe.egrsd.doctor.memory import GIB, Term, compute_width, held, phases, shards, width_of
from recipe.egrsd.doctor.shapes import Shapes, shapes
from recipe.egrsd.machines import slots, wandb_login

PROCESS, ENGINE = 0.6, 1.6
"""GiB of a process that has imported torch and verl, and of vLLM's three without weights and cache; measured on a CPU
(docs/performance.md), where CUDA's libraries are missing."""
OBJECT_STORE = 0.3
"""Share of a node's memory up to which Ray's object store may grow (ray/_private/ray_constants.py)."""


def cpus(case: Case) -> Iterator[Finding]:
    """What the run holds of Ray's, with verl's lines; against what Ray is told, or has here, which may be another
    machine."""
    config, known = case.config, slots.known_cpus(case.config)
    short, told = known is not None and known < slots.total(config), config.ray_kwargs.ray_init.num_cpus is not None
    has = "" if known is None else f"; Ray is told that it has {known}" if told else f"; this machine has {known}"
    refused = f", and a run would be refused. {slots.WAY_OUT}" if short else ""
    sources = "".join(
        f"\n  {summand.cpus} for {summand.holder}: {summand.source}" for summand in slots.cpu_slots(config)
    )
    yield Finding(graded(red=short and told, yellow=short), f"a run holds {slots.total(config)}{has}{refused}{sources}")


def logger(case: Case) -> Iterator[Finding]:
    """Yellow: the machine that will start the run may be another, with a login."""
    try:
        wandb_login.check(case.config)
    except ValueError as problem:
        yield Finding(Level.YELLOW, f"started here the run would be refused: {problem}")
    else:
        yield Finding(Level.GREEN, f"trainer.logger={case.config.trainer.logger} can write from here")


def memory(case: Case) -> Iterator[Finding]:
    """Red where the run is known to be meant for such a node: --host-gib says so, or a GPU here, or
    VERL_PLATFORM=cpu."""
    size, gib = shapes(case.model), case.host_gib or this_machine() / GIB
    trains_here = case.host_gib is not None or cpu.enabled() or torch.cuda.is_available()
    whose = "" if case.host_gib else ", this machine's (--host-gib for another)"
    for phase, terms in demands(case, size).items():
        needed = sum(term.size for term in terms) / GIB
        over, tight = needed > gib, needed > (1 - OBJECT_STORE) * gib
        hint = f": not all of the {OBJECT_STORE:.0%} is left that Ray's object store may take" if tight else ""
        hint = ": Ray ends processes of a node whose memory is full; take fewer ranks on a node" if over else hint
        has = f"about {needed:.1f} of {gib:.1f} GiB a node{whose}"
        text = f"{phase.removeprefix('host, ')}: {has}{hint} ({', '.join(map(str, terms))})"
        yield Finding(graded(red=over and trains_here, yellow=over or tight), text)
    yield Finding(Level.GREEN, _teacher(case.config))


def this_machine() -> int:
    """Bytes that it has, or that its container may take."""
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.exists() else "max"
    total = psutil.virtual_memory().total
    return min(total, int(allowed)) if allowed.isdigit() else total


def demands(case: Case, size: Shapes) -> dict[str, list[Term]]:
    """What a node holds at most while a run starts, and while it trains."""
    processes = _processes(case.config)
    return {
        "host, starting": [_loading(case, size), *processes],
        "host, training": [*_training(case, size), *processes],
    }


def _loading(case: Case, size: Shapes) -> Term:
    """The checkpoint, whole (transformer_impl.py:267): untied models are read by the first rank of a group of shards
    alone."""
    config, ranks = case.config, case.config.trainer.n_gpus_per_node
    tied = case.model.hf_config.get_text_config().tie_word_embeddings
    readers = ranks if tied else max(1, ranks // shards(config))
    name = "tied weights, whole on every rank" if tied else "weights, whole on one rank"
    return Term(
        name, width_of(config.actor_rollout_ref.actor.fsdp_config.model_dtype), f"P·{readers}", size.parameters, readers
    )


def _training(case: Case, size: Shapes) -> list[Term]:
    config, parts = case.config, case.config.actor_rollout_ref
    ranks, over = config.trainer.n_gpus_per_node, shards(config)
    found = _on_a_cpu(case, size) if cpu.enabled() else _offloaded(case, size)
    if derived.uses_reference(config):  # CPUOffloadPolicy (transformer_impl.py:453)
        width = width_of(parts.ref.fsdp_config.model_dtype)
        found.append(Term("reference model", width, f"P·{ranks}", size.parameters, ranks, shards=over))
    elif config.algorithm.egrsd.teacher.kind in MOVING_KINDS:
        found.append(Term("teacher's adapter", 4, f"A·{ranks}", size.trained, ranks, shards=over))
    found += _hidden_states(config, size)
    if "hf_model" in parts.actor.checkpoint.save_contents:
        found.append(
            Term("whole model while saving", width_of(parts.actor.fsdp_config.model_dtype), "P", size.parameters)
        )
    return found


def _hidden_states(config: Any, size: Shapes) -> list[Term]:
    """What the teacher's head was given at every token that a step may pull, in the trainer's process; where several
    readings are summed, one pass's and the sum."""
    egrsd, length = config.algorithm.egrsd, config.data.max_response_length
    if egrsd.divergence is None or egrsd.pull.coefficient == 0:
        return []
    one_a_problem = egrsd.pull.rows in ("shortest_correct", "longest_wrong")
    rows = config.data.train_batch_size * (1 if one_a_problem else config.actor_rollout_ref.rollout.n)
    width = compute_width(config) + 4 * (egrsd.privilege == "peers")
    return [Term("teacher's hidden states", width, "T·H", rows * min(egrsd.pull.tokens or length, length), size.hidden)]


def _offloaded(case: Case, size: Shapes) -> list[Term]:
    """What a GPU's own memory is spared."""
    config, rollout = case.config, case.config.actor_rollout_ref.rollout
    fsdp, ranks = config.actor_rollout_ref.actor.fsdp_config, config.trainer.n_gpus_per_node
    weights, adam, _ = held(config, size)
    found = [weights.times(ranks)] * bool(fsdp.param_offload) + [adam.times(ranks)] * bool(fsdp.optimizer_offload)
    lora = config.actor_rollout_ref.model.get("lora") or {}
    if derived.uses_lora(config) and not lora.get("merge"):
        # vLLM sleeps at level 1, which keeps its weights here: the sync of an adapter would not bring them back
        # (vllm_async_server.py:1289).
        engines = _engines(config)
        found.append(Term("sleeping vLLM's weights", width_of(rollout.dtype), f"P·{engines}", size.parameters, engines))
    return found


def _on_a_cpu(case: Case, size: Shapes) -> list[Term]:
    """The ranks' own memory in their largest phase, and vLLM's, which does not sleep."""
    config, ranks, engines = case.config, case.config.trainer.n_gpus_per_node, _engines(case.config)
    terms = max(phases(case, size).values(), key=lambda terms: sum(term.size for term in terms))
    env_vars = config.ray_kwargs.ray_init.runtime_env.env_vars
    cache = float(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or env_vars.get("VLLM_CPU_KVCACHE_SPACE") or 4)
    width = width_of(config.actor_rollout_ref.rollout.dtype)
    return [
        *(term.times(ranks) for term in terms),
        Term("vLLM's weights", width, f"P·{engines}", size.parameters, engines),
        Term("vLLM's cache", cache * GIB, f"{engines}", engines),
    ]


def _engines(config: Any) -> int:
    """Replicas of vLLM on a node, or parts of one."""
    return max(1, config.trainer.n_gpus_per_node // config.actor_rollout_ref.rollout.tensor_model_parallel_size)


def _processes(config: Any) -> list[Term]:
    """Workers are dealt out over the nodes; the trainer, TransferQueue's controller and a storage unit may share
    one."""
    workers = config.actor_rollout_ref.rollout.agent.num_workers + config.reward.num_workers
    processes = -(-workers // config.trainer.nnodes) + 3 + config.trainer.n_gpus_per_node
    engines = _engines(config)
    return [
        Term("processes", PROCESS * GIB, f"{processes}", processes),
        Term("vLLM's processes", ENGINE * GIB, f"{engines}", engines),
    ]


def _teacher(config: Any) -> str:
    kind = config.algorithm.egrsd.teacher.kind
    if derived.uses_reference(config) or kind in MOVING_KINDS:
        return f"{kind} teacher: weights of its own in host memory"
    return f"{kind} teacher: the student{' with its adapter off' if kind == 'frozen' else ''}, no weights of its own"
