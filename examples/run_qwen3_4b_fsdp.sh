#!/usr/bin/env bash
# Qwen3-4B on one node of 8 GPUs with the paper's settings: LoRA 64, 100 steps of 32 rollouts, checkpoints at 25, 50, 75, 100.
#
#   examples/run_qwen3_4b_fsdp.sh                          # EGRSD: gamma 0.3
#   ALGORITHM=cl_egrsd examples/run_qwen3_4b_fsdp.sh       # CL-EGRSD: gamma 0.3, window 3
#   ALGORITHM=grpo examples/run_qwen3_4b_fsdp.sh           # a baseline; all variables: run_qwen3_fsdp.sh
#   LORA_RANK=0 examples/run_qwen3_4b_fsdp.sh              # all parameters
#
# Not run by us (no GPU). These gamma and window are the presets' own defaults, so nothing is set here but the model.
set -euo pipefail

export MODEL=${MODEL:-Qwen/Qwen3-4B}

exec "$(dirname "${BASH_SOURCE[0]}")/run_qwen3_fsdp.sh" "$@"
