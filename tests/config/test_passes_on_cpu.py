"""Limits that a run would meet hours later, weights that are not those they are said to be, and settings that nothing
reads are refused by name before Ray."""

import pytest
from composing import LORA, composed, refusal_of

from recipe.egrsd.config import validation

ACTOR, REF, ROLLOUT = (f"actor_rollout_ref.{part}" for part in ("actor", "ref", "rollout"))
STATIC = f"{ACTOR}.use_dynamic_bsz=false {REF}.log_prob_micro_batch_size_per_gpu=1"
SIZES = f"{ACTOR}.ppo_micro_batch_size_per_gpu=2 {ROLLOUT}.log_prob_micro_batch_size_per_gpu=4"
SMALL = f"data.train_batch_size=32 {ACTOR}.ppo_mini_batch_size=32"
LONG = f"data.max_response_length=8192 {REF}.log_prob_max_token_len_per_gpu=20000"
PRECISION = "fsdp_config.mixed_precision.param_dtype"
REWARD, CORRECTION = "reward.reward_model.enable=true", "algorithm.rollout_correction"
ADAPTER, MODEL = "actor_rollout_ref.model.lora_adapter_path=/adapter", "actor_rollout_ref.model"
NORM = f"{ACTOR}.loss_agg_mode=seq-mean-token-sum-norm"

