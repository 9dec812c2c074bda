"""A teacher that moves, on plain modules: which engine it is, when it follows, what a worker moves, keeps, restores."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from composing import settings
from torch import nn
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.egrsd.teacher import worker
from recipe.egrsd.teacher.kinds import Teacher

MOVING = {"snapshot": {"sync_every": 2}, "ema": {"ema_decay": 0.99}}


class Workers:
    """Stands for verl's worker group: its engines by name, and how often the teacher was moved by how much."""

    compute_log_prob, compute_teacher_log_prob, compute_ref_log_prob = "actor", "adapter", "reference"

    def __init__(self):
        self.moved, self.step = [], 0

    def _query_dispatch_info(self, mesh: str) -> list[int]:
        return [0]

    def init_teacher(self) -> list[int]:
        return [12]

    def update_teacher(self, decay: float) -> None:
        self.moved.append((self.step, decay))


def teacher(kind: str, *, lora: bool = False) -> Teacher:
    chosen = replace(settings().teacher, kind=kind, **MOVING.get(kind, {}))
    return Teacher(chosen, Workers(), uses_lora=lora)


@pytest.fixture(autouse=True)
def nothing_to_wait_for(monkeypatch):
    """Of a GPU; this is verl's device without VERL_PLATFORM=cpu."""
    monkeypatch.setattr(worker, "get_torch_device", lambda: SimpleNamespace(synchronize=lambda: None))


@pytest.mark.parametrize(
    ("kind", "lora", "part", "engine", "adapter_off"),
    [
        ("frozen", False, "ref", "reference", False), ("frozen", True, "actor", "actor", True),
        ("snapshot", False, "ref", "reference", False), ("snapshot", True, "actor", "adapter", False),
        ("ema", False, "ref", "reference", False), ("ema", True, "actor", "adapter", False),
        ("live", False, "actor", "actor", False), ("live", True, "actor", "actor", False),
    ],
)  # fmt: skip
def test_which_weights_teach(kind, lora, part, engine, adapter_off):
    made = teacher(kind, lora=lora)
    assert (made.part, made.engine, made.adapter_off) == (part, engine, adapter_off)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("frozen", []),
        ("live", []),
        ("snapshot", [(2, 0.0), (4, 0.0)]),
        ("ema", [(step, 0.99) for step in range(1, 6)]),
    ],
)
def test_when_it_follows(kind, expected):
    made = teacher(kind)
    for made.workers.step in range(1, 6):
        made.follow(made.workers.step)
    assert made.workers.moved == expected


class OfParts(worker.EgrsdWorker):
    """One rank whose actor is a linear map, without a process group; with a reference model or an adapter alone."""

    def __init__(self, *, reference: bool):
        def part(value: float, trained: bool) -> SimpleNamespace:
            module = nn.Linear(2, 1, bias=False)
            nn.init.constant_(module.weight, value)
            module.requires_grad_(trained)
            return SimpleNamespace(engine=SimpleNamespace(module=module), infer_batch=lambda data: None)

        self.actor, self.ref = part(1.0, True), part(1.0, False) if reference else None
        self.said = []
        self.actor.infer_batch = lambda data: self.said.append(value_of(self.actor))

    world_size, rank = 1, 0


def value_of(part: SimpleNamespace) -> float:
    (weight,) = {*part.engine.module.weight.flatten().tolist()}
    return weight


def set_to(part: SimpleNamespace, value: float) -> None:
    with torch.no_grad():
        part.engine.module.weight.fill_(value)


@pytest.mark.parametrize("reference", [True, False], ids=["all parameters", "adapter"])
def test_what_a_worker_moves_and_restores(reference, tmp_path):
    """.5 * 1 + .5 * 3 = 2; the student stays 3 whatever the teacher does."""
    whole = OfParts(reference=reference)

    def of_teacher() -> float:
        (shard,) = whole._teacher_shards()
        return shard.flatten()[0].item()

    assert whole.init_teacher() == 2
    set_to(whole.actor, 3.0)
    assert of_teacher() == 1.0
    whole.update_teacher(0.5)
    assert (of_teacher(), value_of(whole.actor)) == (2.0, 3.0)
    whole.save_teacher(str(tmp_path / "actor"))
    whole.update_teacher(0.0)
    assert of_teacher() == 3.0
    set_to(whole.actor, 5.0)
    assert of_teacher() == 3.0  # a copy, not the student's own memory
    whole.load_teacher(str(tmp_path / "actor"))
    assert (of_teacher(), value_of(whole.actor)) == (2.0, 5.0)
    assert [path.name for path in (tmp_path / "actor").iterdir()] == ["egrsd_teacher_world_size_1_rank_0.pt"]


def test_an_adapters_teacher_stands_in_for_the_student_while_it_scores():
    whole = OfParts(reference=False)
    whole.init_teacher()
    set_to(whole.actor, 3.0)
    whole.compute_teacher_log_prob.__wrapped__(whole, None)
    assert (whole.said, value_of(whole.actor)) == ([1.0], 3.0)

    def fails(data):
        raise RuntimeError(str(value_of(whole.actor)))

    whole.actor.infer_batch = fails
    with pytest.raises(RuntimeError, match=r"^1\.0$"):
        whole.compute_teacher_log_prob.__wrapped__(whole, None)
    assert value_of(whole.actor) == 3.0


def test_after_an_update_nothing_of_the_teacher_stays(monkeypatch):
    whole = OfParts(reference=True)
    for part in (whole.actor, whole.ref):
        part.engine.divergence = part.engine.under_way = "the teacher's head"
    monkeypatch.setattr(ActorRolloutRefWorker, "update_actor", lambda self, data: data)
    assert whole.update_actor("output") == "output"
    assert [getattr(p.engine, name) for p in (whole.actor, whole.ref) for name in ("divergence", "under_way")] == (
        [None] * 4
    )
