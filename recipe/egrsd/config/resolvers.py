"""Defaults that follow from other keys: the presets write them as ${egrsd_...}, so that the composed config shows the
value and the command line still wins.

Importing this module registers them.
"""

import os

from omegaconf import OmegaConf

from recipe.egrsd.config.derived import sends_adapter


def threads(ranks: int) -> str:
    """OMP_NUM_THREADS of the launching shell, or an equal share of the cores for each of that many ranks.

    The cores are those that this process may use: of a container, or under taskset.
    """
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // ranks))


# ${egrsd_threads:<ranks on a machine>}
OmegaConf.register_new_resolver("egrsd_threads", threads, replace=True)
# ${egrsd_pack:<tokens>,<prompt>,<response>}: so many tokens, or one row of that prompt and response if it is longer
OmegaConf.register_new_resolver(
    "egrsd_pack", lambda tokens, prompt, response: max(tokens, prompt + response), replace=True
)
# ${egrsd_for_adapter:<value with an adapter>,<value without>}
OmegaConf.register_new_resolver(
    "egrsd_for_adapter", lambda value, other, *, _root_: value if sends_adapter(_root_) else other, replace=True
)
