"""What must never be silent: each of these settings stops a run with a sentence that names the key and the way out."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from composing import PRESETS, composed, refusal
from hydra.errors import ConfigCompositionException
from inputs import write_inputs
from omegaconf import DictConfig, OmegaConf
from runs import ROOT, run
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from examples.tiny_cpu.task import make_problems, verl_row
from recipe.egrsd import checkpoint
from recipe.egrsd.config import validation, verl_version
from recipe.egrsd.hydra_plugin import Validation  # opens the config group, too

LORA = "actor_rollout_ref.model.lora_rank=8"
EMA = "algorithm.egrsd.teacher.kind=ema algorithm.egrsd.teacher.ema_decay=0.99"
FLOAT32 = "actor_rollout_ref.ref.fsdp_config.model_dtype=fp32"
UNWEIGHTED = "algorithm.egrsd.gamma=0 algorithm.egrsd.clip_range=0 algorithm.egrsd.length_bonus=0"
OPSD = f"{UNWEIGHTED} algorithm.egrsd.divergence=forward_kl"
BESIDE = "algorithm.egrsd.divergence=forward_kl algorithm.egrsd.pull.policy_gradient=true"
KL_IN_REWARD = "algorithm.use_kl_in_reward=true"
REF, ROLLOUT = "actor_rollout_ref.ref", "actor_rollout_ref.rollout"
ENOUGH = "ray_kwargs.ray_init.num_cpus=64"
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


@pytest.mark.parametrize("algorithm", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_trains_under_fsdp2(algorithm):
    """The strategy of every test here; verl's own default is fsdp."""
    parts = composed(algorithm=algorithm).actor_rollout_ref
    assert (parts.actor.strategy, parts.ref.strategy) == ("fsdp2", "fsdp2")


def test_the_presets_are_valid():
    egrsd = validation.validate(composed())
    assert (egrsd.gamma, egrsd.window, egrsd.clip_range, egrsd.teacher.kind) == (0.3, 0, 0.2, "frozen")
    assert validation.validate(composed(algorithm="cl_egrsd")).window == 3
    assert validation.validate(composed(algorithm="egrsd_ungated")).gamma == 0
    rlsd = validation.validate(composed(algorithm="rlsd"))
    assert [rlsd.mixing_at(step) for step in (1, 26, 50, 51, 100)] == pytest.approx([0.5, 0.25, 0.01, 0.0, 0.0])
    assert (rlsd.gamma, rlsd.advantage, rlsd.teacher.kind, rlsd.teacher.sync_every) == (0, "grpo", "snapshot", 20)
    opsd, crisp = (validation.validate(composed(algorithm=name)) for name in ("opsd", "crisp"))
    assert (opsd.divergence, opsd.divergence_clip, opsd.privilege) == ("forward_kl", 0.05, "solution")
    assert opsd.teacher.kind == "frozen"
    op2sd = validation.validate(composed(algorithm="op2sd"))
    assert op2sd == replace(opsd, privilege="other_problem")
    copsd = validation.validate(composed(algorithm="copsd"))
    assert copsd == replace(opsd, privilege="crosslingual") and copsd.teacher.problem_key == "problem_en"
    assert (crisp.divergence, crisp.divergence_clip, crisp.privilege) == ("reverse_kl", None, "concise")
    assert (crisp.teacher.kind, crisp.teacher.sync_every) == ("snapshot", 50)
    dash = validation.validate(composed(algorithm="dash"))
    assert (dash.divergence_knobs, dash.privilege) == (opsd.divergence_knobs, "solution")
    assert (dash.pull.propagation, dash.pull.weighting, dash.rewards_count) == (5.0, "response_mean", False)
    hsd = validation.validate(composed(algorithm="hsd"))
    assert (hsd.divergence_knobs["clip"], hsd.privilege, hsd.teacher.kind) == (None, "answer_and_peer", "live")
    assert (hsd.pull.rows, hsd.pull.weighting, hsd.rewards_count) == ("all", "response_mean", False)
    ssopd, oasis = (validation.validate(composed(algorithm=name)) for name in ("ssopd", "oasis"))
    assert (ssopd.pull.coefficient, ssopd.pull.tokens, ssopd.pull.rows) == (0.5, 1024, "longest_wrong")
    assert ssopd.rewards_count and ssopd.pulls and not ssopd.weighs and ssopd.privilege == "peer_correct"
    assert (oasis.pull.rows, oasis.privilege, oasis.rewards_count) == ("shortest_correct", "peer_wrong", False)
    ogls = validation.validate(composed(algorithm="ogls_sd"))
    assert (ogls.divergence, ogls.divergence_clip, ogls.divergence_clip_low) == ("reverse_kl", 0.05, -0.05)
    assert (ogls.pull.rows, ogls.pull.tokens, ogls.pull.weighting) == ("wrong", 1024, "token_mean")
    assert (ogls.privilege, ogls.teacher.kind, ogls.rewards_count) == ("peers", "frozen", False)
    strengths = [ogls.steering.strength_at(step) for step in (1, 26, 51, 100)]
    assert strengths == [0, 1.5, 3, 3] and ogls.steering.own_response


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


