"""The scripts in examples/: verl and our own checks accept what they compose; the memory and CPUs that they state.

Three scripts also run the real command line with ``--cfg job``, which must give the same config.
"""

import re
from types import SimpleNamespace

import pytest
import yaml
from inputs import qwen3
from omegaconf import DictConfig, OmegaConf
from paper import DERIVED, PAPER
from runs import ROOT
from shell_scripts import EXAMPLES, METRICS_FILE, MODELS, shell
from verl.utils.config import omega_conf_to_dataclass

from recipe.egrsd.config import derived, validation
from recipe.egrsd.doctor import host, memory
from recipe.egrsd.doctor.case import Case
from recipe.egrsd.doctor.shapes import shapes
from recipe.egrsd.machines import attention, slots

PRESETS = sorted(path.stem for path in (ROOT / "recipe" / "egrsd" / "config" / "algorithm").glob("*.yaml"))


@pytest.mark.parametrize("lora_rank", [64, 0])
@pytest.mark.parametrize("algorithm", [*PRESETS, "grpo"])
def test_every_algorithm_is_accepted(composed, algorithm, lora_rank):
    accepted(composed("run_qwen3_8b_fsdp.sh", ALGORITHM=algorithm, LORA_RANK=lora_rank))


@pytest.mark.parametrize("script", ["run_qwen3_4b_fsdp.sh", "run_qwen3_0_6b_one_gpu.sh"])
def test_every_script_is_accepted(composed, script):
    accepted(composed(script))


def accepted(config: DictConfig) -> None:
    """By our checks, by verl's, and by arithmetic that neither does."""
    validation.validate(config)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    actor.validate(DERIVED["gpus"](config), config.data.train_batch_size, config.actor_rollout_ref.model)
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    longest_student_row = config.data.max_prompt_length + config.data.max_response_length
    assert actor.ppo_max_token_len_per_gpu >= longest_student_row
    assert config.actor_rollout_ref.rollout.max_model_len == longest_student_row
    assert config.data.filter_overlong_prompts
    assert derived.uses_lora(config) == (config.actor_rollout_ref.rollout.load_format == "safetensors")


def test_an_adapter_is_sent_alone(composed):
    """By the preset: verl cannot send a base with tied embeddings under an adapter."""
    rollout = composed("run_qwen3_4b_fsdp.sh").actor_rollout_ref.rollout
    assert (rollout.load_format, rollout.layered_summon) == ("safetensors", True)


def test_data_that_is_not_there_is_named_before_ray_starts(tmp_path):
    process = shell("run_qwen3_4b_fsdp.sh", "ray_kwargs.ray_init.num_cpus=64", cwd=tmp_path, DATA="nowhere")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith(
        f"EGRSD: data.train_files={tmp_path}/nowhere/train.parquet is not here; "
    )


def test_all_parameters(composed):
    config = composed("run_qwen3_8b_fsdp.sh", LORA_RANK=0)
    assert derived.uses_reference(config)
    assert config.actor_rollout_ref.rollout.load_format == "dummy"
    assert config.actor_rollout_ref.actor.optim.lr == 1e-6
    assert "hf_model" in config.actor_rollout_ref.actor.checkpoint.save_contents
    assert composed("run_qwen3_8b_fsdp.sh", LORA_RANK=0, LR=3e-6).actor_rollout_ref.actor.optim.lr == 3e-6


def test_grpo_is_the_same_trainer_with_every_token_weight_one(composed):
    egrsd = composed("run_qwen3_8b_fsdp.sh", ALGORITHM="grpo").algorithm.egrsd
    assert (egrsd.gamma, egrsd.clip_range, egrsd.mixing, egrsd.advantage) == (0, 0, 1, "running")
    assert egrsd.length_bonus == PAPER["settings"]["length_bonus"]


@pytest.mark.parametrize(
    ("script", "variables"),
    [
        ("run_qwen3_4b_fsdp.sh", {}),
        pytest.param("run_qwen3_8b_fsdp.sh", {"ALGORITHM": "cl_egrsd", "NNODES": 2}, marks=pytest.mark.long),
        pytest.param("run_qwen3_0_6b_one_gpu.sh", {"LORA_RANK": 0}, marks=pytest.mark.long),
    ],
)
def test_the_real_command_line_gives_the_same_config(composed, tmp_path, script, variables):
    process = shell(script, "trainer.logger=[console]", "--cfg", "job", cwd=tmp_path, **variables)
    assert process.returncode == 0, process.stderr
    printed = OmegaConf.create(yaml.safe_load(process.stdout))
    config = composed(script, "trainer.logger=[console]", **variables)
    for each in (printed, config):
        assert OmegaConf.select(each, METRICS_FILE).startswith(str(tmp_path))
        OmegaConf.update(each, METRICS_FILE, "metrics.jsonl")  # its name is the time
    assert printed == config


def memory_lines(config: DictConfig, size: str, gpu_gib: float) -> list[str]:
    """What the doctor estimates: a line for each phase with its terms of 1 GiB and more, as the scripts' comments
    have it."""
    plain = {"trust_remote_code": False, "enable_gradient_checkpointing": True, "lora_adapter_path": None}
    model = config.actor_rollout_ref.model
    adapter = {key: model[key] for key in ("lora_rank", "target_modules", "exclude_modules")}
    case = Case(config, gpu_gib=gpu_gib, model=SimpleNamespace(hf_config=qwen3(size), **plain, **adapter))
    phases = memory.phases(case, shapes(case.model)) | host.demands(case, shapes(case.model))
    lines = []
    for name, terms in phases.items():
        gib = {term.name: term.size / memory.GIB for term in terms}
        large = ", ".join(f"{term} {value:.1f}" for term, value in gib.items() if value >= 1)
        lines.append(f"#   {name}: {sum(gib.values()):.0f} GiB ({large})")
    return lines


@pytest.mark.parametrize(
    ("script", "size", "gpu_gib", "told"),
    [
        ("run_qwen3_fsdp.sh", "8B", 80, "#"),
        ("run_qwen3_4b_fsdp.sh", "4B", 80, "#   host"),
        ("run_qwen3_0_6b_one_gpu.sh", "0.6B", 24, "#"),
    ],
)
def test_the_memory_in_the_comments_is_the_doctors(composed, monkeypatch, script, size, gpu_gib, told):
    text = re.sub(r"\n#     +", " ", (EXAMPLES / script).read_text())  # a line that goes on
    config = composed(script, MODEL=f"Qwen/Qwen3-{size}")
    OmegaConf.resolve(config)
    for module in (memory, attention):
        monkeypatch.setattr(module, "find_spec", lambda package: None)  # no flash attention: what needs more
    lines = [line for line in memory_lines(config, size, gpu_gib) if line.startswith(told)]
    assert lines and not [line for line in lines if line not in text]
    for line in lines:
        assert line.startswith("#   host") or int(re.search(r": (\d+) GiB", line)[1]) < gpu_gib


@pytest.mark.parametrize(
    ("script", "cpus"),
    [("run_qwen3_0_6b_one_gpu.sh", 5), *((name, 26) for name in MODELS.values()), ("run_qwen3_8b_multinode.sh", 51)],
)
def test_the_cpus_that_a_script_holds_of_rays(composed, script, cpus):
    """Those of a rented machine with one GPU and 8 CPUs are enough."""
    config = composed(script)
    OmegaConf.resolve(config)
    assert slots.total(config) == cpus
