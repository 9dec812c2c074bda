"""The divergence over the vocabulary: against float64 loops, its gradient, its memory, and in whole runs of opsd and crisp."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import LORA
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import COIN_REWARD, MODES, TEMPERATURE, good, parameters, run
from tensordict import TensorDict
from torch import Tensor
from transformers import AutoModelForCausalLM
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.egrsd.divergence import chunked_divergence, token_divergence
from recipe.egrsd.head import HeadScores
from recipe.egrsd.worker import EgrsdWorker

KINDS = ("forward_kl", "reverse_kl")


def oracle(student: list[float], teacher: list[float], *, kind: str, clip: float | None) -> float:
    """One token, in float64 loops."""

    def softmax(logits: list[float]) -> list[float]:
        powers = [math.exp(logit - max(logits)) for logit in logits]
        return [power / sum(powers) for power in powers]

    p_student, p_teacher = softmax(student), softmax(teacher)
    left, right = (p_teacher, p_student) if kind == "forward_kl" else (p_student, p_teacher)
    total = 0.0
    for p, q in zip(left, right, strict=True):
        share = 0.0 if p == 0 else p * math.log(p / q)
        total += share if clip is None else min(share, clip)
    return total


@st.composite
def logits(draw) -> tuple[list[list[float]], list[list[float]]]:
    tokens, vocabulary = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    row = st.lists(st.floats(-12, 12, width=32), min_size=vocabulary, max_size=vocabulary)
    return tuple(draw(st.lists(row, min_size=tokens, max_size=tokens)) for _ in range(2))


@settings(max_examples=500, deadline=None)
@given(logits(), st.sampled_from(KINDS), st.none() | st.floats(0.001, 1.0))
def test_it_is_the_sum_of_the_definition(rows, kind, clip):
    student, teacher = rows
    ours = token_divergence(torch.tensor(student), torch.tensor(teacher), kind=kind, clip=clip)
    expected = [oracle(*pair, kind=kind, clip=clip) for pair in zip(student, teacher, strict=True)]
    assert ours.tolist() == pytest.approx(expected, abs=1e-5)


def test_by_hand():
    """p_T = (.5, .5), p_S = (.8, .2): .5 ln(.5/.8) + .5 ln(.5/.2) = -.235002 + .458145, and .8 ln 1.6 + .2 ln .4."""
    student, teacher = (torch.tensor([row]).log() for row in ([0.8, 0.2], [0.5, 0.5]))
    assert token_divergence(student, teacher, kind="forward_kl", clip=None).item() == pytest.approx(0.223144, abs=1e-6)
    assert token_divergence(student, teacher, kind="reverse_kl", clip=None).item() == pytest.approx(0.192745, abs=1e-6)
    # Only the positive share is clipped, each entry by itself: -.235002 + .05.
    assert token_divergence(student, teacher, kind="forward_kl", clip=0.05).item() == pytest.approx(-0.185002, abs=1e-6)


def test_a_clipped_entry_turns_its_own_gradient_around():
    """p_T = (.9, .1), p_S = (.5, .5). The first entry's gradient is p_S - p_T = -.4: a step of descent raises its logit.

    Clipped at .05 (its share is .9 ln 1.8 = .529), the other entry's alone is left, .1 p_S = +.05: a step lowers it. OPSD's
    published clip, and why docs/experiments.md has a row without it.
    """
    teacher = torch.tensor([[0.9, 0.1]]).log()
    for clip, expected in ((None, -0.4), (0.05, 0.05)):
        student = torch.tensor([[0.5, 0.5]]).log().requires_grad_()
        token_divergence(student, teacher, kind="forward_kl", clip=clip).sum().backward()
        assert student.grad[0, 0].item() == pytest.approx(expected, abs=1e-6)


def test_a_padded_vocabulary_counts_for_nothing():
    padding = torch.full((3, 2), -torch.inf)
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    padded = torch.cat([student, padding], -1).requires_grad_()
    for kind in KINDS:
        value = token_divergence(padded, torch.cat([teacher, padding], -1), kind=kind, clip=0.05)
        torch.testing.assert_close(value, token_divergence(student, teacher, kind=kind, clip=0.05), atol=1e-6, rtol=0)
        (gradient,) = torch.autograd.grad(value.sum(), padded)
        assert gradient.isfinite().all() and not gradient[:, 5:].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 0.05])
def test_chunks_change_neither_value_nor_gradient_and_none_reaches_the_teacher(kind, clip):
    torch.manual_seed(0)
    student = torch.randn(10, 50).requires_grad_()
    hidden, head = torch.randn(10, 8).requires_grad_(), torch.randn(50, 8).requires_grad_()
    each = torch.linspace(0.5, 1.5, 10)  # tokens that count differently
    whole = token_divergence(student, hidden @ head.T / 1.1, kind=kind, clip=clip)
    (expected,) = torch.autograd.grad((each * whole).sum(), student)
    for chunk_tokens in (1, 3, 10, 99):
        ours = chunked_divergence(
            student, hidden, head.detach(), temperature=1.1, kind=kind, clip=clip, chunk_tokens=chunk_tokens
        )
        torch.testing.assert_close(ours, whole, atol=1e-6, rtol=0)
        gradient, to_hidden = torch.autograd.grad((each * ours).sum(), [student, hidden], allow_unused=True)
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=0)
        assert to_hidden is None


def test_the_teachers_head_does_not_outlive_the_update(monkeypatch):
    """1.2 GB of an 8B model, beside which vLLM would wake."""
    seen = []
    monkeypatch.setattr(ActorRolloutRefWorker, "update_actor", lambda self, data: seen.append(self.actor.engine.teacher_head))
    worker = object.__new__(EgrsdWorker)
    worker.actor = SimpleNamespace(engine=SimpleNamespace(teacher_head="the head"))
    worker.update_actor(TensorDict())
    assert seen == ["the head"] and worker.actor.engine.teacher_head is None


def gathering(logits: Tensor, hidden: Tensor, weight: Tensor) -> EgrsdWorker:
    """A worker whose teacher has scored: its head was given ``hidden`` last and returned ``logits``."""
    head = torch.nn.Linear(*reversed(weight.shape), bias=False)
    head.weight = torch.nn.Parameter(weight)
    scores = HeadScores(hidden=[hidden[None]], last_logits=logits.float() / TEMPERATURE)
    engine = SimpleNamespace(scores=scores, module=SimpleNamespace(get_output_embeddings=lambda: head), teacher_head=None)
    worker = object.__new__(EgrsdWorker)
    worker.actor, worker.ref = SimpleNamespace(engine=engine), None
    return worker


def one_ulp_aside(logits: Tensor, share: float) -> Tensor:
    """bfloat16 logits, a share of which fell on the other side of a rounding boundary."""
    ulp = torch.nextafter(logits, torch.full_like(logits, torch.inf)) - logits
    sign = torch.where(torch.rand(len(logits)) < 0.5, -1.0, 1.0)
    return torch.where(torch.rand(len(logits)) < share, logits + sign * ulp, logits).bfloat16()


def in_four_pieces(hidden: Tensor, weight: Tensor) -> Tensor:
    """The product as a GPU sums it for a single row: partial sums, each rounded to bfloat16."""
    parts = [(h.float() @ w.float().T).bfloat16() for h, w in zip(hidden.chunk(4), weight.chunk(4, 1), strict=True)]
    return sum(part.float() for part in parts).bfloat16()


HEADS = {
    "itself": (True, lambda logits, *_: logits),
    "one ulp at 1 %": (True, lambda logits, *_: one_ulp_aside(logits, 0.01)),
    "one ulp everywhere": (True, lambda logits, *_: one_ulp_aside(logits, 1.0)),
    "summed in four pieces": (True, lambda _, hidden, weight: in_four_pieces(hidden, weight)),
    "softcap 30": (False, lambda logits, *_: (30 * (logits.float() / 30).tanh()).bfloat16()),
    "scale 1.02": (False, lambda logits, *_: (1.02 * logits.float()).bfloat16()),
    "bias": (False, lambda logits, *_: (logits + 0.1 * torch.randn(len(logits))).bfloat16()),
    "another row's": (False, lambda logits, *_: logits.flip(0)),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_gathered_head_is_told_from_rounding(name):
    """At Qwen3's vocabulary in bfloat16, where single logits of two equal products differ by an ulp: 0.125 at 16."""
    plain, returned = HEADS[name]
    torch.manual_seed(0)
    hidden, weight = torch.randn(256).bfloat16(), (0.22 * torch.randn(151_936, 256)).bfloat16()  # logits of 3.5 on average
    logits = hidden @ weight.T
    worker = gathering(returned(logits, hidden, weight), hidden, weight)
    if plain:
        worker.hold_teacher_head(TEMPERATURE)
        assert torch.equal(worker.actor.engine.teacher_head, weight)
        worker.actor.engine.scores.last_logits += 1  # asked once a run
        worker.hold_teacher_head(TEMPERATURE)
    else:
        with pytest.raises(TypeError, match=r"its head's weight times its hidden states .*divergence=null"):
            worker.hold_teacher_head(TEMPERATURE)


