#!/usr/bin/env bash
# A preset on a tiny Qwen3, on this machine's CPU: the same main_ppo a GPU user runs, with small numbers. `make demo` calls it.
set -euo pipefail

MODEL=${MODEL:?folder of the warm-started model}
DATA=${DATA:?folder with train.parquet and validation.parquet}
OUTPUT=${OUTPUT:?folder for checkpoints}
ALGORITHM=${ALGORITHM:-cl_egrsd}   # a preset of the recipe, or grpo
STEPS=${STEPS:-40}
BATCH=${BATCH:-32}                 # rollouts of a step, the same for every algorithm: a batch of groups has fewer problems
LR=${LR:-2e-4}
MAX_PROMPT=${MAX_PROMPT:-96}
MAX_RESPONSE=${MAX_RESPONSE:-96}
MAX_TEACHER_PROMPT=${MAX_TEACHER_PROMPT:-192}
SEED=${SEED:-0}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export VERL_PLATFORM=cpu

if [[ $ALGORITHM == grpo ]]; then   # verl's (docs/configuration.md): no teacher left in the update, every token weight is 1
  GROUP=8
  (( BATCH % GROUP == 0 )) || { echo "BATCH=$BATCH rollouts are no whole groups of $GROUP, which ALGORITHM=grpo needs; use a multiple." >&2; exit 1; }
  PRESET=(
    algorithm=egrsd_ungated algorithm.egrsd.clip_range=0 algorithm.egrsd.length_bonus=0 algorithm.egrsd.advantage=grpo
    actor_rollout_ref.rollout.n="$GROUP"
  )
else
  GROUP=$("${PYTHON:-python}" "$HERE/../group.py" "$ALGORITHM" "$BATCH")   # rollouts of a problem, which the preset sets
  PRESET=(algorithm="$ALGORITHM")
fi
TEMPLATE=teacher_prompt.jinja
case $ALGORITHM in
  crisp) TEMPLATE=concise_prompt.jinja ;;
  op2sd)
    TEMPLATE=other_problem.jinja
    MAX_TEACHER_PROMPT=$((MAX_TEACHER_PROMPT + MAX_PROMPT)) ;;   # it holds two problems
esac

EGRSD=(
  "${PRESET[@]}"
  algorithm.egrsd.teacher.instruction="'Answer in \boxed{}.'"
  algorithm.egrsd.teacher.template="$HERE/$TEMPLATE"
  algorithm.egrsd.teacher.max_prompt_length="$MAX_TEACHER_PROMPT"
)
DATA_ARGS=(
  data.train_files="$DATA/train.parquet"
  data.val_files="$DATA/validation.parquet"
  data.train_batch_size="$((BATCH / GROUP))"
  data.max_prompt_length="$MAX_PROMPT"
  data.max_response_length="$MAX_RESPONSE"
  data.seed="$SEED"
  +data.apply_chat_template_kwargs.enable_thinking=false
)
MODEL_ARGS=(
  actor_rollout_ref.model.path="$MODEL"
  actor_rollout_ref.actor.ppo_mini_batch_size="$((BATCH / GROUP))"
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
