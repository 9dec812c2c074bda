"""Configs as a user's words compose them, on a tiny model and a few rows, and one of a published size."""

from pathlib import Path

import pytest
from composing import composed
from inputs import qwen3, write_inputs
from memory_estimates import verls_model
from runs import command

from recipe.egrsd.doctor.case import Case, settled


@pytest.fixture(scope="session")
def inputs(once) -> Path:
    return once("inputs of the doctor", lambda folder: write_inputs(folder, train=16))


@pytest.fixture
def given(inputs, tmp_path):
    """Overrides of main_ppo as a user types them, on these inputs; later ones win."""

    def overrides(*own: str, algorithm: str = "cl_egrsd") -> list[str]:
        here = ["data.filter_overlong_prompts_workers=null", *own]  # a process for each map would take a second
        return command(inputs, tmp_path, here, algorithm=algorithm)[3:]

    return overrides


@pytest.fixture
def case(given):
    def build(*own: str, algorithm: str = "cl_egrsd", gpu_gib: float = 80.0, rows: bool = False) -> Case:
        words = [word for word in given(*own) if not word.startswith("algorithm=")]
        built = Case(settled(composed(*words, algorithm=algorithm)), gpu_gib=gpu_gib)
        if rows:
            built.load_model()
            built.load_rows()
        return built

    return build


@pytest.fixture
def qwen3_8b(case):
    """8 GPUs of 80 GiB, adapters of rank 64, 4 rows of 3,072 tokens a rank, of which 8,192 fit."""

    def build(*own: str, **model) -> Case:
        built = case(
            "data.train_batch_size=32", "actor_rollout_ref.actor.ppo_mini_batch_size=32",
            "actor_rollout_ref.rollout.n=1", "data.max_prompt_length=2048", "data.max_response_length=1024",
            "trainer.n_gpus_per_node=8", "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192", "actor_rollout_ref.model.lora_rank=64",
            "algorithm.egrsd.score_student=auto", *own,
        )  # fmt: skip
        built.model = verls_model(qwen3("8B"), lora_rank=64, **model)
        return built

    return build