def test_a_heads_own_bias_is_seen_however_small():
    """A bias is not gathered, so the teacher would lose it."""
    hidden, weight = torch.randn(16), torch.randn(50, 16)
    worker = gathering(hidden @ weight.T, hidden, weight)
    worker.actor.engine.module.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(50))
    with pytest.raises(TypeError, match="or a bias"):
        worker.hold_teacher_head(TEMPERATURE)


def test_gradients_are_right():
    torch.manual_seed(1)
    student, teacher = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.randn(4, 6, dtype=torch.float64)
    for kind in KINDS:
        assert torch.autograd.gradcheck(lambda s, kind=kind: token_divergence(s, teacher, kind=kind, clip=0.05), student)


def whole_batch_loss(model, teacher, batch: dict, *, kind: str, clip: float | None) -> Tensor:
    """Mean divergence over the response tokens by two plain transformers forwards in float32."""
    total, tokens = 0.0, 0
    for row, response in enumerate(batch["responses"]):

        def logits_of(network, prompt, response=response) -> Tensor:
            ids = torch.cat([torch.as_tensor(prompt), response])[None]
            return network(ids).logits[0, -len(response) - 1 : -1] / TEMPERATURE

        with torch.no_grad():
            taught = logits_of(teacher, batch["teacher_prompt_ids"][row])
        divergence = token_divergence(logits_of(model, batch["prompts"][row]), taught, kind=kind, clip=clip)
        total, tokens = total + divergence.sum(), tokens + len(response)
    return total / tokens


