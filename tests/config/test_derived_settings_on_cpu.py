"""Settings that follow from others or from the shell: under an adapter, on a CPU, in the environment of the workers."""

import os
from collections.abc import Callable
from typing import Any

import composing
import pytest
from composing import LORA, composed
from config_changes import changes, leaves
from omegaconf import OmegaConf

from recipe.egrsd.config import validation
from recipe.egrsd.hydra_plugin import Validation  # opens the config group, too


def test_an_adapter_is_sent_alone():
    """verl cannot send a base with tied embeddings under an adapter; what the user says wins."""

    def loading(*overrides: str) -> list:
        rollout = composed(*overrides).actor_rollout_ref.rollout
        return [rollout.load_format, rollout.layered_summon]

    assert (
        loading()
        == loading("actor_rollout_ref.model.lora_adapter_path=adapter")
        == loading(LORA, "actor_rollout_ref.model.lora.merge=true")
        == ["dummy", False]
    )
    assert loading(LORA) == loading(LORA, "actor_rollout_ref.model.lora_adapter_path=adapter") == ["safetensors", True]
    assert loading(LORA, "actor_rollout_ref.rollout.load_format=auto") == ["auto", True]
    assert loading(LORA, "actor_rollout_ref.rollout.layered_summon=false") == ["safetensors", False]


TEACHER, RESPONSE = "algorithm.egrsd.teacher.max_prompt_length", "data.max_response_length"


@pytest.mark.parametrize(
    ("overrides", "packs"),
    [
        # verl's defaults: prompt and response 512, the teacher's prompt 8192
        ([], [1024, 8704, 8704]),
        ([f"{TEACHER}=256", "data.max_prompt_length=128", f"{RESPONSE}=64"], [1024, 1024, 1024]),
        (["data.max_prompt_length=1000", f"{RESPONSE}=200", f"{TEACHER}=1500"], [1200, 1700, 1700]),
        (
            ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=640", f"{TEACHER}=400", f"{RESPONSE}=64"],
            [640, 640, 640],
        ),
        (["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=2048", f"{TEACHER}=400"], [2048, 2048, 2048]),
    ],
)
def test_packs_that_suit_a_cpu(overrides, packs, monkeypatch):
    """1,024 tokens or one row; what is typed for the actor is the scoring engines', too, as it is verl's."""
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    config = composed(*overrides)
    validation.validate(config)
    parts = config.actor_rollout_ref
    limits = [
        parts.actor.ppo_max_token_len_per_gpu,
        *(parts[p].log_prob_max_token_len_per_gpu for p in ("ref", "rollout")),
    ]
    assert limits == packs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_key_is_the_precision_of_a_cpu_run(dtype, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    parts = composed(*[f"actor_rollout_ref.rollout.dtype={dtype}"] * (dtype != "float32")).actor_rollout_ref
    mixed = [parts[part].fsdp_config.mixed_precision for part in ("actor", "ref")]
    assert parts.rollout.dtype == dtype
    assert [part.param_dtype for part in mixed] == [parts.ref.fsdp_config.model_dtype] * 2 == [dtype] * 2
    assert [part.reduce_dtype for part in mixed] == ["fp32"] * 2 and parts.actor.fsdp_config.model_dtype == "fp32"


def threads_of_a_rank(*overrides: str) -> str:
    """What Ray would be told, of a run that hydra starts."""
    config = composed(*overrides)
    Validation().on_run_start(config)
    return OmegaConf.to_container(config.ray_kwargs.ray_init)["runtime_env"]["env_vars"]["OMP_NUM_THREADS"]


@pytest.mark.parametrize(("ranks", "threads"), [(1, "8"), (3, "2"), (16, "1")])
def test_the_ranks_of_a_cpu_run_share_the_cores(ranks, threads, monkeypatch):
    """Ray gives an actor that asks for no CPU one thread: half of a machine of two cores stood idle."""
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert threads_of_a_rank(f"trainer.n_gpus_per_node={ranks}") == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_of_a_rank(f"trainer.n_gpus_per_node={ranks}") == "5"


def test_a_precision_that_fsdp_does_not_know_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    with pytest.raises(
        ValueError, match=r"fsdp_config.model_dtype=auto is str; it should be 'fp32', 'float32', 'bf16'"
    ):
        validation.validate(composed("actor_rollout_ref.rollout.dtype=auto"))


MODULES = "ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES"


@pytest.fixture
def in_a_shell(monkeypatch) -> Callable[..., dict[str, Any]]:
    """What hydra composes of algorithm=egrsd, in this process, in a shell that has set this variable."""

    def values(**variables: str) -> dict[str, Any]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return leaves(OmegaConf.to_container(composing.composed()))

    return values


def test_whoever_allows_an_untested_verl_allows_it_to_the_workers(in_a_shell):
    refused = in_a_shell(EGRSD_ALLOW_UNTESTED_VERL="")  # make test-verl sets it for all tests
    allowed = in_a_shell(EGRSD_ALLOW_UNTESTED_VERL="1")
    assert changes(refused, allowed) == {"ray_kwargs.ray_init.runtime_env.env_vars.EGRSD_ALLOW_UNTESTED_VERL": "1"}


def test_modules_of_the_user_are_loaded_in_the_workers_too(in_a_shell):
    plain = in_a_shell(VERL_USE_EXTERNAL_MODULES="")
    egrsd = in_a_shell(VERL_USE_EXTERNAL_MODULES="colorsys,recipe.egrsd.register,wave")
    assert changes(plain, egrsd) == {MODULES: "colorsys,wave,recipe.egrsd.register"}
