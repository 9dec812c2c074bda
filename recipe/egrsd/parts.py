"""The parts that a config names: looked up when they are named, not when they are first used, hours later on another
machine.

Estimator, reward manager and function, data set, tools, agent loops, sampler. verl's own loaders do it, and a part that
stays verl's or ours costs nothing.
"""

import importlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.reward import get_custom_reward_fn, resolve_reward_manager_cls
from verl.utils.dataset.rl_dataset import get_dataset_class
from verl.utils.import_utils import import_external_libs, load_class_from_fqn, load_extern_object

from recipe.egrsd import token_weight
from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.config.strict import leaves, one_line, resolved, shown
from recipe.egrsd.privilege import prompts
from recipe.egrsd.privilege.dataset import EgrsdDataset
from recipe.egrsd.token_weight import trial

OLD_REWARD_NODES = ("custom_reward_function", "reward_model", "sandbox_fusion")
MARK = "egrsd looks where this goes"
ROLLOUT = "actor_rollout_ref.rollout"


def check(config: DictConfig, egrsd: EgrsdConfig) -> None:
    """ValueError for the first part that is not there, or that EGRSD cannot work with; names the key and the way
    out."""
    _check_old_reward_keys(config)
    _check_rollouts(config)
    _check_reward(config, egrsd)
    for key, look_up in LOOK_UPS.items():
        value = OmegaConf.select(config, key)
        if value not in (None, ""):
            _tried(key, value, "cannot be loaded", lambda: look_up(config, value))  # noqa: B023  called at once
    if not issubclass(get_dataset_class(config.data), EgrsdDataset):
        raise ValueError(
            f"data.custom_cls.name={config.data.custom_cls.name} is no EgrsdDataset, which adds the teacher's prompts; "
            "derive it from recipe.egrsd.privilege.dataset.EgrsdDataset (docs/modes.md)."
        )
    if egrsd.advantage == config.algorithm.adv_estimator:  # under which the trainer registers its own baseline
        key = f"algorithm.egrsd.advantage={egrsd.advantage}"
        raise ValueError(f"{key} fails: that name stands for the running baseline; say running, or a verl estimator.")
    if egrsd.advantage != "running":
        fault = "fails on two groups of made-up rewards"
        _tried("algorithm.egrsd.advantage", egrsd.advantage, fault, lambda: _try_estimator(config))
    _tried(token_weight.KEY, egrsd.token_weight, "cannot be loaded", lambda: token_weight.look_up(egrsd.token_weight))
    token_weight.require_gate(egrsd)
    token_weight.require_contrast(egrsd)
    token_weight.require_token_mean(egrsd, config.actor_rollout_ref.actor.loss_agg_mode)
    _tried(token_weight.KEY, egrsd.token_weight, "fails on made-up responses", lambda: trial.try_out(egrsd))
    if template := egrsd.teacher.template:
        _tried("algorithm.egrsd.teacher.template", template, "cannot be used", lambda: _try_template(egrsd, template))


def _tried(key: str, value: Any, fault: str, action: Callable[[], Any]) -> None:
    try:
        action()
    except Exception as error:  # whatever a part of the user's own raises
        cause = f" ({one_line(error.__cause__)})" if error.__cause__ else ""  # verl's loader names the file alone
        reason = one_line(error).rstrip(".") + cause.rstrip(".")
        raise ValueError(f"{key}={shown(value)} {fault}: {reason}; mend it, or drop that override.") from error


def _check_old_reward_keys(config: DictConfig) -> None:
    """verl's main_ppo still has them in its config and reads none; its own migration says what they are called now.

    One that says what holds anyway, as reward_model.enable=False does, is let through.
    """
    values = {node: resolved(config).get(node) for node in OLD_REWARD_NODES}
    if given := {key: value for key, value in leaves(values) if value not in (None, {})}:
        before, after = dict(leaves(resolved(config)["reward"], "reward")), _migrated(config, given)
        wrong = [key for key, value in given.items() if not _holds(config, key, value)]
        new = [
            f"{key}={shown(value)}" for key, value in after.items() if value is not None and before.get(key) != value
        ]
        if wrong:
            raise ValueError(
                f"{wrong[0]}={shown(given[wrong[0]])} is an old key, which verl's main_ppo does not read; say "
                f"{' '.join(new) or 'it under reward'} instead (with + in front where a key is new)."
            )