def test_a_pattern_of_files_is_taken(tmp_path):
    """verl's reader expands it."""
    (tmp_path / "part-1.parquet").touch()
    validation.check_data_files(OmegaConf.create({"train_files": f"{tmp_path}/part-*.parquet", "val_files": []}))
    with pytest.raises(ValueError, match=r"data.train_files=.*/other-\*.parquet is not here"):
        validation.check_data_files(OmegaConf.create({"train_files": f"{tmp_path}/other-*.parquet"}))


def test_a_misspelt_key_is_refused_by_hydra():
    with pytest.raises(ConfigCompositionException):
        composed("algorithm.egrsd.gama=0.3")


def test_an_adapter_is_sent_alone():
    """verl cannot send a base with tied embeddings under an adapter; what the user says wins."""

    def loading(*overrides: str) -> list:
        rollout = composed(*overrides).actor_rollout_ref.rollout
        return [rollout.load_format, rollout.layered_summon]

    assert loading() == loading(LORA, "actor_rollout_ref.model.lora.merge=true") == ["dummy", False]
    assert loading(LORA) == loading("actor_rollout_ref.model.lora_adapter_path=adapter") == ["safetensors", True]
    assert loading(LORA, "actor_rollout_ref.rollout.load_format=auto") == ["auto", True]
    assert loading(LORA, "actor_rollout_ref.rollout.layered_summon=false") == ["safetensors", False]


TEACHER, RESPONSE = "algorithm.egrsd.teacher.max_prompt_length", "data.max_response_length"