SGD = [
    "actor_rollout_ref.actor.optim.optimizer=SGD", "actor_rollout_ref.actor.optim.lr=1.0",
    "actor_rollout_ref.actor.optim.weight_decay=0", "actor_rollout_ref.actor.optim.clip_grad=1000", "trainer.save_freq=1",
    "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]", "trainer.total_training_steps=2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("algorithm", "kind", "clip", "overrides"),
    [
        ("opsd", "forward_kl", 0.05, ["trainer.n_gpus_per_node=2"]),
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
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= parameter.grad
        after = parameters(result, step)
        moved = 0.0
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(after[name], parameter.detach(), atol=1e-5, rtol=0)
            moved = max(moved, parameter.grad.abs().max().item())
        assert moved > 1e-3


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_opsd_with_an_adapter_closes_in_on_the_teacher(mode, inputs, tmp_path):
    """The frozen teacher is the actor with its adapter off; the same problems again and again."""
    overrides = [*LORA, "data.max_response_length=8", "trainer.total_training_steps=12", "actor_rollout_ref.actor.optim.lr=3e-3"]
    result = good(run(inputs, tmp_path, [*overrides, f"trainer.v1.trainer_mode={mode}"], algorithm="opsd"))
    divergence = [step["egrsd/divergence_mean"] for step in result.metrics]
    assert sum(divergence[-3:]) < 0.8 * sum(divergence[:3])
