"""The teacher's head, which a divergence needs in the update: gathered whole, and gone afterwards."""

import gc
import weakref
from types import SimpleNamespace

import torch
from tensordict import TensorDict
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.egrsd.engine.head import head_scores
from recipe.egrsd.teacher.worker import EgrsdWorker


def test_the_teachers_head_does_not_outlive_the_update(monkeypatch):
    """1.2 GB of an 8B model, beside which vLLM would wake. The last micro-batch's pass holds it, too."""
    head, engine = torch.nn.Linear(4, 6), SimpleNamespace(under_way=SimpleNamespace(hidden=torch.randn(3, 4)))
    engine.module = SimpleNamespace(get_output_embeddings=lambda: head)
    worker = object.__new__(EgrsdWorker)
    worker.actor, worker.ref, held = SimpleNamespace(engine=engine), None, []

    def update(self, data):
        engine.under_way = SimpleNamespace(also=engine.divergence(torch.randn(3, 4), temperature=1.0))
        held.extend(weakref.ref(part) for part in (engine.under_way.also.weight, engine.divergence.keywords["weight"]))

    monkeypatch.setattr(ActorRolloutRefWorker, "update_actor", update)
    worker.hold_teacher_head(part="actor", kind="forward_kl", clip=None)
    worker.update_actor(TensorDict())
    gc.collect()
    assert len(held) == 2 and not any(part() is not None for part in held)


def test_the_head_is_that_of_the_part_that_taught():
    """A live teacher is the actor, also where a KL term has verl build a reference model, whose last pass kept
    nothing."""
    teacher, reference = torch.nn.Linear(4, 6), torch.nn.Linear(4, 6)
    actor, ref = (
        SimpleNamespace(module=SimpleNamespace(get_output_embeddings=lambda head=head: head), under_way=under_way)
        for head, under_way in ((teacher, SimpleNamespace(hidden=torch.randn(3, 4))), (reference, None))
    )
    worker = object.__new__(EgrsdWorker)
    worker.actor, worker.ref = SimpleNamespace(engine=actor), SimpleNamespace(engine=ref)
    worker.hold_teacher_head(part="actor", kind="forward_kl", clip=None)
    assert torch.equal(actor.divergence.keywords["weight"], teacher.weight)


def test_nothing_that_the_reference_model_kept_outlives_the_update(monkeypatch):
    actor, ref = SimpleNamespace(under_way=None), SimpleNamespace(under_way=SimpleNamespace(hidden=torch.randn(3, 4)))
    worker = object.__new__(EgrsdWorker)
    worker.actor, worker.ref = SimpleNamespace(engine=actor), SimpleNamespace(engine=ref)
    monkeypatch.setattr(ActorRolloutRefWorker, "update_actor", lambda self, data: None)
    worker.update_actor(TensorDict())
    assert ref.under_way is None


def test_the_teachers_head_is_gathered_with_its_bias():
    """Phi has one; a teacher without it is another distribution, whose own weights would pull the student away."""
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(4, 6), torch.randn(3, 4)
    engine = SimpleNamespace(
        under_way=SimpleNamespace(hidden=hidden), module=SimpleNamespace(get_output_embeddings=lambda: head)
    )
    worker = object.__new__(EgrsdWorker)
    worker.actor, worker.ref = SimpleNamespace(engine=engine), None
    worker.hold_teacher_head(part="actor", kind="reverse_kl", clip=None)
    student = hidden.clone().requires_grad_()
    also = engine.divergence(hidden, temperature=1.1)
    scores = head_scores(student, head.weight, head.bias, torch.arange(3), temperature=1.1, also=also, chunk_logits=8)
    scores[:, 1].sum().backward()
    torch.testing.assert_close(scores[:, 1], torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(student.grad, torch.zeros(3, 4), atol=1e-6, rtol=0)