REFUSED = {
    # passes.py: the longest row, which may come in the hundredth step
    f"egrsd {ACTOR}.ppo_max_token_len_per_gpu=4096 data.max_response_length=8192": (
        f"{ACTOR}.ppo_max_token_len_per_gpu=4096 (x 1 sequence-parallel ranks) cannot hold one student row of up to "
        "8704 tokens (data.max_prompt_length=512 + data.max_response_length=8192); raise it to 8704 or more."
    ),
    f"egrsd {LONG} {ACTOR}.ppo_max_token_len_per_gpu=4351 {ACTOR}.fsdp_config.ulysses_sequence_parallel_size=2": (
        f"{ACTOR}.ppo_max_token_len_per_gpu=4351 (x 2 sequence-parallel ranks) cannot hold one student row of up to"
    ),
    f"egrsd {ROLLOUT}.log_prob_max_token_len_per_gpu=1000": (
        f"{ROLLOUT}.log_prob_max_token_len_per_gpu=1000 (x 1 sequence-parallel ranks) cannot hold one student row of"
    ),
    f"egrsd {STATIC} {SMALL} {ACTOR}.ppo_micro_batch_size_per_gpu=8 {ROLLOUT}.log_prob_micro_batch_size_per_gpu=1": (
        f"{ACTOR}.ppo_micro_batch_size_per_gpu=8 does not divide the 4 rows of a mini-batch that each of 8 data-paral"
    ),
    f"egrsd {STATIC} {SMALL} {SIZES} {ROLLOUT}.log_prob_micro_batch_size_per_gpu=3 {ACTOR}.ppo_epochs=2": (
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=3 does not divide the 4 rows of a batch that each of 8 data-pa"
    ),
    f"egrsd {STATIC} {ACTOR}.ppo_micro_batch_size=2 {ROLLOUT}.log_prob_micro_batch_size_per_gpu=4": (
        f"{ACTOR}.ppo_micro_batch_size_per_gpu is not set, and with {ACTOR}.use_dynamic_bsz=false the rows are read in"
    ),
    f"egrsd {STATIC} {ACTOR}.ppo_micro_batch_size_per_gpu=2 {ROLLOUT}.log_prob_micro_batch_size=4": (
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu is not set, and with {ROLLOUT}.log_prob_use_dynamic_bsz=false"
    ),
    f"egrsd {REF}.log_prob_use_dynamic_bsz=false {REF}.log_prob_micro_batch_size=4": (
        f"{REF}.log_prob_micro_batch_size_per_gpu is not set, and with {REF}.log_prob_use_dynamic_bsz=false the rows"
    ),
    f"egrsd {ROLLOUT}.log_prob_use_dynamic_bsz=false {ROLLOUT}.log_prob_micro_batch_size_per_gpu=1": (
        f"{ROLLOUT}.log_prob_use_dynamic_bsz=false is not {ACTOR}.use_dynamic_bsz=true, which verl does not allow"
    ),
    f"egrsd {ROLLOUT}.response_length=256": f"{ROLLOUT}.response_length=256 is not data.max_response_length=512, by",
    f"egrsd {ROLLOUT}.prompt_length=1024": f"{ROLLOUT}.prompt_length=1024 is not data.max_prompt_length=512, by which",
    # models.py: weights and precision of student and teacher
    f"egrsd {ADAPTER}": f"{MODEL}.lora_adapter_path=/adapter is not read with lora_rank=0, and all parameters would",
    f"egrsd {ADAPTER} algorithm.egrsd.teacher.kind=live": f"set {MODEL}.lora_rank to the adapter's own rank, or drop",
    f"egrsd {MODEL}.lora.rank=64": (
        f"{MODEL}.lora.rank=64 is Megatron's, and FSDP would train all parameters; say {MODEL}.lora_rank=64 instead."
    ),
    f"egrsd {LORA} {MODEL}.lora.rank=8": "lora.rank=8 is Megatron's",
    f"egrsd +{ACTOR}.{PRECISION}=fp16 {ROLLOUT}.dtype=float16": (
        f"{ACTOR}.{PRECISION}=fp16 is not the teacher's, bf16, so that their ratio would measure the rounding; set "
        f"++{REF}.{PRECISION}=fp16 {REF}.fsdp_config.model_dtype=fp32."
    ),
    f"egrsd +{ACTOR}.{PRECISION}=float32": f"set ++{REF}.{PRECISION}=fp32 {REF}.fsdp_config.model_dtype=fp32.",
    f"egrsd +{ACTOR}.{PRECISION}=fp16 +{REF}.{PRECISION}=float16": (
        f"{REF}.fsdp_config.model_dtype=bf16 rounds the teacher's weights before they are used in mixed_precision.par"
    ),
    # schema.py: under a divergence alone
    "opsd algorithm.egrsd.advantage=grpo": (
        "advantage=grpo means nothing to algorithm.egrsd.divergence=forward_kl: no advantage, no weights; leave it at r"
    ),
    "opsd algorithm.egrsd.mixing=0.5": "algorithm.egrsd.mixing=0.5 means nothing to algorithm.egrsd.divergence=forward",
    "crisp algorithm.egrsd.mixing_decay_steps=50": "no advantage, no weights; leave it at null.",
    # objective.py: what the loss would not read
    f"egrsd {REWARD}": "loads a model that reward.custom_reward_function.path=pkg://recipe.egrsd.reward never asks;",
    f"egrsd {REWARD} reward.reward_model.enable_resource_pool=true": "pkg://recipe.egrsd.reward never asks; set it to",
    f"egrsd {REWARD} reward.custom_reward_function.path=mine.py": (
        "scored without their data_source and ground truth, with which reward.custom_reward_function.path=mine.py is "
    ),
    "egrsd critic.enable=true": "critic.enable=true trains a critic whose values no advantage of EGRSD reads; drop",
    f"opsd {CORRECTION}.rollout_is=token": (
        f"{CORRECTION}.rollout_is=token corrects the policy gradient, and algorithm.egrsd.divergence=forward_kl would"
    ),
    f"opsd {CORRECTION}.rollout_rs=token_k1": f"{CORRECTION}.rollout_rs=token_k1 corrects the policy gradient, and",
    f"ssopd {CORRECTION}.rollout_rs=token_k1": f"{CORRECTION}.rollout_rs=token_k1 corrects the policy gradient, and",
    f"egrsd {CORRECTION}.rollout_is=token {ROLLOUT}.calculate_log_probs=false": (
        f"{CORRECTION}.rollout_is=token does nothing without the rollout's log-probs; set {ROLLOUT}.calculate_log_pro"
    ),
    f"egrsd {NORM}": f"{NORM} divides each micro-batch by its longest response where {ACTOR}.loss_scale_factor is null",
}
ALLOWED = [
    f"egrsd {LONG} {ACTOR}.ppo_max_token_len_per_gpu=4352 {ACTOR}.ulysses_sequence_parallel_size=2",
    f"egrsd {SMALL} {ROLLOUT}.log_prob_max_token_len_per_gpu=1000",  # no pass of verl's scores the student
    f"egrsd {STATIC} {SMALL} {SIZES}",
    f"egrsd {STATIC} {SMALL} {SIZES} {ACTOR}.ppo_epochs=2",
    f"egrsd {STATIC} {SMALL} {SIZES} {ROLLOUT}.log_prob_micro_batch_size_per_gpu=3",  # read by no pass
    f"egrsd {ADAPTER} {LORA} algorithm.egrsd.teacher.kind=live",
    f"egrsd {LORA} {MODEL}.lora.merge=true {ROLLOUT}.load_format=dummy",
    f"egrsd {LORA} +{ACTOR}.{PRECISION}=fp16",  # the teacher is the same engine
    f"egrsd +{ACTOR}.{PRECISION}=bfloat16 +{REF}.{PRECISION}=bf16",
    f"egrsd +{ACTOR}.{PRECISION}=fp16 +{REF}.{PRECISION}=fp16 {REF}.fsdp_config.model_dtype=fp32",
    f"egrsd {REWARD} reward.custom_reward_function.path=null algorithm.egrsd.length_bonus=0",
    f"egrsd {REWARD} reward.custom_reward_function.path=mine.py reward.reward_model.enable_resource_pool=true",
    f"egrsd {CORRECTION}.rollout_is=token {CORRECTION}.rollout_rs=token_k1",
    f"ssopd {CORRECTION}.rollout_is=token",  # its policy gradient reads the weights
    f"egrsd {NORM} {ACTOR}.loss_scale_factor=512",
    "egrsd critic.enable=false",
    "ssopd algorithm.egrsd.mixing=0.5 algorithm.egrsd.clip_range=0.2",
    "opsd algorithm.egrsd.warmup_steps=1",  # as train.sh of examples/smollm2 says of every preset
]


@pytest.mark.parametrize("words", REFUSED)
def test_what_would_come_out_late_or_never(words):
    algorithm, *overrides = words.split(" ")
    message = refusal_of(*overrides, algorithm=algorithm)
    assert REFUSED[words] in message and message.isprintable()


@pytest.mark.parametrize("words", ALLOWED)
def test_what_works_is_let_through(words):
    algorithm, *overrides = words.split(" ")
    validation.validate(composed(*overrides, algorithm=algorithm))
