"""Whole runs of opsd (its divergence, a jsd), op2sd, copsd and crisp: each step is gradient descent on it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from plain import SGD, assert_close_parameters, descend
from runs import COIN_REWARD, LORA, MODES, ROOT, TEMPERATURE, good, parameters, run
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.tiny_cpu import model as tiny

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


@pytest.mark.slow
@pytest.mark.long
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


WORDS = "Nitafikiri hatua kwa hatua."
ENGLISH = "{{ problem }}\n\n{{ english_problem }}\n\nSolution:\n{{ solution }}\n\n{{ instruction }}"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_copsds_turns_begin_with_its_words_and_its_teacher_reads_english(mode, inputs, tmp_path):
    """Descent as above; both prompts end in the words, inside the thoughts; the checkpoint's tokenizer writes them."""
    rows = pq.read_table(inputs / "train.parquet").to_pylist()
    for row in rows:
        question = row["prompt"][0]["content"].split("\n\n")[0]
        row["extra_info"]["problem_en"] = question.replace("How many", "In English, how many")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "english.jinja").write_text(ENGLISH)
    overrides = [*COIN_REWARD, *SGD, f"data.train_files={tmp_path}/rows.parquet", "trainer.n_gpus_per_node=2",
                 f"algorithm.egrsd.teacher.template={tmp_path}/english.jinja", f"trainer.v1.trainer_mode={mode}",
                 f"algorithm.egrsd.assistant_prefix='{WORDS}'", "trainer.test_freq=2",
                 "+data.apply_chat_template_kwargs.enable_thinking=True"]  # fmt: skip
    result = good(run(inputs, tmp_path, overrides, algorithm="copsd"))
    model, teacher = (AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32) for _ in range(2))
    tokenizer, turn = tiny.build_tokenizer(), f"<|im_start|>assistant\n<think>\n{WORDS}"
    for step in (1, 2):
        batch = result.probe(step)
        for student, privileged in zip(batch["prompts"], batch["teacher_prompt_ids"], strict=True):
            asked, shown = tokenizer.decode(student), tokenizer.decode(list(privileged))
            question = asked.removeprefix("<|im_start|>user\n").split("\n\n")[0]
            assert asked.endswith(turn) and shown.endswith(turn)
            assert f"{question}\n\n{question.replace('How many', 'In English, how many')}\n\nSolution:\n" in shown
        loss = whole_batch_loss(model, teacher, batch, kind="forward_kl", clip=0.05)
        assert result.metrics[step - 1]["egrsd/divergence_mean"] == pytest.approx(loss.item(), abs=1e-5)
        moved = descend(model, loss)
        assert_close_parameters(parameters(result, step), model)
        assert moved > 1e-3
    saved = AutoTokenizer.from_pretrained(tmp_path / "checkpoints" / "global_step_2" / "actor" / "huggingface")
    chat = [{"role": "user", "content": "1 + 1?"}]
    assert saved.apply_chat_template(chat, add_generation_prompt=True, tokenize=False).endswith(turn)


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
