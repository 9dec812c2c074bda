"""What must never be silent: each of these settings stops a run with a sentence that names the key and the way out."""

import pytest
from composing import LORA, composed, refusal
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig

from recipe.egrsd import checkpoint, parts
from recipe.egrsd.config import validation
from recipe.egrsd.hydra_plugin import Validation  # opens the config group, too
from recipe.egrsd.machines import attention, models, slots, wandb_login
from recipe.egrsd.privilege import columns

EMA = "algorithm.egrsd.teacher.kind=ema algorithm.egrsd.teacher.ema_decay=0.99"
FLOAT32 = "actor_rollout_ref.ref.fsdp_config.model_dtype=fp32"
UNWEIGHTED = "algorithm.egrsd.gamma=0 algorithm.egrsd.clip_range=0 algorithm.egrsd.length_bonus=0"
OPSD = f"{UNWEIGHTED} algorithm.egrsd.divergence=forward_kl"
BESIDE = "algorithm.egrsd.divergence=forward_kl algorithm.egrsd.pull.policy_gradient=true"
KL_IN_REWARD = "algorithm.use_kl_in_reward=true"
REF, ROLLOUT = "actor_rollout_ref.ref", "actor_rollout_ref.rollout"

SPLIT = "ulysses_sequence_parallel_size=2"
REFUSED = {
    "algorithm.adv_estimator=grpo": "algorithm.egrsd.advantage=grpo",
    "algorithm.rollout_correction.bypass_mode=true": "their ratio would measure the engines",
    "distillation.enabled=true": "replaces the loss",
    "actor_rollout_ref.actor.strategy=fsdp": "actor_rollout_ref.actor.strategy=fsdp is not supported by EGRSD",
    "actor_rollout_ref.ref.strategy=fsdp": "actor_rollout_ref.ref.strategy=fsdp is not supported by EGRSD",
    "model_engine=megatron": "model_engine=megatron is not supported by EGRSD",
    "model_engine=torchtitan": "model_engine=torchtitan is not supported by EGRSD",
    "actor@actor_rollout_ref.actor=veomni_actor": "actor_rollout_ref.actor has no fsdp_config",
    "actor_rollout_ref.actor.checkpoint.async_save=true": "would start at step 0 over the old ones; set it to false",
    "trainer.use_v1=false": "trainer.use_v1=false runs verl's legacy trainer, which would train without EGRSD",
    "trainer.v1.trainer_mode=sync": "trainer_mode=sync selects verl's own trainer, which would train plain GRPO",
    "trainer.v1.trainer_mode=colocate_async": "trainer_mode=colocate_async selects verl's own trainer",
    "trainer.v1.trainer_mode=separate_async": "is not supported by EGRSD: verl then makes several updates in a step",
    "trainer.v1.trainer_mode=egrsd_separate_async": "is not supported by EGRSD",
    "ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR=nvidia": (
        "rounds logits to bfloat16; leave it at egrsd"
    ),
    "actor_rollout_ref.model.use_fused_kernels=true": "no fused kernel was ever run with EGRSD",
    "actor_rollout_ref.ref.log_prob_use_dynamic_bsz=false": (
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu is not set"
    ),
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=8000": "cannot hold one teacher row of up to 8704 tokens",
    f"{LORA} actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=8000": (
        "rollout.log_prob_max_token_len_per_gpu=8000"
    ),
    f"{LORA} actor_rollout_ref.rollout.load_format=dummy": "load_format=dummy sends the base under the adapter, which",
    f"{LORA} actor_rollout_ref.model.lora_adapter_path=adapter": "merge the adapter into the model first",
    "algorithm.egrsd.gamma=-0.1": "use gamma >= 0",
    "algorithm.egrsd.window=-1": "use window >= 0",
    "algorithm.egrsd.floor=1.5": "must lie in [0, 1]",
    "algorithm.egrsd.min_entropy_scale=0": "must be positive (nats)",
    "algorithm.egrsd.clip_range=1": "must lie in [0, 1)",
    "algorithm.egrsd.mixing=1.5": "must lie in [0, 1]",
    "algorithm.egrsd.mixing_decay_steps=0": "must be a number of steps >= 1",
    "algorithm.egrsd.length_bonus=-1": "would punish short answers",
    "algorithm.egrsd.warmup_steps=-1": "must be >= 0",
    "algorithm.egrsd.teacher.kind=newest": "teacher.kind=newest is not available; choose from",
    "algorithm.egrsd.teacher.kind=ema": "teacher.ema_decay=null must lie between 0 and 1",
    "algorithm.egrsd.teacher.kind=snapshot": "teacher.sync_every=null must be a number of steps",
    "algorithm.egrsd.teacher.sync_every=20": "means nothing to teacher.kind=frozen; leave it null",
    "+actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype=fp32": (
        "rounds the teacher's weights before they are used"
    ),
    EMA: "actor_rollout_ref.ref.fsdp_config.model_dtype=bf16 rounds the small steps",
    f"{EMA} {FLOAT32} actor_rollout_ref.actor.use_kl_loss=true": "the KL term of",
    f"{EMA} {FLOAT32} {KL_IN_REWARD} algorithm.egrsd.advantage=grpo": "the KL term of",
    KL_IN_REWARD: "after the running baseline has learnt them, so that every advantage would be shifted by it",
    "data.train_batch_size=300": "is no multiple of actor_rollout_ref.actor.ppo_mini_batch_size=256, so",
    "data.train_batch_size=32": "set the second to 32.",
    f"{ROLLOUT}.tensor_model_parallel_size=3": "8 GPUs cannot be shared out to vLLM engines of 3",
    f"{ROLLOUT}.tensor_model_parallel_size=8 {ROLLOUT}.data_parallel_size=2": "to vLLM engines of 16",
    f"trainer.n_gpus_per_node=1 {ROLLOUT}.tensor_model_parallel_size=2": "use a divisor of 1.",
    "trainer.n_gpus_per_node=3": "cannot be shared equally by the 3 data-parallel ranks of trainer.n_gpus_per_node=3",
    "trainer.n_gpus_per_node=3 trainer.nnodes=2": "x trainer.nnodes=2; use a multiple of 6.",
    "data.train_batch_size=48 actor_rollout_ref.actor.ppo_mini_batch_size=32": "set the second to 24.",
    "algorithm.egrsd.teacher.kind=live actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=8000": (
        "rollout.log_prob_max"
    ),
    "algorithm.egrsd.teacher.max_prompt_length=0": "must be positive",
    "algorithm.egrsd.teacher.template=nowhere.jinja": "is not a file",
    "algorithm.egrsd.privilege=hint": "privilege=hint is not available; choose from",
    "algorithm.egrsd.save_tokens_every=0": "must be a number of steps >= 1, or null",
    "algorithm.egrsd.divergence=kl": "divergence=kl is not available; choose from",
    "algorithm.egrsd.divergence_clip=0.05": "means nothing to divergence=null; leave it null",
    "algorithm.egrsd.divergence=forward_kl": "gamma=0.3 means nothing to algorithm.egrsd.divergence=forward_kl",
    f"{OPSD} algorithm.egrsd.divergence_clip=0": "must be positive (nats), or null",
    f"{OPSD} algorithm.egrsd.divergence_clip_low=0.05": "must be negative, with a divergence",
    "algorithm.egrsd.divergence_clip_low=-0.05": "must be negative, with a divergence",
    "algorithm.egrsd.pull.policy_gradient=true": "means nothing to divergence=null; leave it at false",
    f"{OPSD} algorithm.egrsd.pull.coefficient=0": "leaves no loss with pull.policy_gradient=false",
    f"{OPSD} algorithm.egrsd.pull.coefficient=-1": "would push away from the teacher; use >= 0",
    f"{OPSD} algorithm.egrsd.pull.rows=best": "pull.rows=best is not available; choose from",
    f"{OPSD} algorithm.egrsd.pull.weighting=mean": "pull.weighting=mean is not available; choose from",
    f"{OPSD} algorithm.egrsd.pull.tokens=0": "pull.tokens=0 must be >= 1, or null",
    f"{OPSD} algorithm.egrsd.divergence_beta=0.3": "means nothing to divergence=forward_kl; leave it",
    "algorithm.egrsd.divergence_beta=0.3": "divergence_beta=0.3 means nothing to divergence=null; leave it at 0.5",
    "algorithm.egrsd.divergence_beta=1": "must lie between 0 and 1, which are forward_kl and reverse_kl",
    f"{OPSD} algorithm.egrsd.pull.propagation=-1": "pull.propagation=-1.0 must be >= 0, or null",
    "algorithm.egrsd.pull.propagation=5": "pull.propagation=5.0 means nothing to divergence=null; leave it at null",
    "algorithm.egrsd.pull.rows=wrong": "pull.rows=wrong means nothing to divergence=null; leave it at all",
    "algorithm.egrsd.pull.tokens=1024": "pull.tokens=1024 means nothing to divergence=null; leave it at null",
    "algorithm.egrsd.pull.weighting=response_mean": "means nothing to divergence=null; leave it at token_mean",
    "algorithm.egrsd.pull.coefficient=2": "pull.coefficient=2.0 means nothing to divergence=null; leave it at 1",
    "algorithm.egrsd.pull.warmup_steps=2": "pull.warmup_steps=2 means nothing to divergence=null; leave it at null",
    "algorithm.egrsd.pull.decay_steps=2": "pull.decay_steps=2 means nothing to divergence=null; leave it at null",
    f"{OPSD} actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean": "algorithm.egrsd.pull.weighting says how",
    "+algorithm.egrsd.pull.row=all": "algorithm.egrsd.pull has unknown key(s) ['row']",
    f"{OPSD} actor_rollout_ref.actor.{SPLIT}": "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2 splits rows",
    f"{OPSD} actor_rollout_ref.actor.fsdp_config.{SPLIT}": (
        "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2 splits rows"
    ),
    f"{OPSD} actor_rollout_ref.actor.use_kl_loss=true": "use_kl_loss=True adds a term to the loss",
    f"{OPSD} actor_rollout_ref.actor.entropy_coeff=0.01": (
        "entropy_coeff=0.01 asks for an entropy beside the divergence"
    ),
    f"{BESIDE} actor_rollout_ref.actor.entropy_coeff=0.01": (
        "entropy_coeff=0.01 asks for an entropy beside the divergence"
    ),
    f"{BESIDE} actor_rollout_ref.actor.calculate_entropy=true": "which is not computed",
    f"{OPSD} algorithm.egrsd.pull.weighting=frontier": "rollout.n=1 samples one, so that every weight is 0",
    f"{OPSD} {KL_IN_REWARD}": "use_kl_in_reward=True changes rewards, which are not used",
    "algorithm.egrsd.gamma=null": "algorithm.egrsd.gamma=null is NoneType; it should be a valid number.",
    "algorithm.egrsd.window=2.5": "algorithm.egrsd.window=2.5 is float; it should be a valid integer.",
    "trainer.resume_mode=resume_path": (
        "resume_from_path=null names no checkpoint, which trainer.resume_mode=resume_path needs"
    ),
    "data.max_response_length=null": "data.max_response_length=null is NoneType; it should be a valid integer.",
    "data.seed=${nowhere}": "data.seed: Interpolation key 'nowhere' not found.",
    "+algorithm.egrsd.gama=0.3": "unknown key(s) ['gama']",
    "+algorithm.egrsd.teacher.sync=1": "unknown key(s) ['sync']",
    "~algorithm.egrsd.floor": "missing key(s) ['floor']",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_is_refused_is_named(overrides):
    """By what hydra calls before the job, and by the trainer, which other entry points meet first."""
    config = composed(*overrides.split(" "))
    with pytest.raises(SystemExit) as stopped:
        Validation().on_job_start(config)
    message = str(stopped.value)
    assert REFUSED[overrides] in message
    with pytest.raises(ValueError, match=r".") as refused:
        checked(config)
    assert message == f"EGRSD: {refused.value}" and message.isprintable()


@pytest.mark.parametrize(
    "overrides",
    [
        "model_engine=megatron",
        "trainer.use_v1=false",
        "algorithm.egrsd.gamma=null",
        "~algorithm.egrsd.floor",
        f"{LORA} actor_rollout_ref.rollout.load_format=dummy",
        "data.seed=${nowhere}",
    ],
)
def test_the_command_line_ends_in_the_refusal(overrides, monkeypatch, tmp_path):
    """A file, a value, its type, a key that is gone, two keys, what cannot be resolved: through main_ppo itself."""
    assert REFUSED[overrides] in refusal(monkeypatch, tmp_path, *overrides.split(" "))


def checked(config: DictConfig) -> None:
    """What the trainer's constructor does first."""
    validation.validate(config)
    checkpoint.folder_to_resume(config)


@pytest.mark.parametrize(
    "overrides",
    [
        f"actor_rollout_ref.model.use_remove_padding=false {REF}.entropy_from_logits_with_chunking=false",
        f"{LORA} {REF}.log_prob_max_token_len_per_gpu=100",
        f"{REF}.log_prob_max_token_len_per_gpu=4352 {REF}.ulysses_sequence_parallel_size=2",
        f"{LORA} actor_rollout_ref.actor.fsdp_config.{SPLIT} {ROLLOUT}.log_prob_max_token_len_per_gpu=4352",
        f"{EMA} {FLOAT32}",
        f"{EMA} {LORA} actor_rollout_ref.model.lora_adapter_path=adapter actor_rollout_ref.actor.use_kl_loss=true",
        f"algorithm.egrsd.teacher.kind=live {REF}.log_prob_max_token_len_per_gpu=100",
        f"{KL_IN_REWARD} algorithm.egrsd.advantage=grpo",
        f"trainer.n_gpus_per_node=6 actor_rollout_ref.rollout.n=3 {REF}.log_prob_max_token_len_per_gpu=9000",
    ],
)
def test_allowed(overrides):
    validation.validate(composed(*overrides.split(" ")))


def test_a_misspelt_key_is_refused_by_hydra():
    with pytest.raises(ConfigCompositionException):
        composed("algorithm.egrsd.gama=0.3")


def test_a_reference_to_nothing_in_what_ray_is_told_is_named():
    with pytest.raises(SystemExit, match=r"^EGRSD: Interpolation key 'nowhere' not found$"):
        Validation().on_run_start(composed("ray_kwargs.ray_init.num_cpus=${nowhere}"))


CHECKS = [
    (validation, "validate"), (parts, "check"), (checkpoint, "folder_to_resume"), (attention, "refuse"),
    (slots, "check_before_ray"), (validation, "check_data_files"), (models, "located"), (columns, "check"),
    (wandb_login, "check"), (slots, "check_when_ray_has_started"),
]  # fmt: skip


def test_every_check_is_made_once_before_a_run(monkeypatch):
    """What each of them refuses, its own tests say; here nothing is refused."""
    config, made = composed(), []

    def recorded(check: str):
        return lambda *given: made.append((check, *given)) or "the settings"

    for module, name in CHECKS:
        monkeypatch.setattr(module, name, recorded(f"{module.__name__.rsplit('.', 1)[1]}.{name}"))
    Validation().on_job_start(config)
    assert made == [
        ("validation.validate", config),
        ("parts.check", config, "the settings"),
        ("checkpoint.folder_to_resume", config),
        ("attention.refuse", config),
        ("slots.check_before_ray", config),
        ("validation.check_data_files", config.data),
        ("models.located", config),
        ("columns.check", config, "the settings"),
        ("wandb_login.check", config),
        ("slots.check_when_ray_has_started", config),
    ]
