#!/usr/bin/env bash
# CL-EGRSD on a tiny Qwen3, on this machine's CPU: the same main_ppo a GPU user runs, with small numbers. `make demo` calls it.
set -euo pipefail

MODEL=${MODEL:?folder of the warm-started model}
DATA=${DATA:?folder with train.parquet and validation.parquet}
OUTPUT=${OUTPUT:?folder for checkpoints}
ALGORITHM=${ALGORITHM:-cl_egrsd}
STEPS=${STEPS:-40}
BATCH=${BATCH:-32}
LR=${LR:-2e-4}
MAX_PROMPT=${MAX_PROMPT:-96}
MAX_RESPONSE=${MAX_RESPONSE:-96}
MAX_TEACHER_PROMPT=${MAX_TEACHER_PROMPT:-192}
SEED=${SEED:-0}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export VERL_PLATFORM=cpu

EGRSD=(
  algorithm="$ALGORITHM"
  algorithm.egrsd.teacher.instruction="'Answer in \boxed{}.'"
  algorithm.egrsd.teacher.template="$HERE/teacher_prompt.jinja"
  algorithm.egrsd.teacher.max_prompt_length="$MAX_TEACHER_PROMPT"
)
DATA_ARGS=(
  data.train_files="$DATA/train.parquet"
  data.val_files="$DATA/validation.parquet"
  data.train_batch_size="$BATCH"
  data.max_prompt_length="$MAX_PROMPT"
  data.max_response_length="$MAX_RESPONSE"
  data.seed="$SEED"
  +data.apply_chat_template_kwargs.enable_thinking=false
)
MODEL_ARGS=(
  actor_rollout_ref.model.path="$MODEL"
  actor_rollout_ref.actor.ppo_mini_batch_size="$BATCH"
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192
  actor_rollout_ref.actor.optim.lr="$LR"
  actor_rollout_ref.actor.optim.weight_decay=0.0
  actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]
  actor_rollout_ref.rollout.seed="$SEED"
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
