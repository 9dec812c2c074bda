"""The legs of the rehearsal: a script in examples/ and the variables that it is given."""

WHOLE_DISTRIBUTION = {"TOP_P": "1", "TOP_K": "-1"}  # or rollout and student are compared on different distributions
LEGS = {
    "4b": ("run_qwen3_4b_fsdp.sh", {"N_GPUS": "2", **WHOLE_DISTRIBUTION}),
    "4b_full": ("run_qwen3_4b_fsdp.sh", {"N_GPUS": "2", "LORA_RANK": "0", **WHOLE_DISTRIBUTION}),
    "one_gpu": ("run_qwen3_0_6b_one_gpu.sh", {}),
}
