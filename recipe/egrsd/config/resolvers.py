"""Defaults that follow from other keys: the presets write them as ${egrsd_...}, so that the composed config shows the
value and the command line still wins.

Importing this module registers them.
"""

from omegaconf import OmegaConf

from recipe.egrsd.config.derived import sends_adapter

# ${egrsd_pack:<tokens>,<prompt>,<response>}: so many tokens, or one row of that prompt and response if it is longer
OmegaConf.register_new_resolver(
    "egrsd_pack", lambda tokens, prompt, response: max(tokens, prompt + response), replace=True
)
# ${egrsd_for_adapter:<value with an adapter>,<value without>}
OmegaConf.register_new_resolver(
    "egrsd_for_adapter", lambda value, other, *, _root_: value if sends_adapter(_root_) else other, replace=True
)