def _migrated(config: DictConfig, old: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of the reward node as verl would make them of these old keys alone."""
    from verl.experimental.reward_loop import migrate_legacy_reward_impl  # seconds, for who types such a key

    copy = deepcopy(config)
    OmegaConf.set_struct(copy, False)
    for key, _ in leaves({node: resolved(config).get(node) for node in OLD_REWARD_NODES}):
        OmegaConf.update(copy, key, old.get(key))
    return dict(leaves(resolved(migrate_legacy_reward_impl(copy))["reward"], "reward"))


def _holds(config: DictConfig, key: str, value: Any) -> bool:
    """True if the key that verl makes of the old one has that value without it."""
    marked = [name for name, found in _migrated(config, {key: MARK}).items() if found == MARK]
    return bool(marked) and all(OmegaConf.select(config, name) == value for name in marked)


def _check_rollouts(config: DictConfig) -> None:
    if config.actor_rollout_ref.rollout.name != "vllm":
        raise ValueError(
            f"{ROLLOUT}.name={shown(config.actor_rollout_ref.rollout.name)} is not supported by EGRSD: every run of "
            "ours was vLLM's, and so is the weight sync that fails instead of hanging; use vllm."
        )
    if (config.algorithm.get("filter_groups") or {}).get("enable"):
        raise ValueError(
            "algorithm.filter_groups.enable=true keeps only groups with different rewards, which biases the running "
            "baseline, and with rollout.n=1 keeps none; it is not supported by EGRSD: set it to false."
        )


def _check_reward(config: DictConfig, egrsd: EgrsdConfig) -> None:
    """The length bonus multiplies a reward of 0 or 1; what is known to give others is refused."""
    reward = config.reward
    buffer = OmegaConf.select(config, "reward.reward_kwargs.overlong_buffer_cfg.enable")
    others = {
        "reward.reward_kwargs.overlong_buffer_cfg.enable=true": buffer and reward.reward_manager.name == "dapo",
        "reward.reward_model.enable=true": reward.reward_model.enable and not reward.custom_reward_function.path,
    }
    for setting in [name for name, holds in others.items() if holds and egrsd.length_bonus > 0]:
        raise ValueError(
            f"{setting} gives rewards other than 0 and 1, which algorithm.egrsd.length_bonus={egrsd.length_bonus} does "
            "not allow; set that one to 0, or drop the override."
        )


def _try_estimator(config: DictConfig) -> None:
    """ValueError if it fails, or if a group of one response, of which a group's estimator makes A = r
    (core_algos.py:315), has it push nothing down; one that does so in groups of two, too, is meant to."""
    modules = OmegaConf.select(config, "ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES") or ""
    import_external_libs([name for name in modules.split(",") if name and not name.startswith("recipe.egrsd")])
    n = min(config.actor_rollout_ref.rollout.n, 4)
    advantages = _estimated(config, n)
    if not advantages.isfinite().all():
        raise ValueError(f"its advantages are not finite with {ROLLOUT}.n={n}")
    if n == 1 and not (advantages < 0).any() and (_estimated(config, 2) < 0).any():
        raise ValueError(
            f"it pushes no response down with {ROLLOUT}.n=1: it compares the responses to a problem; set rollout.n to "
            "2 or more"
        )


def _estimated(config: DictConfig, n: int) -> torch.Tensor:
    """Advantages of two groups of n, rewards 1 and 0 in turn, as verl's V1 trainer hands them over: no critic's values,
    no ReMax baselines, no gradients of the logits."""
    from verl import DataProto
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    rewards = torch.zeros(2 * n, 3)
    rewards[::2, -1] = 1.0
    mask = torch.ones_like(rewards)
    data = DataProto.from_single_dict(
        {"token_level_scores": rewards, "token_level_rewards": rewards, "rm_scores": rewards, "response_mask": mask}
        | {"uid": np.array([str(row // n) for row in range(2 * n)], dtype=object)}
    )
    keys = [f"{row // n}_{row % n}_0" for row in range(2 * n)]
    algorithm = config.algorithm
    knobs = {"gamma": algorithm.gamma, "lam": algorithm.lam, "num_repeat": n, "config": algorithm}
    result = compute_advantage_for_multi_trajectories(
        data,
        batch_keys=keys,
        adv_estimator=algorithm.egrsd.advantage,
        norm_adv_by_std_in_grpo=algorithm.get("norm_adv_by_std_in_grpo", True),
        **knobs,
    )
    return result.batch["advantages"]


def _try_template(egrsd: EgrsdConfig, template: str) -> None:
    if missing := prompts.forgotten(egrsd.privilege, instruction=egrsd.teacher.instruction, template=template):
        printed = " and ".join(f"{{{{ {name} }}}}" for name in missing)
        raise ValueError(f"it does not print {printed}, which algorithm.egrsd.privilege={egrsd.privilege} shows")


def _reward_manager(config: DictConfig, name: str) -> None:
    if (config.reward.reward_manager.source, name) != (
        "register",
        "naive",
    ):  # verl's own choice; the import takes seconds
        resolve_reward_manager_cls(config)


def _reward_function(config: DictConfig, _: Any) -> None:
    if not callable(cast(partial, get_custom_reward_fn(config)).args[0]):
        raise TypeError(f"{config.reward.custom_reward_function.name} is no function")


def _tools(_: DictConfig, path: str) -> None:
    """The classes, not the tools: building one may start Ray."""
    from verl.tools.tool_registry import get_tool_class

    for tool in cast(Any, OmegaConf.load(path)).tools:
        get_tool_class(tool.class_name)


def _function_tools(_: DictConfig, path: str) -> None:
    from verl.tools.function_tool import load_function_tools_from_path

    load_function_tools_from_path(path)


def _agent_loop(config: DictConfig, _: Any) -> None:
    """That the loop every row without agent_name takes is verl's, or one of the user's file."""
    agent = config.actor_rollout_ref.rollout.agent
    path = agent.get("agent_loop_config_path")
    own = {}
    if path:
        from verl.experimental.agent_loop.utils import (
            resolve_config_path,  # pyright: ignore[reportPrivateImportUsage]  its home in verl's main, and there in 0.9
        )

        own = {entry.name: entry for entry in cast(Any, OmegaConf.load(resolve_config_path(path)))}
    for entry in own.values():
        load_class_from_fqn(entry._target_, "agent loop")
    if agent.default_agent_loop not in {"single_turn_agent", *own}:
        from verl.experimental.agent_loop.agent_loop import _agent_loop_registry

        known = sorted({*_agent_loop_registry, *own})
        if agent.default_agent_loop not in known:
            raise ValueError(f"{agent.default_agent_loop} is none of {known}")


LOOK_UPS: dict[str, Callable[[DictConfig, Any], Any]] = {
    "reward.custom_reward_function.path": _reward_function,
    "reward.reward_manager.name": _reward_manager,
    "data.custom_cls.path": lambda config, _: get_dataset_class(config.data),
    f"{ROLLOUT}.multi_turn.tool_config_path": _tools,
    f"{ROLLOUT}.multi_turn.function_tool_path": _function_tools,
    f"{ROLLOUT}.multi_turn.interaction_config_path": lambda _, path: OmegaConf.load(path),
    "data.tool_config_path": _tools,
    "data.function_tool_path": _function_tools,
    f"{ROLLOUT}.agent.agent_loop_config_path": _agent_loop,
    f"{ROLLOUT}.agent.default_agent_loop": _agent_loop,
    f"{ROLLOUT}.agent.agent_loop_manager_class": lambda _, name: load_class_from_fqn(name, "AgentLoopManager"),
    f"{ROLLOUT}.checkpoint_engine.custom_backend_module": lambda _, name: importlib.import_module(name),
    "actor_rollout_ref.model.external_lib": lambda _, names: import_external_libs(names),
    "trainer.v1.sampler.custom_sampler.path": lambda config, path: load_extern_object(
        path, config.trainer.v1.sampler.custom_sampler.name
    ),
    "trainer.checkpoint_callback_class": lambda _, name: load_class_from_fqn(name, "checkpoint callback"),
}
