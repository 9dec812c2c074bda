"""Whole runs of opsd, with its own divergence and a jsd, op2sd and crisp: each step is gradient descent on it."""

import pytest
import torch
from plain import assert_close_parameters, descend
from runs import COIN_REWARD, LORA, MODES, ROOT, TEMPERATURE, good, parameters, run
from torch import Tensor
from transformers import AutoModelForCausalLM

BETA = 0.25
"""Of the run with a generalised Jensen-Shannon divergence."""


def whole_batch_loss(model, teacher, batch: dict, *, kind: str, clip: float | None) -> Tensor:
    """Mean divergence over the response tokens by two plain transformers forwards in float32."""
    total, tokens = 0.0, 0
    for row, response in enumerate(batch["responses"]):

        def logits_of(network, prompt, response=response) -> Tensor:
            ids = torch.cat([torch.as_tensor(prompt), response])[None]
            return network(ids).logits[0, -len(response) - 1 : -1] / TEMPERATURE

        with torch.no_grad():
            taught = logits_of(teacher, batch["teacher_prompt_ids"][row])
        student, taught = logits_of(model, batch["prompts"][row]).log_softmax(-1), taught.log_softmax(-1)
        p_s, p_t = student.exp(), taught.exp()
        middle = ((1 - BETA) * p_s + BETA * p_t).log()
        shares = {"forward_kl": p_t * (taught - student), "reverse_kl": p_s * (student - taught),
                  "jsd": BETA * p_t * (taught - middle) + (1 - BETA) * p_s * (student - middle)}[kind]  # fmt: skip
        divergence = shares.clamp(max=torch.inf if clip is None else clip).sum(-1)  # torch's own gradient
        total, tokens = total + divergence.sum(), tokens + len(response)
    return total / tokens


SGD = [
    "actor_rollout_ref.actor.optim.optimizer=SGD", "actor_rollout_ref.actor.optim.lr=1.0",
    "actor_rollout_ref.actor.optim.weight_decay=0", "actor_rollout_ref.actor.optim.clip_grad=1000",
    "trainer.save_freq=1", "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
    "trainer.total_training_steps=2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("algorithm", "kind", "clip", "overrides"),
    [
        ("opsd", "forward_kl", 0.05, ["trainer.n_gpus_per_node=2"]),
        ("op2sd", "forward_kl", 0.05,
         [f"algorithm.egrsd.teacher.template={ROOT}/examples/tiny_cpu/other_problem.jinja"]),
        ("opsd", "jsd", None,
         ["trainer.n_gpus_per_node=2", "algorithm.egrsd.divergence=jsd", "algorithm.egrsd.divergence_clip=null",
          f"algorithm.egrsd.divergence_beta={BETA}"]),
        ("crisp", "reverse_kl", None,
         ["actor_rollout_ref.model.use_remove_padding=False", "algorithm.egrsd.teacher.template=null"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", MODES)
def test_a_step_is_gradient_descent_on_the_divergence(algorithm, kind, clip, overrides, mode, inputs, tmp_path):
    """Parameters after each of two steps equal those of a plain training loop on the same responses."""
    overrides = [*COIN_REWARD, *SGD, *overrides, f"trainer.v1.trainer_mode={mode}"]
    result = good(run(inputs, tmp_path, overrides, algorithm=algorithm))
    model, teacher = (AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32) for _ in range(2))
    for step in (1, 2):
        loss = whole_batch_loss(model, teacher, result.probe(step), kind=kind, clip=clip)
        assert result.metrics[step - 1]["egrsd/divergence_mean"] == pytest.approx(loss.item(), abs=1e-5)
        moved = descend(model, loss)
        assert_close_parameters(parameters(result, step), model)
        assert moved > 1e-3


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_opsd_with_an_adapter_closes_in_on_the_teacher(mode, inputs, tmp_path):
    """The frozen teacher is the actor with its adapter off; the same problems again and again."""
    overrides = [
        *LORA,
        "data.max_response_length=8",
        "trainer.total_training_steps=12",
        "actor_rollout_ref.actor.optim.lr=3e-3",
    ]
    result = good(run(inputs, tmp_path, [*overrides, f"trainer.v1.trainer_mode={mode}"], algorithm="opsd"))
    divergence = [step["egrsd/divergence_mean"] for step in result.metrics]
    assert sum(divergence[-3:]) < 0.8 * sum(divergence[:3])
