"""Teachers that move, in whole runs: what they score is what a plain transformers forward of the expected weights
gives."""

import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from plain import plain_forward
from runs import COIN_REWARD, DESCENT, LORA, MODES, TEMPERATURE, Run, adapter, good, parameters, replaying, run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from recipe.egrsd import checkpoint
from recipe.egrsd.teacher.worker import move_towards

Weights = dict[str, torch.Tensor]
DECAY = 0.5
KINDS = {
    "snapshot": ["algorithm.egrsd.teacher.kind=snapshot", "algorithm.egrsd.teacher.sync_every=2"],
    "ema": ["algorithm.egrsd.teacher.kind=ema", f"algorithm.egrsd.teacher.ema_decay={DECAY}"],
    "live": ["algorithm.egrsd.teacher.kind=live"],
}
STUDENTS = {"full": ["trainer.n_gpus_per_node=2"], "lora": LORA}


def expected_teacher(kind: str, students: list[Weights], step: int) -> Weights:
    """Weights that teach in ``step``; students[s] are the student's after step s, students[0] the initial ones."""
    if kind == "live":
        return students[step - 1]
    if kind == "snapshot":
        return students[(step - 1) // 2 * 2]
    teacher = students[0]
    for student in students[1:step]:
        teacher = {name: DECAY * teacher[name] + (1 - DECAY) * student[name] for name in teacher}
    return teacher


def saved_students(result: Run, inputs: Path, *, lora: bool) -> list[Weights]:
    """The student's weights, or its adapter's, after each step."""
    if not lora:
        return [load_file(inputs / "model" / "model.safetensors"), *(parameters(result, step) for step in (1, 2, 3))]
    adapters = [adapter(result, step) for step in (1, 2, 3)]
    # While B is 0 A has no gradient, so that the first step leaves it where it was.
    initial = {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in adapters[0].items()}
    return [initial, *adapters]


def build(inputs: Path, weights: Weights, *, lora: bool):
    model = AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32)
    if lora:
        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        assert {name for name, _ in model.named_parameters() if "lora_" in name} == set(weights)
    model.load_state_dict(weights, strict=not lora)
    return model.eval()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("mode", MODES)
def test_the_teacher_is_the_student_it_should_be(kind, student, mode, inputs, tmp_path):
    lora = student == "lora"
    overrides = [*COIN_REWARD, *DESCENT, "actor_rollout_ref.actor.optim.lr=1.0", *KINDS[kind], *STUDENTS[student]]
    result = good(run(inputs, tmp_path, [*overrides, f"trainer.v1.trainer_mode={mode}", "trainer.save_freq=1"]))
    students = saved_students(result, inputs, lora=lora)
    moved = 0.0
    for step in (1, 2, 3):
        batch, weights = result.probe(step), expected_teacher(kind, students, step)
        model, initial = (build(inputs, w, lora=lora) for w in (weights, students[0]))
        for row, response in enumerate(batch["responses"]):
            prompt = list(batch["teacher_prompt_ids"][row])
            log_probs, entropy = plain_forward(model, prompt, response, temperature=TEMPERATURE)
            torch.testing.assert_close(batch["teacher_log_probs"][row], log_probs, atol=1e-4, rtol=0)
            torch.testing.assert_close(batch["teacher_entropy"][row], entropy, atol=1e-4, rtol=0)
            frozen, _ = plain_forward(initial, prompt, response, temperature=TEMPERATURE)
            moved = max(moved, (log_probs - frozen).abs().max().item())
    assert moved > 1e-2  # a teacher that had stayed would not have passed
    assert_memory(result, kind, students, student)


def assert_memory(result: Run, kind: str, students: list[Weights], student: str) -> None:
    """What the log says a rank keeps: a share of the model, or of the adapter; nothing for a live teacher."""
    said = [line for line in result.log.splitlines() if "EGRSD keeps a " in line]
    if kind == "live":
        assert not said
        return
    share = sum(tensor.numel() for tensor in students[0].values()) / (2 if student == "full" else 1)
    kept = int(
        re.search(rf"EGRSD keeps a {kind} teacher of ([\d,]+) parameters on each rank.", said[0])[1].replace(",", "")
    )
    assert share <= kept <= 1.01 * share  # the first rank's rows are rounded up


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("student", ["full", "lora"])
def test_a_moving_teacher_resumes_to_the_bit(student, inputs, rollouts, tmp_path):
    overrides = [*COIN_REWARD, *DESCENT, *KINDS["ema"], *(LORA if student == "lora" else []), *replaying(rollouts)]
    whole = good(run(inputs, tmp_path / "whole", [*overrides, "trainer.save_freq=1"]))
    at_2 = whole.folder / "checkpoints" / "global_step_2"
    resume = ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={at_2}", "trainer.save_freq=3"]
    resumed = good(run(inputs, tmp_path / "resumed", [*overrides, *resume]))
    assert [step["training/global_step"] for step in resumed.metrics] == [3]
    for name in ("egrsd_teacher_world_size_1_rank_0.pt", "model_world_size_1_rank_0.pt"):
        paths = [each.folder / "checkpoints/global_step_3/actor" / name for each in (whole, resumed)]
        assert_equal(*(torch.load(path, weights_only=False) for path in paths))
    states = [checkpoint.load(each.folder / "checkpoints" / "global_step_3") for each in (whole, resumed)]
    assert states[0] == states[1]
    assert states[1]["alarms"]["length collapse"] == whole.metrics[0]["response_length/mean"]
    (at_2 / "actor" / "egrsd_teacher_world_size_1_rank_0.pt").unlink()
    refused = run(inputs, tmp_path / "refused", [*overrides, *resume], timeout=60)
    assert "has no actor/egrsd_teacher_world_size_1_rank_0.pt: the checkpoint is torn" in refused.log


def assert_equal(ours, theirs) -> None:
    ours, theirs = (tree if isinstance(tree, dict) else dict(enumerate(tree)) for tree in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for name in ours:
        one, other = (t.to_local() if hasattr(t, "to_local") else t for t in (ours[name], theirs[name]))
        assert torch.equal(one, other), name


def test_decay_0_copies_to_the_bit_and_keeps_float32():
    student = [torch.randn(50).bfloat16(), torch.randn(3, 4)]
    teacher = [torch.randn(50), torch.randn(3, 4)]
    move_towards(teacher, student, decay=0.0)
    assert all(torch.equal(old, new.float()) for old, new in zip(teacher, student, strict=True))
    assert teacher[0].dtype == torch.float32


def test_a_slow_average_does_not_get_stuck():
    """In bfloat16 a step of 1 % of a small difference rounds to nothing; in float32 it arrives."""
    teacher, student = [torch.ones(1)], [torch.full((1,), 1.001)]
    for _ in range(1000):
        move_towards(teacher, student, decay=0.99)
    assert abs(teacher[0].item() - 1.001) < 1e-5
