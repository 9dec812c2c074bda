#!/usr/bin/env bash
# EGRSD on a Qwen3 with the paper's settings (recipe/egrsd/config/paper.json; a test compares the two key by key). The one home of all
# settings: run_qwen3_4b_fsdp.sh, run_qwen3_8b_fsdp.sh and run_qwen3_0_6b_one_gpu.sh only say in what they differ.
#
#   ALGORITHM=cl_egrsd examples/run_qwen3_4b_fsdp.sh                       # any variable below, in front
#   LORA_RANK=0 examples/run_qwen3_4b_fsdp.sh                              # all parameters instead of an adapter
#   examples/run_qwen3_4b_fsdp.sh trainer.logger='[console,file,wandb]'    # any key of verl, behind
#   examples/run_qwen3_4b_fsdp.sh --cfg job                                # show the config and end
#   DOCTOR=1 examples/run_qwen3_4b_fsdp.sh                                 # look for mistakes on a CPU and end
#
# A run that was stopped continues from its last checkpoint: give the same command again.
# flash-attn is optional (docs/install.md, Flash attention): the log names what a run takes, "EGRSD: attn_implementation=...".
# Not run by us: we had no GPU. Composed and validated by tests/examples/test_run_scripts_on_cpu.py; memory figures below are estimates.
set -euo pipefail

# ---- what
MODEL=${MODEL:-Qwen/Qwen3-4B}
ALGORITHM=${ALGORITHM:-egrsd}            # a preset of docs/modes.md, or grpo, the paper's
NAME=${NAME:-$(basename "$MODEL" | tr '[:upper:]' '[:lower:]')-$ALGORITHM}
DATA=${DATA:-data/egrsd}                 # written by: python -m recipe.egrsd.prepare_data --out data/egrsd
OUTPUT=${OUTPUT:-outputs/$NAME}
SEED=${SEED:-0}                          # of the data order and the sampling; the paper states none

# ---- method; empty means the preset's own value (recipe/egrsd/config/algorithm)
GAMMA=${GAMMA:-}
WINDOW=${WINDOW:-}
CLIP_RANGE=${CLIP_RANGE:-}               # the paper's epsilon
LENGTH_BONUS=${LENGTH_BONUS:-}
ROLLOUTS=${ROLLOUTS:-}                   # per prompt; the paper's and verl's default is 1; presets that need a group set 8
TEACHER_KIND=${TEACHER_KIND:-}           # frozen | snapshot | ema | live
SYNC_EVERY=${SYNC_EVERY:-}               # for snapshot
EMA_DECAY=${EMA_DECAY:-}                 # for ema
PRIVILEGE=${PRIVILEGE:-}                 # what the teacher is shown: see docs/modes.md
STUDENT_THINKING=${STUDENT_THINKING:-false}  # not stated; with 1,024 tokens a thinking student hardly ever reaches an answer
TEACHER_THINKING=${TEACHER_THINKING:-true}   # not stated; on, as in OPSD, whose trainer the paper's resembles

# ---- rollout
MAX_RESPONSE=${MAX_RESPONSE:-1024}
MAX_SEQUENCE=${MAX_SEQUENCE:-20000}      # teacher's prompt with solution + response
MAX_PROMPT=${MAX_PROMPT:-2048}           # student's; not stated. verl would cut longer ones: here they are dropped and counted
TEMPERATURE=${TEMPERATURE:-1.1}
TOP_P=${TOP_P:-0.95}
TOP_K=${TOP_K:-20}                       # verl's training/rollout_probs_diff_* then compare a cut distribution
                                         # with a whole one and are large by design; TOP_K=-1 TOP_P=1 makes them a check

# ---- optimisation; schedule, warm-up and weight decay are not stated in the paper: constant, none, none
LORA_RANK=${LORA_RANK:-64}               # 0 trains all parameters
LORA_ALPHA=${LORA_ALPHA:-128}
LORA_TARGETS=${LORA_TARGETS:-[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]}
if [[ $LORA_RANK -gt 0 ]]; then
  LR=${LR:-5e-6}
else
  LR=${LR:-1e-6}                         # ours: the paper trained adapters only
fi
LR_SCHEDULE=${LR_SCHEDULE:-constant}     # constant | cosine
LR_WARMUP_STEPS=${LR_WARMUP_STEPS:-0}
WEIGHT_DECAY=${WEIGHT_DECAY:-0.0}
GRAD_CLIP=${GRAD_CLIP:-0.1}
BATCH=${BATCH:-32}                       # prompts in a step, and in its one update
STEPS=${STEPS:-100}

