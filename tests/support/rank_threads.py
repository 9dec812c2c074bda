"""Prints how many threads torch has in an actor placed as verl places its ranks, in the Ray that a CPU run starts.

python tests/support/rank_threads.py
"""

import ray
import torch
from composing import composed
from omegaconf import OmegaConf
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from recipe.egrsd.hydra_plugin import Validation
from recipe.egrsd.machines.slots import CPUS_A_RANK


class Rank:
    """Stands for verl's worker: it asks for a part of a GPU and for no CPU (single_controller/ray/base.py:675)."""

    def threads(self) -> int:
        return torch.get_num_threads()


def main() -> None:
    config = composed()
    Validation().on_run_start(config)
    ray.init(**OmegaConf.to_container(config.ray_kwargs.ray_init), log_to_driver=False)
    group = placement_group([{"CPU": CPUS_A_RANK, "GPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    rank = ray.remote(Rank).options(num_gpus=1 / CPUS_A_RANK, scheduling_strategy=strategy).remote()
    print("threads", ray.get(rank.threads.remote()))


if __name__ == "__main__":
    main()
