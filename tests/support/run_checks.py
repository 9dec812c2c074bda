"""What holds of every whole run of EGRSD or CL-EGRSD, whichever of verl's trainers makes it."""

from pathlib import Path

import pytest
import torch
from plain import plain_forward
from reference import entropy_gate, entropy_scale, lookahead_entropy, ratio_weight
from runs import TEMPERATURE, Run
from same_training import LOGGED
from transformers import AutoModelForCausalLM


def check_teacher_is_the_initial_model_under_the_privileged_prompt(run: Run, inputs: Path) -> None:
    """At most 1e-4 nat from a plain float32 forward, after the student has been trained."""
    model = AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32).eval()
    batch, compared = run.probe(3), 0
    for row, padding in enumerate(batch["is_padding"]):
        if padding:
            continue
        prompt, response = list(batch["teacher_prompt_ids"][row]), batch["responses"][row]
        assert len(prompt) > len(batch["prompts"][row])  # two prompts of different length in front of one response
        log_probs, entropy = plain_forward(model, prompt, response, temperature=TEMPERATURE)
        torch.testing.assert_close(batch["teacher_log_probs"][row], log_probs, atol=1e-4, rtol=0)
        torch.testing.assert_close(batch["teacher_entropy"][row], entropy, atol=1e-4, rtol=0)
        assert batch["teacher_log_probs"][row].dtype == batch["teacher_entropy"][row].dtype == torch.float32
        compared += len(response)
    assert compared >= 20
    student = torch.cat(batch["old_log_probs"])
    assert (student - torch.cat(batch["teacher_log_probs"])).abs().mean() > 1e-2  # the two prompts do differ


def check_metrics_are_those_of_the_paper_oracle(run: Run) -> None:
    """The logged means, from the loss hook on every rank and micro-batch, against loops over the recorded batch."""
    settings = {"gamma": 0.3, "window": 3}
    batch = run.probe(2)
    real = [row for row, padding in enumerate(batch["is_padding"]) if not padding]
    columns = {
        name: [batch[name][row].double().tolist() for row in real]
        for name in ("old_log_probs", "teacher_log_probs", "teacher_entropy", "advantages")
    }
    mask = [[bool(m) for m in batch["response_mask"][row]] for row in real]
    scale = entropy_scale(columns["teacher_entropy"], mask, min_nats=1.0)
    looked = lookahead_entropy(columns["teacher_entropy"], mask, window=settings["window"])
    gate = entropy_gate(looked, scale, gamma=settings["gamma"], floor=0.1)
    advantages = [row[0] for row in columns["advantages"]]
    weight = ratio_weight(columns["old_log_probs"], columns["teacher_log_probs"], advantages, clip_range=0.2)
    tokens = [
        (w, g) for ws, gs, ms in zip(weight, gate, mask, strict=True) for w, g, m in zip(ws, gs, ms, strict=True) if m
    ]
    logged = run.metrics[1]
    expected = {
        "egrsd/entropy_scale": scale,
        "egrsd/gate_mean": sum(g for _, g in tokens) / len(tokens),
        "egrsd/ratio_weight_mean": sum(w for w, _ in tokens) / len(tokens),
        "egrsd/token_weight_mean": sum(w * g for w, g in tokens) / len(tokens),
    }
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def check_every_documented_metric_is_logged_and_no_other(run: Run) -> None:
    for step in run.metrics:
        assert {name for name in step if name.startswith("egrsd/")} == LOGGED
        assert step["timing_s/teacher"] > 0