# ---- checkpoints, validation
SAVE_FREQ=${SAVE_FREQ:-25}               # all are kept: 16 GB each for 4B, 33 GB for 8B, about four times that with LORA_RANK=0
TEST_FREQ=${TEST_FREQ:-25}               # on held-out training problems with MAX_RESPONSE tokens: a monitor, not the evaluation
VAL_SAMPLES=${VAL_SAMPLES:-4}
VAL_TEMPERATURE=${VAL_TEMPERATURE:-1.0}
VAL_TOP_P=${VAL_TOP_P:-0.95}
LOGGER=${LOGGER:-[console,file]}         # file: $OUTPUT/metrics/<start>.jsonl; a resumed run writes another one
SAVE_TOKENS_EVERY=${SAVE_TOKENS_EVERY:-25}  # steps between two token views of the report, each scores the student once more; null: none

# ---- machines. What the doctor estimates for 8B with its adapter, 8 GPUs of 80 GB, for a GPU and (host) for the node, where
# vLLM sleeps while the trainer works; terms of 1 GiB and more. A test compares. DOCTOR=1 says it for your own settings.
#   training, T = 12,288: 14 GiB (weights 3.9, gathered layers 3.0, layers' inputs 3.4, activations of a layer 2.2)
#   teacher's scoring, T = 20,000: 8 GiB (weights 3.9, gathered layers 3.0)
#   token view, T = 6,144: 8 GiB (weights 3.9, gathered layers 3.0)
#   sampling: 44 GiB (vLLM 40.0, weights 3.9)
#   host, starting: 60 GiB (weights, whole on one rank 31.2, processes 16.2, vLLM's processes 12.8)
#   host, training: 154 GiB (sleeping vLLM's weights 124.7, processes 16.2, vLLM's processes 12.8)
NNODES=${NNODES:-1}
N_GPUS=${N_GPUS:-8}                      # on each node
TP=${TP:-1}                              # GPUs that share one vLLM
GPU_MEMORY=${GPU_MEMORY:-0.5}            # share of a GPU that vLLM reserves
MAX_TOKENS_PER_GPU=${MAX_TOKENS_PER_GPU:-12288}  # in one micro-batch of the student's update: four rows of the longest kind
DATA_WORKERS=${DATA_WORKERS:-8}          # processes that tokenise the teacher's prompts at the start
DOCTOR=${DOCTOR:-}                       # anything: python -m recipe.egrsd.doctor with these overrides instead of a run

DATA=$(realpath -m "$DATA") OUTPUT=$(realpath -m "$OUTPUT")  # Ray's processes may stand elsewhere
PROGRAM=recipe.egrsd.doctor
if [[ ! $DOCTOR ]]; then
  PROGRAM=verl.trainer.main_ppo
  mkdir -p "$OUTPUT/metrics"             # where verl's file logger does not make it
fi
if [[ $ALGORITHM == grpo ]]; then        # the paper's, not verl's: the same reward and running baseline, every token weight 1
  ALGORITHM=egrsd_ungated CLIP_RANGE=${CLIP_RANGE:-0}
fi

