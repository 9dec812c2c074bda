#!/usr/bin/env bash
# A preset on SmolLM2-135M, on this machine's CPU: the same main_ppo a GPU user runs. `make demo MODEL=smollm2` calls it.
set -euo pipefail

MODEL=${MODEL:?folder of the warm-started model}
DATA=${DATA:?folder with train.parquet and validation.parquet}
OUTPUT=${OUTPUT:?folder for checkpoints}
ALGORITHM=${ALGORITHM:-cl_egrsd}   # a preset of the recipe
STEPS=${STEPS:-40}
BATCH=${BATCH:-32}                 # rollouts of a step: a batch of groups has fewer problems
LR=${LR:-2e-5}                     # of all parameters; 1e-4 undid the model within three steps
SEED=${SEED:-0}
DTYPE=${DTYPE:-float32}            # the demo gives bfloat16 on a CPU that has instructions for it

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export VERL_PLATFORM=cpu

GROUP=$("${PYTHON:-python}" "$HERE/../group.py" "$ALGORITHM" "$BATCH")   # rollouts of a problem, which the preset sets

EGRSD=(
  algorithm="$ALGORITHM"
  algorithm.egrsd.warmup_steps=1                 # A = r - 0.5 pushes down on balance where fewer than half are right
  algorithm.egrsd.teacher.max_prompt_length=384
)
DATA_ARGS=(
  data.train_files="$DATA/train.parquet"
  data.val_files="$DATA/validation.parquet"
  data.train_batch_size="$((BATCH / GROUP))"
  data.max_prompt_length=160
  data.max_response_length=128
  data.seed="$SEED"
)
MODEL_ARGS=(
  actor_rollout_ref.model.path="$MODEL"
  actor_rollout_ref.model.enable_gradient_checkpointing=false   # packs of 1,024 tokens are small
  actor_rollout_ref.actor.ppo_mini_batch_size="$((BATCH / GROUP))"
  actor_rollout_ref.actor.optim.lr="$LR"
  actor_rollout_ref.actor.optim.weight_decay=0.0
  actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]
  actor_rollout_ref.rollout.dtype="$DTYPE"                      # of rollout, student and teacher
  actor_rollout_ref.rollout.seed="$SEED"
  actor_rollout_ref.rollout.max_model_len=288
  actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=128   # the embedding alone has 108
)
TRAINER=(
  trainer.total_training_steps="$STEPS"
  trainer.total_epochs=1000
  trainer.val_before_train=false   # the demo evaluates before and after, on problems of its own
  trainer.save_freq=10
  trainer.max_actor_ckpt_to_keep=1
  trainer.default_local_dir="$OUTPUT"
  trainer.logger=[file]
)

exec "${PYTHON:-python}" -m verl.trainer.main_ppo "${EGRSD[@]}" "${DATA_ARGS[@]}" "${MODEL_ARGS[@]}" "${TRAINER[@]}" "$@"
