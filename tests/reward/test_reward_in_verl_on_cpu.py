"""The reward function as verl calls it: by keyword, and by its reward manager in a Ray actor."""

import inspect
import os
from pathlib import Path

import numpy as np
from scored import BOMB, ROOT, TYPES

from recipe.egrsd.reward import compute_score


def test_verl_can_call_it_by_name():
    parameters = inspect.signature(compute_score).parameters
    assert list(parameters)[:4] == ["data_source", "solution_str", "ground_truth", "extra_info"]
    found = compute_score(
        data_source="math",
        solution_str="\\boxed{7}",
        ground_truth="7",
        extra_info={"num_turns": 2, "rollout_reward_scores": {}},
        reward_router_address="host:1",
        reward_model_tokenizer=None,
    )
    assert found["score"] == 1.0


class Text:
    """A tokenizer for responses that are lists of code points."""

    def decode(self, ids, skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids.tolist()))


class Scorer:
    """What verl's RewardLoopWorker does with our function, in the Ray actor that it is."""

    def __init__(self):
        from omegaconf import OmegaConf
        from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
        from verl.trainer.ppo.reward import get_custom_reward_fn

        ours = {"path": "pkg://recipe.egrsd.reward", "name": "compute_score", "reward_kwargs": {"timeout_seconds": 1.5}}
        config = OmegaConf.create({"reward": {"custom_reward_function": ours}})
        self.manager = NaiveRewardManager(config, Text(), get_custom_reward_fn(config))

    async def score(self, answers: list[str]) -> list[dict]:
        import asyncio

        import torch
        from verl import DataProto

        def row(answer: str) -> DataProto:
            ids = torch.tensor([list(map(ord, f"\\boxed{{{answer}}}"))])
            truth = {"data_source": "math", "reward_model": {"ground_truth": "1/2"}, "extra_info": {}}
            return DataProto.from_dict(
                tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
                non_tensors={key: np.array([value], dtype=object) for key, value in truth.items()},
            )

        return await asyncio.gather(*(self.manager.run_single(row(answer)) for answer in answers))


def test_verls_reward_manager_in_a_ray_actor():
    import ray

    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support"), str(Path(__file__).parent)])
    ray.init(num_cpus=1, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    try:
        scorer = ray.remote(Scorer).remote()
        answers = [BOMB, BOMB, BOMB, *["0.5", "1/2", "0.6"] * 5]
        found = ray.get(scorer.score.remote(answers), timeout=120)
    finally:
        ray.shutdown()
    assert [one["reward_score"] for one in found] == [0.0] * 3 + [1.0, 1.0, 0.0] * 5
    assert [one["reward_extra_info"]["timed_out"] for one in found] == [1] * 3 + [0] * 15
    assert all(list(one["reward_extra_info"]) == list(TYPES) for one in found)
