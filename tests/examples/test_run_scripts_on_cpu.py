"""The scripts in examples/: compared key by key with the paper, every variable followed to its keys, nothing trained.

PYTHON names a program that prints the arguments it is given, so that a script's command is composed in this process.
Three scripts also run the real command line with ``--cfg job``, which must give the same config.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import yaml
from hydra import compose, initialize_config_module
from inputs import qwen3
from made_up_runs import write_evaluation, write_tokens
from omegaconf import DictConfig, OmegaConf
from runs import ROOT
from verl.utils.config import omega_conf_to_dataclass

import recipe.egrsd.hydra_plugin  # noqa: F401  opens the config group
from recipe.egrsd.config import derived, schema, validation
from recipe.egrsd.doctor import host, memory
from recipe.egrsd.doctor.case import Case
from recipe.egrsd.doctor.shapes import shapes
from recipe.egrsd.machines import attention, slots
from recipe.egrsd.report.runs import read_run

EXAMPLES = ROOT / "examples"
PAPER = json.loads((ROOT / "recipe" / "egrsd" / "config" / "paper.json").read_text())
PRESETS = sorted(path.stem for path in (ROOT / "recipe" / "egrsd" / "config" / "algorithm").glob("*.yaml"))
MODELS = {"Qwen3-4B": "run_qwen3_4b_fsdp.sh", "Qwen3-8B": "run_qwen3_8b_fsdp.sh"}
METRICS_FILE = "ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH"

# The paper's settings by their name in paper.json -> the key that holds them.
KEYS = {
    "clip_range": "algorithm.egrsd.clip_range",
    "floor": "algorithm.egrsd.floor",
    "length_bonus": "algorithm.egrsd.length_bonus",
    "warmup_steps": "algorithm.egrsd.warmup_steps",
    "teacher": "algorithm.egrsd.teacher.kind",
    "lora_rank": "actor_rollout_ref.model.lora_rank",
    "lora_alpha": "actor_rollout_ref.model.lora_alpha",
    "lora_targets": "actor_rollout_ref.model.target_modules",
    "lr": "actor_rollout_ref.actor.optim.lr",
    "adam_betas": "actor_rollout_ref.actor.optim.betas",
    "grad_clip": "actor_rollout_ref.actor.optim.clip_grad",
    "batch": "data.train_batch_size",
    "rollouts_per_prompt": "actor_rollout_ref.rollout.n",
    "steps": "trainer.total_training_steps",
    "temperature": "actor_rollout_ref.rollout.temperature",
    "top_p": "actor_rollout_ref.rollout.top_p",
    "top_k": "actor_rollout_ref.rollout.top_k",
    "max_response_length": "data.max_response_length",
}
# Those that are not one key: what a config makes of them.
DERIVED = {
    "gpus": lambda config: config.trainer.nnodes * config.trainer.n_gpus_per_node,
    "max_sequence": lambda config: config.algorithm.egrsd.teacher.max_prompt_length + config.data.max_response_length,
    "checkpoints": lambda config: [*range(0, config.trainer.total_training_steps + 1, config.trainer.save_freq)][1:],
    "lora_dropout": lambda config: peft.LoraConfig().lora_dropout,  # verl gives peft none, so that peft's default holds
}
ELSEWHERE = {"gamma_window", "data"}  # test_gamma_and_window, test_sources_on_cpu.py

# Every variable of run_qwen3_fsdp.sh: a value unlike any script's default, and the keys it must reach when all are
# given at once.
OPTIM, ROLLOUT = "actor_rollout_ref.actor.optim", "actor_rollout_ref.rollout"
KNOBS = {
    "MODEL": ("me/other", {"actor_rollout_ref.model.path": "me/other"}),
    "ALGORITHM": ("rlsd", {"algorithm.egrsd.mixing": 0.5}),
    "NAME": ("mine", {"trainer.experiment_name": "mine"}),
    "DATA": ("/d", {"data.train_files": "/d/train.parquet", "data.val_files": "/d/validation.parquet"}),
    "SEED": (7, {"data.seed": 7, f"{ROLLOUT}.seed": 7}),
    "GAMMA": (0.6, {"algorithm.egrsd.gamma": 0.6}),
    "WINDOW": (4, {"algorithm.egrsd.window": 4}),
    "CLIP_RANGE": (0.1, {"algorithm.egrsd.clip_range": 0.1}),
    "LENGTH_BONUS": (0, {"algorithm.egrsd.length_bonus": 0}),
    "ROLLOUTS": (4, {f"{ROLLOUT}.n": 4}),
    "TEACHER_KIND": ("live", {"algorithm.egrsd.teacher.kind": "live"}),
    "SYNC_EVERY": (9, {"algorithm.egrsd.teacher.sync_every": 9}),
    "EMA_DECAY": (
        0.9,
        {"algorithm.egrsd.teacher.ema_decay": 0.9, "actor_rollout_ref.ref.fsdp_config.model_dtype": "fp32"},
    ),
    "PRIVILEGE": ("shuffled", {"algorithm.egrsd.privilege": "shuffled"}),
    "STUDENT_THINKING": ("true", {"data.apply_chat_template_kwargs.enable_thinking": True}),
    "TEACHER_THINKING": ("false", {"algorithm.egrsd.teacher.enable_thinking": False}),
    "MAX_RESPONSE": (2000, {"data.max_response_length": 2000}),
    "MAX_SEQUENCE": (
        9000,
        {
            "algorithm.egrsd.teacher.max_prompt_length": 7000,
            f"{ROLLOUT}.log_prob_max_token_len_per_gpu": 9000,
            "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": 9000,
        },
    ),
    "MAX_PROMPT": (500, {"data.max_prompt_length": 500, f"{ROLLOUT}.max_model_len": 2500}),
    "TEMPERATURE": (0.7, {f"{ROLLOUT}.temperature": 0.7}),
    "TOP_P": (0.8, {f"{ROLLOUT}.top_p": 0.8}),
    "TOP_K": (-1, {f"{ROLLOUT}.top_k": -1}),
    "LORA_RANK": (8, {"actor_rollout_ref.model.lora_rank": 8}),
    "LORA_ALPHA": (8, {"actor_rollout_ref.model.lora_alpha": 8}),
    "LORA_TARGETS": ("all-linear", {"actor_rollout_ref.model.target_modules": "all-linear"}),
    "LR": ("2e-5", {f"{OPTIM}.lr": 2e-5}),
    "LR_SCHEDULE": ("cosine", {f"{OPTIM}.lr_scheduler_type": "cosine"}),
    "LR_WARMUP_STEPS": (5, {f"{OPTIM}.lr_warmup_steps": 5}),
    "WEIGHT_DECAY": (0.1, {f"{OPTIM}.weight_decay": 0.1}),
    "GRAD_CLIP": (1.0, {f"{OPTIM}.clip_grad": 1.0}),
    "BATCH": (64, {"data.train_batch_size": 64, "actor_rollout_ref.actor.ppo_mini_batch_size": 64}),
    "STEPS": (5, {"trainer.total_training_steps": 5}),
    "SAVE_FREQ": (3, {"trainer.save_freq": 3}),
    "TEST_FREQ": (3, {"trainer.test_freq": 3}),
    "VAL_SAMPLES": (3, {f"{ROLLOUT}.val_kwargs.n": 3}),
    "VAL_TEMPERATURE": (0.5, {f"{ROLLOUT}.val_kwargs.temperature": 0.5}),
    "VAL_TOP_P": (0.5, {f"{ROLLOUT}.val_kwargs.top_p": 0.5}),
    "LOGGER": ("[console]", {"trainer.logger": ["console"]}),
    "SAVE_TOKENS_EVERY": (3, {"algorithm.egrsd.save_tokens_every": 3}),
    "NNODES": (2, {"trainer.nnodes": 2}),
    "N_GPUS": (4, {"trainer.n_gpus_per_node": 4}),
    "TP": (2, {f"{ROLLOUT}.tensor_model_parallel_size": 2}),
    "GPU_MEMORY": (0.7, {f"{ROLLOUT}.gpu_memory_utilization": 0.7}),
    "MAX_TOKENS_PER_GPU": (5000, {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 5000}),
    "DATA_WORKERS": (3, {"data.filter_overlong_prompts_workers": 3}),
}


@pytest.fixture(scope="module")
def echo(tmp_path_factory) -> Path:
    """Stands in for python: prints its arguments as one line of JSON."""
    path = tmp_path_factory.mktemp("bin") / "echo"
    path.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def arguments(echo, tmp_path):
    """(script, *arguments, **variables) -> the argument lists that it starts python with."""

    def start(script: str, *words: str, **variables) -> list[list[str]]:
        process = shell(script, *words, cwd=tmp_path, **{"PYTHON": echo} | variables)
        assert process.returncode == 0, process.stderr
        return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("[")]

    return start


@pytest.fixture
def composed(arguments):
    """(script, *arguments, **variables) -> the config that its one run would train with."""

    def start(script: str, *words: str, **variables) -> DictConfig:
        (given,) = arguments(script, *words, **variables)
        return config_of(given)

    return start


def shell(script: str, *words: str, cwd: Path, **variables) -> subprocess.CompletedProcess[str]:
    """The script in a shell that has set none of its variables."""
    ours = {*KNOBS, "OUTPUT", "DOCTOR", "RUN", "SWEEPS", "DRY_RUN", "PYTHON"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("VERL_", "HYDRA_"))
    }
    environment = kept | {"PYTHON": sys.executable} | {name: str(value) for name, value in variables.items()}
    return subprocess.run(
        [EXAMPLES / script, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def config_of(given: list[str]) -> DictConfig:
    assert given[:2] == ["-m", "verl.trainer.main_ppo"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", given[2:])


def plain(value):
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


# ---------------------------------------------------------------- the paper


def test_every_setting_of_the_paper_is_compared():
    assert set(PAPER["settings"]) == {*KEYS, *DERIVED, *ELSEWHERE}


@pytest.mark.parametrize("algorithm", ["egrsd", "cl_egrsd"])
@pytest.mark.parametrize("model", MODELS)
def test_settings_are_the_papers(composed, model, algorithm):
    config, settings = composed(MODELS[model], ALGORITHM=algorithm), PAPER["settings"]
    assert config.actor_rollout_ref.model.path == f"Qwen/{model}"
    assert {name: plain(OmegaConf.select(config, key)) for name, key in KEYS.items()} == {
        name: settings[name] for name in KEYS
    }
    assert {name: derive(config) for name, derive in DERIVED.items()} == {name: settings[name] for name in DERIVED}
    assert config.actor_rollout_ref.actor.ppo_mini_batch_size == settings["batch"]  # one update for each batch
    assert config.trainer.max_actor_ckpt_to_keep is None  # none of the four checkpoints is deleted


@pytest.mark.parametrize("model", MODELS)
def test_gamma_and_window(composed, model):
    for algorithm, expected in PAPER["settings"]["gamma_window"][model].items():
        egrsd = composed(MODELS[model], ALGORITHM=algorithm).algorithm.egrsd
        assert [egrsd.gamma, egrsd.window] == expected


def test_nothing_but_the_weighted_policy_gradient_is_trained(composed):
    config = composed("run_qwen3_4b_fsdp.sh")
    assert not config.algorithm.use_kl_in_reward
    assert not config.actor_rollout_ref.actor.use_kl_loss
    assert config.actor_rollout_ref.actor.entropy_coeff == 0
    assert config.actor_rollout_ref.actor.ppo_epochs == 1


def test_the_averages_of_the_papers_table_are_the_averages_of_its_columns():
    for rows in PAPER["results"].values():
        for row in rows.values():
            *accuracies, average, _ = (row[column] for column in PAPER["columns"])
            assert sum(accuracies) / len(accuracies) == pytest.approx(average, abs=0.006)


# ---------------------------------------------------------------- what verl and our own checks say


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


# ---------------------------------------------------------------- machines


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


# ---------------------------------------------------------------- variables


def test_every_variable_is_listed_here():
    script = (EXAMPLES / "run_qwen3_fsdp.sh").read_text()
    assert set(re.findall(r"^ *([A-Z_]+)=\$\{\1:-", script, re.M)) == {*KNOBS, "OUTPUT", "DOCTOR"}
    for path in EXAMPLES.glob("run_qwen3_*_*.sh"):
        of_a_cluster = {"RAY_ADDRESS", "SHIP_RECIPE"} if "multinode" in path.name else set()  # test_nodes_on_cpu.py
        assert set(re.findall(r"\b([A-Z_]+)=\$\{\1:-", path.read_text())) <= {*KNOBS, "OUTPUT", *of_a_cluster}


@pytest.mark.parametrize("script", ["run_qwen3_fsdp.sh", *MODELS.values(), "run_qwen3_0_6b_one_gpu.sh"])
def test_every_variable_reaches_its_keys(composed, script):
    default = composed(script)
    config = composed(script, **{name: value for name, (value, _) in KNOBS.items()})
    for name, (_, expected) in KNOBS.items():
        for key, value in expected.items():
            assert plain(OmegaConf.select(config, key)) == value != plain(OmegaConf.select(default, key)), (name, key)


def test_output(composed, tmp_path):
    config = composed("run_qwen3_4b_fsdp.sh", OUTPUT="here")
    assert config.trainer.default_local_dir == f"{tmp_path}/here/checkpoints"
    assert re.fullmatch(f"{tmp_path}/here/metrics/[0-9]{{8}}T[0-9]{{6}}Z.jsonl", OmegaConf.select(config, METRICS_FILE))
    named = composed("run_qwen3_8b_fsdp.sh", ALGORITHM="grpo")
    assert named.trainer.default_local_dir == f"{tmp_path}/outputs/qwen3-8b-grpo/checkpoints"


def test_the_report_finds_what_a_run_writes(composed, tmp_path):
    """The third command is given the folder of the second: its metrics, tokens, and evaluations put beside them."""
    config = composed("run_qwen3_4b_fsdp.sh", OUTPUT="here")
    metrics = Path(OmegaConf.select(config, METRICS_FILE))
    metrics.write_text(
        '{"step": 25, "data": {"egrsd/gate_mean": 0.9}}\n'
    )  # verl's logger makes no folder: the script has
    write_tokens(Path(config.trainer.default_local_dir).parent, config.algorithm.egrsd.save_tokens_every)
    write_evaluation(tmp_path / "here/evaluated/100", config.trainer.total_training_steps, 0.6, 9000.0)
    run = read_run(tmp_path / "here", "here")
    assert (list(run.metrics), list(run.tokens), list(run.checkpoints)) == ([25], [25], [100])


def test_the_doctor_is_given_what_the_run_is_given(arguments, tmp_path):
    (run,), (doctor,) = (
        arguments("run_qwen3_8b_fsdp.sh", "a=b", **given) for given in ({}, {"DOCTOR": 1, "OUTPUT": "looked"})
    )
    assert (run[1], doctor[1]) == ("verl.trainer.main_ppo", "recipe.egrsd.doctor")
    assert [word.split("=")[0] for word in run[2:]] == [word.split("=")[0] for word in doctor[2:]]
    assert not (tmp_path / "looked").exists()


def test_keys_behind_the_script_win(composed):
    config = composed("run_qwen3_8b_fsdp.sh", "trainer.save_freq=7", "algorithm.egrsd.gamma=0.9", GAMMA=0.1)
    assert (config.trainer.save_freq, config.algorithm.egrsd.gamma) == (7, 0.9)


# ---------------------------------------------------------------- ablations


def test_ablations_are_the_papers_and_ours(arguments):
    runs = [config_of(given) for given in arguments("ablations.sh", "trainer.logger=[console]")]
    egrsds = {run.trainer.experiment_name.removeprefix("ablation-"): validation.validate(run) for run in runs}
    assert len(egrsds) == len(runs)
    assert all(run.trainer.logger == ["console"] for run in runs)
    sweep = {name.removeprefix("gamma-"): egrsd for name, egrsd in egrsds.items() if name.startswith("gamma-")}
    assert {name: egrsd.gamma for name, egrsd in sweep.items()} == {
        name: float(name) for name in PAPER["gamma_sweep"]["Avg"]
    }
    windows = [egrsd.window for name, egrsd in egrsds.items() if name.startswith("window-")]
    assert windows == [int(window) for window in PAPER["lookahead"]["Avg_AvgLen"]]
    teachers = {
        f"{e.teacher.kind}_{e.teacher.sync_every or e.teacher.ema_decay or ''}".rstrip("_") for e in egrsds.values()
    }
    assert teachers == set(PAPER["teacher_update"]["Avg"])
    assert {egrsd.clip_range for egrsd in egrsds.values()} == {0, 0.1, 0.2, 0.4}
    assert egrsds["length_bonus-0"].length_bonus == 0
    made_in_a_step = {*schema.PEER_PRIVILEGES, *schema.FEEDBACK_PRIVILEGES}
    of_other_methods = {"concise", "crosslingual", "answer_contrast", *made_in_a_step}
    assert {egrsd.privilege for egrsd in egrsds.values()} == {*schema.PRIVILEGES} - of_other_methods


def test_a_dry_run_prints_and_starts_nothing(arguments, tmp_path):
    process = shell("ablations.sh", "a=b", cwd=tmp_path, DRY_RUN=1, SWEEPS="gamma", GAMMAS="0.5", RUN="run.sh")
    assert process.stdout == "NAME=ablation-gamma-0.5 ALGORITHM=egrsd GAMMA=0.5 run.sh a=b\n"


def test_a_failing_run_is_named_and_the_others_go_on(tmp_path):
    process = shell("ablations.sh", cwd=tmp_path, SWEEPS="gamma", GAMMAS="0.1 0.2", PYTHON="/bin/false")
    assert process.returncode == 1
    assert process.stderr == "failed: gamma-0.1 gamma-0.2\n"
    assert shell("ablations.sh", cwd=tmp_path, SWEEPS="gama").returncode == 2
