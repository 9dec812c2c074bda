"""The doctor on a config: keys that contradict each other, a checkpoint to resume from, batch sizes, token limits,
Ray's CPUs."""

import json
import shutil

import pytest
from findings import GREEN, RED, YELLOW, examine_only, said
from transformers import Qwen3NextConfig

from recipe.egrsd import checkpoint
from recipe.egrsd.doctor import checks, host

REFUSED = {
    "trainer.use_v1=false": "verl's legacy trainer",
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=100": "cannot hold one teacher row",
    "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2 actor_rollout_ref.model.use_remove_padding=false": (
        "you must enable `use_remove_padding`"  # verl's own refusal
    ),
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_config(case, overrides):
    findings = examine_only(case(*overrides.split(" ")), "config")
    assert REFUSED[overrides] in said(findings, RED)


@pytest.mark.parametrize(
    ("overrides", "shares"),
    [
        ([], "fewer than 33% (short responses) to 50% (long ones) are right"),  # 0.5 / 1.5, 0.5 / 1
        (["algorithm.egrsd.length_bonus=0"], "fewer than 50% (short responses) to 50% (long ones) are right"),
        (["algorithm.egrsd.warmup_steps=1"], ""),
        (["algorithm.egrsd.advantage=grpo"], ""),
    ],
)
def test_whom_the_first_steps_push_down(case, overrides, shares):
    spoken = said(list(checks.settings(case(*overrides))), GREEN)
    assert shares in spoken and ("push down" in spoken) == bool(shares)


def test_an_adapter_is_looked_at_where_vllm_is_not_installed(case, monkeypatch):
    """verl's validate_config would end there; everything but the rank is still checked."""
    monkeypatch.setattr(checks, "installed", lambda name: None)
    lora = "actor_rollout_ref.model.lora_rank=8"
    findings = examine_only(case(lora), "config")
    assert not said(findings, RED) and "whether vLLM takes this lora_rank was not asked" in said(findings, YELLOW)
    broken = next(overrides for overrides in REFUSED if "use_remove_padding" in overrides)
    assert REFUSED[broken] in said(examine_only(case(lora, *broken.split(" ")), "config"), RED)


def test_resume(case, tmp_path):
    assert said(list(checks.resume(case())), GREEN) == "starts from the initial weights"
    (tmp_path / "checkpoints" / "global_step_2").mkdir(parents=True)
    assert "global_step_2 holds no complete checkpoint" in said(list(checks.resume(case())), GREEN)
    (tmp_path / "checkpoints" / checkpoint.TRACKER).write_text("2")
    assert "the checkpoint is torn" in said(examine_only(case(), "resume"), RED)


def test_a_model_whose_packs_leak_is_red_and_padded_green(case, inputs, tmp_path):
    folder = shutil.copytree(inputs / "model", tmp_path / "model")
    sizes = json.loads((folder / "config.json").read_text())
    layers = ["linear_attention", "full_attention"]
    kept = {name: sizes[name] for name in ("vocab_size", "hidden_size", "eos_token_id", "pad_token_id")}
    Qwen3NextConfig(
        **kept, num_hidden_layers=2, layer_types=layers, architectures=["Qwen3NextForCausalLM"]
    ).save_pretrained(folder)
    named, padded = f"actor_rollout_ref.model.path={folder}", "actor_rollout_ref.model.use_remove_padding=false"
    assert f"set {padded}" in said(examine_only(case(named), "model"), RED)
    assert "Qwen3NextForCausalLM" in said(examine_only(case(named, padded), "model"), GREEN)


@pytest.mark.parametrize(
    ("overrides", "level", "reason"),
    [
        (["data.train_batch_size=4"], YELLOW, "2 update(s) a batch; the paper makes one"),
        (["actor_rollout_ref.actor.ppo_epochs=2"], YELLOW, "2 update(s) a batch"),
        ([], GREEN, "1 update(s) a batch"),
    ],
)
def test_batches(case, overrides, level, reason):
    assert reason in said(list(checks.batches(case(*overrides))), level)


BUDGETS = {
    "actor_rollout_ref.rollout.max_model_len=50": "student row {student_row} > 50 (vLLM's max_model_len)",
    "actor_rollout_ref.rollout.max_model_len=700": "row of vLLM 700 > 640 (the model's max_position_embeddings)",
    "data.max_response_length=600": "teacher row {long_row} > 640 (the model's max_position_embeddings)",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=50": (
        "student row {student_row} > 50 (actor_rollout_ref.actor.ppo_max"
    ),
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=50": (
        "student row {student_row} > 50 (actor_rollout_ref.rollout."
    ),
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=100": (
        "teacher row {teacher_row} > 100 (actor_rollout_ref.ref."
    ),
}