METHOD=(
  algorithm="$ALGORITHM"
  ${GAMMA:+algorithm.egrsd.gamma="$GAMMA"}
  ${WINDOW:+algorithm.egrsd.window="$WINDOW"}
  ${CLIP_RANGE:+algorithm.egrsd.clip_range="$CLIP_RANGE"}
  ${LENGTH_BONUS:+algorithm.egrsd.length_bonus="$LENGTH_BONUS"}
  ${TEACHER_KIND:+algorithm.egrsd.teacher.kind="$TEACHER_KIND"}
  ${SYNC_EVERY:+algorithm.egrsd.teacher.sync_every="$SYNC_EVERY"}
  ${EMA_DECAY:+algorithm.egrsd.teacher.ema_decay="$EMA_DECAY" actor_rollout_ref.ref.fsdp_config.model_dtype=fp32}
  ${PRIVILEGE:+algorithm.egrsd.privilege="$PRIVILEGE"}
  algorithm.egrsd.save_tokens_every="$SAVE_TOKENS_EVERY"
  algorithm.egrsd.teacher.enable_thinking="$TEACHER_THINKING"
  algorithm.egrsd.teacher.max_prompt_length=$((MAX_SEQUENCE - MAX_RESPONSE))
  algorithm.use_kl_in_reward=false
  actor_rollout_ref.actor.use_kl_loss=false
  actor_rollout_ref.actor.entropy_coeff=0
)
DATA_ARGS=(
  data.train_files="$DATA/train.parquet"
  data.val_files="$DATA/validation.parquet"
  data.train_batch_size="$BATCH"
  data.max_prompt_length="$MAX_PROMPT"
  data.max_response_length="$MAX_RESPONSE"
  data.filter_overlong_prompts=true      # drops and counts what is longer, for the student or the teacher
  data.filter_overlong_prompts_workers="$DATA_WORKERS"
  data.seed="$SEED"
  +data.apply_chat_template_kwargs.enable_thinking="$STUDENT_THINKING"
)
MODEL_ARGS=(
  actor_rollout_ref.model.path="$MODEL"
  actor_rollout_ref.actor.ppo_mini_batch_size="$BATCH"
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu="$MAX_TOKENS_PER_GPU"
  actor_rollout_ref.actor.optim.lr="$LR"
  actor_rollout_ref.actor.optim.betas=[0.9,0.999]
  actor_rollout_ref.actor.optim.weight_decay="$WEIGHT_DECAY"
  actor_rollout_ref.actor.optim.lr_scheduler_type="$LR_SCHEDULE"
  actor_rollout_ref.actor.optim.lr_warmup_steps="$LR_WARMUP_STEPS"
  actor_rollout_ref.actor.optim.clip_grad="$GRAD_CLIP"  # verl 0.9's FSDP engine does not read actor.grad_clip
  # the teacher is scored by the actor (LoRA) or by the reference model; either must hold one row of the longest kind
  actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu="$MAX_SEQUENCE"
  actor_rollout_ref.ref.log_prob_max_token_len_per_gpu="$MAX_SEQUENCE"
)
if [[ $LORA_RANK -gt 0 ]]; then
  MODEL_ARGS+=(
    actor_rollout_ref.model.lora_rank="$LORA_RANK"
    actor_rollout_ref.model.lora_alpha="$LORA_ALPHA"
    actor_rollout_ref.model.target_modules="$LORA_TARGETS"
  )
else
  MODEL_ARGS+=('actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]')  # loadable without merging
fi
ROLLOUT=(
  actor_rollout_ref.rollout.temperature="$TEMPERATURE"
  actor_rollout_ref.rollout.top_p="$TOP_P"
  actor_rollout_ref.rollout.top_k="$TOP_K"
  ${ROLLOUTS:+actor_rollout_ref.rollout.n="$ROLLOUTS"}
  actor_rollout_ref.rollout.seed="$SEED"
  actor_rollout_ref.rollout.tensor_model_parallel_size="$TP"
  actor_rollout_ref.rollout.gpu_memory_utilization="$GPU_MEMORY"
  actor_rollout_ref.rollout.max_model_len=$((MAX_PROMPT + MAX_RESPONSE))
  actor_rollout_ref.rollout.val_kwargs.do_sample=true
  actor_rollout_ref.rollout.val_kwargs.n="$VAL_SAMPLES"
  actor_rollout_ref.rollout.val_kwargs.temperature="$VAL_TEMPERATURE"
  actor_rollout_ref.rollout.val_kwargs.top_p="$VAL_TOP_P"
)
TRAINER=(
  trainer.nnodes="$NNODES"
  trainer.n_gpus_per_node="$N_GPUS"
  trainer.total_training_steps="$STEPS"
  trainer.total_epochs=1000              # the steps decide, however small the data
  trainer.save_freq="$SAVE_FREQ"
  trainer.test_freq="$TEST_FREQ"
  trainer.max_actor_ckpt_to_keep=null    # all of them: the paper reports steps 25, 50, 75 and 100
  trainer.default_local_dir="$OUTPUT/checkpoints"
  trainer.project_name=egrsd
  trainer.experiment_name="$NAME"
  trainer.logger="$LOGGER"
  +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$OUTPUT/metrics/$(date -u +%Y%m%dT%H%M%SZ).jsonl"
)

exec "${PYTHON:-python}" -m $PROGRAM \
  "${METHOD[@]}" "${DATA_ARGS[@]}" "${MODEL_ARGS[@]}" "${ROLLOUT[@]}" "${TRAINER[@]}" "$@"
