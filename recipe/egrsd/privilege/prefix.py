"""Words with which the assistant's turn begins, the student's and the teacher's: algorithm.egrsd.assistant_prefix.

They are put into the chat template, behind the generation prompt, so that whoever writes a prompt writes them: verl's
agent loop, the data set, validation, and whoever loads the tokenizer of a checkpoint. They belong to the prompt:
nothing is trained on them.
"""

import json
from collections.abc import Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf, open_dict

from recipe.egrsd.privilege.texts import refuse_control_tokens

KEY = "algorithm.egrsd.assistant_prefix"
MARK = "{# assistant_prefix of egrsd #}"
"""Where a template goes on with such words."""
OPEN = "<think>"
SWITCHES = (
    "set data.apply_chat_template_kwargs.enable_thinking and algorithm.egrsd.teacher.enable_thinking to true, or drop "
    "the words"
)
PROBE = [{"role": "user", "content": "1 + 1?"}]


def think_state(end: str) -> str:
    """closed: a prompt with this end stands behind a think block; open: inside one; none: the model may begin one."""
    behind = end.rsplit(OPEN, 1)
    if len(behind) == 1:
        return "closed" if "</think>" in end else "none"
    return "closed" if "</think>" in behind[1] else "open"


def template_with(tokenizer: Any, words: str, *, switches: Sequence[dict[str, Any]]) -> str:
    """The tokenizer's chat template, whose generation prompt goes on with the words, inside the thoughts of a model
    that thinks. One that has the words already, as a checkpoint's, is left as it is.

    Args:
        switches: what the template is told in the prompts that are to have the words.

    Raises:
        ValueError: if the template has other words, closes the thoughts before them, or opens them for some prompts
            only; if it does not write them as they are, or they hold a control token.
    """
    if not isinstance(tokenizer.chat_template, str):
        kind = type(tokenizer.chat_template).__name__
        raise ValueError(f"{KEY} needs one chat template, and the tokenizer's is {kind}; drop the words.")
    refuse_control_tokens(tokenizer, words, where=KEY)
    base, mark, _ = tokenizer.chat_template.partition(MARK)
    states = {think_state(_written(tokenizer, base, **switch)) for switch in switches}
    if states not in ({"open"}, {"none"}):
        raise ValueError(
            f"{KEY} begins the assistant's turn, where the chat template leaves the think block "
            f"{' and '.join(sorted(states))}; {SWITCHES}."
        )
    begun = f"{OPEN}\n{words}" if states == {"none"} and OPEN in base else words
    literal = json.dumps(begun, ensure_ascii=False)
    extended = f"{base.removesuffix(chr(10))}{MARK}{{% if add_generation_prompt %}}{{{{ {literal} }}}}{{% endif %}}"
    if mark and tokenizer.chat_template != extended:
        raise ValueError(f"{KEY}={words!r}: the model's chat template has other words already; drop those given here.")
    for switch in switches:
        written = _written(tokenizer, extended, **switch)
        if written != _written(tokenizer, base, **switch) + begun:
            raise ValueError(
                f"{KEY}={words!r}: the chat template does not go on with it, and ends in {written[-60:]!r}."
            )
    return extended


def use(config: DictConfig) -> None:
    """Puts the extended template into ``actor_rollout_ref.model.custom_chat_template``, which verl's tokenizers take
    (workers/config/model.py:173, agent_loop.py:540)."""
    from verl.utils.config import omega_conf_to_dataclass  # an evaluation needs no verl

    words = config.algorithm.egrsd.assistant_prefix
    if words is None:
        return
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    if model.processor is not None:
        raise ValueError(f"{KEY} is for models of text, and this one has a processor with a chat template of its own.")
    student = cast(dict[str, Any], OmegaConf.to_container(config.data.apply_chat_template_kwargs, resolve=True))
    teacher = student | {"enable_thinking": config.algorithm.egrsd.teacher.enable_thinking}
    extended = template_with(model.tokenizer, words, switches=[student, teacher])
    with open_dict(config):
        config.actor_rollout_ref.model.custom_chat_template = extended


def _written(tokenizer: Any, template: str, **switch: Any) -> str:
    return tokenizer.apply_chat_template(
        PROBE, add_generation_prompt=True, tokenize=False, chat_template=template, **switch
    )