@pytest.mark.parametrize("override", BUDGETS)
def test_token_budgets(case, override):
    built = case(override, rows=True)
    student, teacher = built.longest_student_prompt, built.longest_teacher_prompt
    lengths = {"student_row": student + 24, "teacher_row": teacher + 24, "long_row": teacher + 600}
    assert BUDGETS[override].format(**lengths) in said(list(checks.budgets(built)), RED)


@pytest.mark.parametrize(
    "key", ["actor.ulysses_sequence_parallel_size", "actor.fsdp_config.ulysses_sequence_parallel_size"]
)
def test_ranks_that_share_a_row_have_its_tokens_between_them(case, key):
    """By the key that verl calls deprecated and by the one that it names instead."""
    limit = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
    found = checks.budgets(case(f"{limit}=50", f"actor_rollout_ref.{key}=2", rows=True))
    assert any(f"100 ({limit})" in finding.text for finding in found)


def test_a_prompt_that_is_just_short_enough_fits(case):
    longest = case(rows=True).longest_student_prompt
    assert not said(list(checks.budgets(case(f"data.max_prompt_length={longest}", rows=True))), RED)
    with pytest.raises(ValueError, match=rf"prompts have more than data.max_prompt_length={longest - 1} tokens"):
        case(f"data.max_prompt_length={longest - 1}", rows=True)


@pytest.mark.parametrize("response", [24, 2000])
@pytest.mark.parametrize("algorithm", ["rlcsd", "ssopd", "hsd", "ogls_sd", "sipo"])
def test_the_longest_prompt_of_a_teacher_that_is_shown_a_response_or_an_answer(case, algorithm, response):
    """What stands around it, and as many tokens as it may have: an answer 1,000 characters, not the limit of 8,192."""
    words = ["algorithm.egrsd.teacher.max_prompt_length=8192", f"data.max_response_length={response}"]
    built = case(*words, algorithm=algorithm, rows=True)
    own = "teacher_solution_ids" if algorithm == "ogls_sd" else "teacher_answer_ids"
    own = max(map(len, built.rows.dataframe[own])) if algorithm in ("ogls_sd", "sipo") else 0
    most = max(own, min(1000, response) if algorithm == "sipo" else response)
    assert built.longest_teacher_prompt == max(map(len, built.teacher_ids)) + most
    built.model.hf_config.max_position_embeddings = 4096
    if algorithm == "sipo":
        assert "model's max_position" not in said(list(checks.budgets(built)), RED)


@pytest.mark.parametrize(
    ("cpus", "told", "level", "reason"),
    [
        (
            2,
            None,
            YELLOW,
            "a run holds 26; this machine has 2, and a run would be refused. Ray counts CPUs and reserves none",
        ),
        (
            26,
            None,
            GREEN,
            "holds 26; this machine has 26\n  1 for TransferQueue's controller: transfer_queue/controller.py:943",
        ),
        (64, 25, RED, "a run holds 26; Ray is told that it has 25, and a run would be refused"),
        (2, 26, GREEN, "a run holds 26; Ray is told that it has 26\n"),
    ],
)
def test_rays_cpus(case, monkeypatch, tmp_path, cpus, told, level, reason):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("os.cpu_count", lambda: cpus)
    overrides = ["trainer.n_gpus_per_node=8"] + [f"ray_kwargs.ray_init.num_cpus={told}"] * (told is not None)
    assert reason in said(list(host.cpus(case(*overrides))), level)


def test_a_logger_that_nobody_is_logged_in_to(case, monkeypatch, tmp_path):
    """No reason to stop here: the run may be started elsewhere."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    found = examine_only(case("trainer.logger=[console,wandb]"), "logger")
    assert "nobody is logged in here" in said(found, YELLOW) and not said(found, RED)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert said(examine_only(case("trainer.logger=[console,wandb]"), "logger"), GREEN)