@pytest.mark.parametrize(
    ("overrides", "packs"),
    [
        # verl's defaults: prompt and response 512, the teacher's prompt 8192
        ([], [1024, 8704, 8704]),
        ([f"{TEACHER}=256", "data.max_prompt_length=128", f"{RESPONSE}=64"], [1024, 1024, 1024]),
        (["data.max_prompt_length=1000", f"{RESPONSE}=200", f"{TEACHER}=1500"], [1200, 1700, 1700]),
        (
            ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=640", f"{TEACHER}=400", f"{RESPONSE}=64"],
            [640, 640, 640],
        ),
        (["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=2048", f"{TEACHER}=400"], [2048, 2048, 2048]),
    ],
)
def test_packs_that_suit_a_cpu(overrides, packs, monkeypatch):
    """1,024 tokens or one row; what is typed for the actor is the scoring engines', too, as it is verl's."""
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    config = composed(*overrides)
    validation.validate(config)
    parts = config.actor_rollout_ref
    limits = [
        parts.actor.ppo_max_token_len_per_gpu,
        *(parts[p].log_prob_max_token_len_per_gpu for p in ("ref", "rollout")),
    ]
    assert limits == packs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_key_is_the_precision_of_a_cpu_run(dtype, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    parts = composed(*[f"actor_rollout_ref.rollout.dtype={dtype}"] * (dtype != "float32")).actor_rollout_ref
    mixed = [parts[part].fsdp_config.mixed_precision for part in ("actor", "ref")]
    assert parts.rollout.dtype == dtype
    assert [part.param_dtype for part in mixed] == [parts.ref.fsdp_config.model_dtype] * 2 == [dtype] * 2
    assert [part.reduce_dtype for part in mixed] == ["fp32"] * 2 and parts.actor.fsdp_config.model_dtype == "fp32"


def threads_of_a_rank(*overrides: str) -> str:
    """What Ray would be told, of a run that hydra starts."""
    config = composed(*overrides)
    Validation().on_run_start(config)
    return OmegaConf.to_container(config.ray_kwargs.ray_init)["runtime_env"]["env_vars"]["OMP_NUM_THREADS"]


@pytest.mark.parametrize(("ranks", "threads"), [(1, "8"), (3, "2"), (16, "1")])
def test_the_ranks_of_a_cpu_run_share_the_cores(ranks, threads, monkeypatch):
    """Ray gives an actor that asks for no CPU one thread: half of a machine of two cores stood idle."""
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert threads_of_a_rank(f"trainer.n_gpus_per_node={ranks}") == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_of_a_rank(f"trainer.n_gpus_per_node={ranks}") == "5"


def test_a_reference_to_nothing_in_what_ray_is_told_is_named():
    with pytest.raises(SystemExit, match=r"^EGRSD: Interpolation key 'nowhere' not found$"):
        Validation().on_run_start(composed("ray_kwargs.ray_init.num_cpus=${nowhere}"))


def test_a_precision_that_fsdp_does_not_know_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    with pytest.raises(
        ValueError, match=r"fsdp_config.model_dtype=auto is str; it should be 'fp32', 'float32', 'bf16'"
    ):
        validation.validate(composed("actor_rollout_ref.rollout.dtype=auto"))


def test_files_that_are_not_there_stop_the_command_line(monkeypatch, tmp_path):
    """Rows, then the model, each within a second of the composed config, before Ray starts."""
    nowhere, model = f"{tmp_path}/train.parquet", f"actor_rollout_ref.model.path={tmp_path}/model"
    message = refusal(monkeypatch, tmp_path / "run", ENOUGH, f"data.train_files={nowhere}", model)
    assert (
        f"data.train_files={nowhere} is not here; write it with python -m recipe.egrsd.prepare_data, or correct"
        in message
    )
    Path(nowhere).touch()
    files = [f"data.{name}_files=[{nowhere}]" for name in ("train", "val")]
    message = refusal(monkeypatch, tmp_path / "run", ENOUGH, *files, model)
    assert f"{model} is no folder here, and cannot be a name on the hub (owner/model); correct it." in message


def test_a_relative_model_folder_reaches_the_run_as_an_absolute_one(monkeypatch, tmp_path):
    """Ray's processes may stand elsewhere; an empty folder is refused under the name that they would have been
    given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.parquet").touch()
    files = [f"data.{name}_files={tmp_path}/rows.parquet" for name in ("train", "val")]
    message = refusal(monkeypatch, tmp_path / "run", ENOUGH, *files, "actor_rollout_ref.model.path=model")
    assert f"actor_rollout_ref.model.path={tmp_path}/model holds no weights" in message


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, train=8)
    rows = [verl_row(problem, index) for index, problem in enumerate(make_problems("train", 8, seed=0))]
    for row, solution in {2: None, 5: "  ", 6: "so " * 300}.items():
        rows[row]["extra_info"]["solution"] = solution
    pq.write_table(pa.Table.from_pylist(rows), folder / "bad.parquet")
    return folder


def test_a_torn_checkpoint_stops_the_command_line(monkeypatch, tmp_path):
    """Here where the launching machine sees the folder, in the trainer's constructor in any case
    (test_checkpoint_on_cpu.py)."""
    (tmp_path / "global_step_2" / "actor").mkdir(parents=True)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("2")
    message = refusal(monkeypatch, tmp_path / "run", f"trainer.default_local_dir={tmp_path}")
    assert "the checkpoint is torn or was not written by EGRSD" in message
    assert all(f"no {file}" in message for file in ("egrsd.json", "data.pt"))


def test_checkpoints_without_a_tracker_stop_the_command_line(monkeypatch, tmp_path):
    (tmp_path / "global_step_2").mkdir()
    torch.save({}, tmp_path / "global_step_2" / "data.pt")
    message = refusal(monkeypatch, tmp_path / "run", f"trainer.default_local_dir={tmp_path}")
    assert (
        f"{tmp_path}/global_step_2 is a complete checkpoint, but there is no latest_checkpointed_iteration.txt"
        in message
    )


@pytest.mark.slow
@pytest.mark.long
def test_bad_rows_stop_the_run(inputs, tmp_path):
    result = run(inputs, tmp_path, [f"data.train_files={inputs}/bad.parquet"], timeout=200)
    assert result.returncode not in (0, None)
    assert "cannot use 3 of 8 training rows" in result.log
    for reason in (
        "row 2: extra_info.solution is NoneType, expected the solution as a string",
        "row 5: extra_info.solution is empty",
        "row 6: the teacher prompt has more than algorithm.egrsd.teacher.max_prompt_length=256 tokens",
    ):
        assert reason in result.log
    assert not (tmp_path / "probe").exists()  # no worker was started


@pytest.mark.slow
@pytest.mark.long
def test_a_broken_teacher_stops_the_run(inputs, tmp_path):
    """The reference worker's weights become NaN; the student's stay."""
    result = run(inputs, tmp_path, timeout=200, EGRSD_POISON="1")
    assert result.returncode not in (0, None)
    assert "ValueError: the teacher's log_probs is nan for sample" in result.log
    assert "at response token 0; the teacher's weights or the logits are broken." in result.log


@pytest.mark.slow
@pytest.mark.long
def test_verls_own_engine_is_refused(inputs, tmp_path):
    """LoRA, because verl's engine cannot build a reference model on a CPU."""
    result = run(inputs, tmp_path, [LORA], timeout=200, EGRSD_HIDE_ENGINE="1")
    assert result.returncode not in (0, None)
    assert "TypeError: verl chose FSDPEngineWithLMHead, which rounds logits to bfloat16" in result.log
    assert not list((tmp_path / "probe").glob("*.pt"))  # nothing was trained


@pytest.mark.slow
@pytest.mark.long
def test_a_model_that_softcaps_its_logits_is_refused(inputs, tmp_path):
    """A tiny Gemma 2: before the first step, and by the worker, which has the model."""
    shutil.copytree(inputs / "model", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    shape = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    config = Gemma2Config(vocab_size=len(tokenizer), num_key_value_heads=1, **shape)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "model")
    result = run(inputs, tmp_path / "run", [f"actor_rollout_ref.model.path={tmp_path / 'model'}"], timeout=200)
    assert result.returncode not in (0, None)
    assert "Gemma2ForCausalLM changes the logits of its head (a softcap or a scale" in result.log


@pytest.mark.parametrize("allowed", ["", pytest.param("1", marks=pytest.mark.long)])
def test_a_verl_out_of_range_is_named(allowed, inputs, tmp_path):
    """Another version in front of the installed one, as the metadata of a package that importlib.metadata finds
    first."""
    info = tmp_path / "verl-0.10.0.dev0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: verl\nVersion: 0.10.0.dev0\n")
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests' / 'support'}", "EGRSD_ALLOW_UNTESTED_VERL": allowed}
    result = run(inputs, tmp_path / "run", ["trainer.use_v1=false"], timeout=100, **env)
    assert result.returncode not in (0, None)
    said = f"EGRSD: EGRSD was tested with {verl_version.required()}; this is verl 0.10.0.dev0."
    if allowed:
        assert f"{said} It runs because EGRSD_ALLOW_UNTESTED_VERL=1.\n" in result.log
        assert "EGRSD: trainer.use_v1=false runs verl's legacy trainer" in result.log
    else:
        assert (
            f"{said[:-1]}. Install a version in that range, or set EGRSD_ALLOW_UNTESTED_VERL=1 to try this one."
            in result.log
        )
