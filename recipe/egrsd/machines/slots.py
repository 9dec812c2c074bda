"""The CPUs that a run takes from Ray, counted before it asks: verl waits for ever, without a word, for one that Ray
lacks.

They are slots, not cores. An actor that asks for num_cpus=n holds n of them for as long as it lives, and so does a
placement group; one that names no number (the trainer, vLLM's servers, agent loop and reward workers) holds none. All
are taken at the start and kept, so that their sum is also the most that is held at any time.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import wrapt

CPUS_A_RANK = 3
UNITS_KEY = "transfer_queue.backend.SimpleStorage.num_data_storage_units"
WAY_OUT = (
    "Ray counts CPUs and reserves none, so it may be told more than the machine has: ray_kwargs.ray_init.num_cpus=… "
    "here, ray start --num-cpus=… on a cluster."
)


class Slots(NamedTuple):
    """One summand."""

    cpus: int
    holder: str
    source: str
    """file:line in verl 0.9.1 (0.9.0 holds the same) or TransferQueue 0.1.11."""


def cpu_slots(config: Any) -> list[Slots]:
    """Everything that holds CPUs in a run with this config, resolved; nothing is asked, nothing imported."""
    trainer, reward = config.trainer, config.reward
    ranks, pool = trainer.n_gpus_per_node * trainer.nnodes, reward.reward_model
    reward_ranks = pool.n_gpus_per_node * pool.nnodes if pool.enable_resource_pool else 0
    graders = reward.num_workers**2 if reward.reward_manager.name == "remote" else 0
    group = "verl/single_controller/ray/base.py:192"
    every = [
        Slots(1, "TransferQueue's controller", "transfer_queue/controller.py:943"),
        Slots(_units(config), f"its storage units ({UNITS_KEY})", "transfer_queue/storage/simple_storage.py:722"),
        Slots(CPUS_A_RANK * ranks, f"trainer.nnodes × n_gpus_per_node = {ranks} rank(s), {CPUS_A_RANK} each", group),
        Slots(CPUS_A_RANK * reward_ranks, f"the reward model's {reward_ranks} rank(s), {CPUS_A_RANK} each", group),
        Slots(graders, "reward.num_workers² graders", "verl/experimental/reward_loop/reward_manager/remote.py:26"),
    ]
    return [slots for slots in every if slots.cpus]


def total(config: Any) -> int:
    """Sum of ``cpu_slots``."""
    return sum(slots.cpus for slots in cpu_slots(config))


def spelt(config: Any) -> str:
    """The sum with its summands."""
    return f"{total(config)} = " + " + ".join(f"{slots.cpus} for {slots.holder}" for slots in cpu_slots(config))


def joins_cluster(config: Any) -> bool:
    """True if ray.init of this process is going to find a running Ray. What the runtime environment tells Ray's workers
    of RAY_ADDRESS comes too late for it."""
    address = config.ray_kwargs.ray_init.get("address")
    if address in (None, "", "auto"):  # ray/_private/worker.py:1689
        address = os.environ.get("RAY_ADDRESS") or address
    # Where it then looks for a cluster (ray/_private/services.py, get_ray_address_from_environment).
    current = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    return current.exists() if not address else address != "local"


def known_cpus(config: Any) -> int | None:
    """What Ray will have, at most, as far as that is known before it starts; None if the run may join a cluster."""
    ray_init = config.ray_kwargs.ray_init
    if ray_init.get("num_cpus") is not None:
        return ray_init.num_cpus
    return None if joins_cluster(config) else os.cpu_count()


def check_before_ray(config: Any) -> None:
    """
    Raises:
        RuntimeError: if Ray is going to have fewer CPUs than the run holds.
    """
    cpus = known_cpus(config)
    if cpus is not None:
        _require(config, cpus)


def check(config: Any, nodes: Sequence[Mapping[str, Any]]) -> None:
    """The same on the nodes of a running Ray.

    Args:
        nodes: ray.nodes().

    Raises:
        RuntimeError: if they have too few CPUs in all, if one that is to hold storage units has none left for them, or
            if too few have enough for the ranks of a node.
    """
    alive = sorted((node for node in nodes if node["Alive"]), key=lambda node: node["NodeID"])
    left = [node["Resources"].get("CPU", 0) for node in alive]
    _require(config, sum(left))
    needed = config.transfer_queue.backend.SimpleStorage.get("required_node_resource")
    takers = [i for i, node in enumerate(alive) if not needed or node["Resources"].get(needed, 0) > 0]
    for unit in range(
        _units(config) if takers else 0
    ):  # in this order, whatever CPUs (transfer_queue/utils/common.py:48)
        left[takers[unit % len(takers)]] -= 1
    for node, cpus in zip(alive, left, strict=True):
        if cpus < 0:
            raise RuntimeError(
                f"Ray node {node['NodeManagerAddress']} has {node['Resources'].get('CPU', 0):g} CPUs, {-cpus:g} fewer "
                f"than TransferQueue puts storage units there ({UNITS_KEY}): it would wait for ever. {WAY_OUT}"
            )
    for_ranks = CPUS_A_RANK * config.trainer.n_gpus_per_node
    able = sum(cpus >= for_ranks for cpus in left)
    if able < config.trainer.nnodes:
        raise RuntimeError(
            f"{able} of {len(alive)} Ray node(s) have the {for_ranks} CPUs left that trainer.n_gpus_per_node="
            f"{config.trainer.n_gpus_per_node} ranks hold, {CPUS_A_RANK} each, and "
            f"trainer.nnodes={config.trainer.nnodes} must: verl would wait for ever. {WAY_OUT}"
        )


def check_when_ray_has_started(config: Any) -> None:
    """Makes ray.init of this process, verl's command line, look at what it found; too few CPUs end the process on
    one line."""
    import ray  # here, where verl has imported it anyway

    @wrapt.patch_function_wrapper(ray, "init")
    def init_and_check(wrapped, _, args, kwargs):
        started = wrapped(*args, **kwargs)
        try:
            check(config, ray.nodes())
        except RuntimeError as problem:
            ray.shutdown()
            raise SystemExit(f"EGRSD: {problem}") from None
        return started


def _require(config: Any, cpus: float) -> None:
    if cpus < total(config):
        raise RuntimeError(
            f"Ray has {cpus:g} CPUs and the run holds {spelt(config)}: verl would wait for the rest for ever. {WAY_OUT}"
        )


def _units(config: Any) -> int:
    backend = config.transfer_queue.backend
    return backend.SimpleStorage.num_data_storage_units if backend.storage_backend == "SimpleStorage" else 0
