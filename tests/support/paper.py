"""The paper's numbers, and where a composed config holds its settings."""

import json

import peft
from runs import ROOT

PAPER = json.loads((ROOT / "recipe" / "egrsd" / "config" / "paper.json").read_text())

# The paper's settings by their name in paper.json -> the key that holds them.
KEYS = {
    "clip_range": "algorithm.egrsd.clip_range",
    "floor": "algorithm.egrsd.floor",
    "length_bonus": "algorithm.egrsd.length_bonus",
    "warmup_steps": "algorithm.egrsd.warmup_steps",
    "teacher": "algorithm.egrsd.teacher.kind",
    "lora_rank": "actor_rollout_ref.model.lora_rank",
    "lora_alpha": "actor_rollout_ref.model.lora_alpha",
    "lora_targets": "actor_rollout_ref.model.target_modules",
    "lr": "actor_rollout_ref.actor.optim.lr",
    "adam_betas": "actor_rollout_ref.actor.optim.betas",
    "grad_clip": "actor_rollout_ref.actor.optim.clip_grad",
    "batch": "data.train_batch_size",
    "rollouts_per_prompt": "actor_rollout_ref.rollout.n",
    "steps": "trainer.total_training_steps",
    "temperature": "actor_rollout_ref.rollout.temperature",
    "top_p": "actor_rollout_ref.rollout.top_p",
    "top_k": "actor_rollout_ref.rollout.top_k",
    "max_response_length": "data.max_response_length",
}
# Those that are not one key: what a config makes of them.
DERIVED = {
    "gpus": lambda config: config.trainer.nnodes * config.trainer.n_gpus_per_node,
    "max_sequence": lambda config: config.algorithm.egrsd.teacher.max_prompt_length + config.data.max_response_length,
    "checkpoints": lambda config: [*range(0, config.trainer.total_training_steps + 1, config.trainer.save_freq)][1:],
    "lora_dropout": lambda config: peft.LoraConfig().lora_dropout,  # verl gives peft none, so that peft's default holds
}
