"""Whole runs that several test files share: real main_ppo, Ray, vLLM and FSDP2 on the CPU. They train on the same rollouts."""

import signal
from importlib.metadata import version
from pathlib import Path

import pytest
from runs import COIN_REWARD, Run, good, replaying, run, write_inputs

# Plain gradient descent: Adam would turn a rounding error in a gradient near 0 into a step of full size.
DESCENT = [
    "actor_rollout_ref.actor.optim.optimizer=SGD", "actor_rollout_ref.actor.optim.lr=0.3",
    "actor_rollout_ref.actor.optim.weight_decay=0",
    "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
]  # fmt: skip
PADDED = [
    "actor_rollout_ref.model.use_remove_padding=False", "actor_rollout_ref.actor.use_dynamic_bsz=False",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2", "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=1",
]  # fmt: skip
LORA = ["actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.lora_alpha=16"]


# make test starts processes in the background, where a shell ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"verl {version('verl')}"  # make test-matrix


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, train=128)
    return folder


@pytest.fixture(scope="session")
def full(inputs, tmp_path_factory) -> Run:
    """CL-EGRSD, full parameters, packed, dynamic batches, two ranks, one micro-batch each. Records rollouts, saves tokens."""
    folder = tmp_path_factory.mktemp("full")
    overrides = [*COIN_REWARD, *DESCENT, *replaying(folder / "rollouts"), "trainer.n_gpus_per_node=2", "trainer.save_freq=3"]
    return good(run(inputs, folder, [*overrides, "algorithm.egrsd.save_tokens_every=2"]))


@pytest.fixture(scope="session")
def rollouts(full) -> Path:
    return full.folder / "rollouts"


@pytest.fixture(scope="session")
def padded(inputs, rollouts, tmp_path_factory) -> Run:
    """The same on one rank, padded, in four static micro-batches; after the recorded three steps it goes on for 19 more."""
    overrides = [*COIN_REWARD, *DESCENT, *PADDED, *replaying(rollouts), "trainer.save_freq=3"]
    return good(run(inputs, tmp_path_factory.mktemp("padded"), [*overrides, "trainer.total_training_steps=22"]))


@pytest.fixture(scope="session")
def lora(inputs, rollouts, tmp_path_factory) -> Run:
    """The same with an adapter, on its own optimiser; validates first; the fourth step's rollouts and rewards are its own."""
    overrides = [*LORA, *replaying(rollouts), "trainer.val_before_train=True", "trainer.total_training_steps=4"]
    return good(run(inputs, tmp_path_factory.mktemp("lora"), overrides))


@pytest.fixture(params=["full", "lora", "padded"])
def any_run(request) -> Run:
    return request.getfixturevalue(request.param)
