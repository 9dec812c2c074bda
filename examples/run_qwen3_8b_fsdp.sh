#!/usr/bin/env bash
# Qwen3-8B with the paper's settings: LoRA 64, 100 steps of 32 rollouts, checkpoints at 25, 50, 75, 100. One node of 8 GPUs, or
# NNODES nodes of N_GPUS.
#
#   examples/run_qwen3_8b_fsdp.sh                          # EGRSD: gamma 0.3
#   ALGORITHM=cl_egrsd examples/run_qwen3_8b_fsdp.sh       # CL-EGRSD: gamma 1.0, window 5
#   ALGORITHM=grpo examples/run_qwen3_8b_fsdp.sh           # a baseline; all variables: run_qwen3_fsdp.sh
#   LORA_RANK=0 examples/run_qwen3_8b_fsdp.sh              # all parameters
#
# Not run by us (no GPU).
set -euo pipefail

export MODEL=${MODEL:-Qwen/Qwen3-8B}
export ALGORITHM=${ALGORITHM:-egrsd}
export NNODES=${NNODES:-1}
export N_GPUS=${N_GPUS:-8}
if [[ $ALGORITHM == cl_egrsd ]]; then    # the preset holds the 4B values
  export GAMMA=${GAMMA:-1.0} WINDOW=${WINDOW:-5}
fi

exec "$(dirname "${BASH_SOURCE[0]}")/run_qwen3_fsdp.sh" "$@"
