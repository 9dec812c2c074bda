#!/usr/bin/env bash
# Qwen3-4B on one node of 8 GPUs with the paper's settings: LoRA 64, 100 steps of 32 rollouts, checkpoints at 25, 50, 75, 100.
#
#   examples/run_qwen3_4b_fsdp.sh                          # EGRSD: gamma 0.3
#   ALGORITHM=cl_egrsd examples/run_qwen3_4b_fsdp.sh       # CL-EGRSD: gamma 0.3, window 3
#   ALGORITHM=grpo examples/run_qwen3_4b_fsdp.sh           # a baseline; all variables: run_qwen3_fsdp.sh
#   LORA_RANK=0 examples/run_qwen3_4b_fsdp.sh              # all parameters
#
# Not run by us (no GPU). These gamma and window are the presets' own defaults, so nothing is set here but the model.
#
# The node's own memory, as the doctor estimates it: every rank reads the whole model, whose embeddings are tied.
#   host, starting: 153 GiB (tied weights, whole on every rank 123.8, processes 16.2, vLLM's processes 12.8)
#   host, training: 91 GiB (sleeping vLLM's weights 61.9, processes 16.2, vLLM's processes 12.8)
set -euo pipefail

export MODEL=${MODEL:-Qwen/Qwen3-4B}

exec "$(dirname "${BASH_SOURCE[0]}")/run_qwen3_fsdp.sh" "$@"
