"""What a worker owes a GPU: memory given back before vLLM looks, shards that have arrived, ranks of the part that
scores."""

from types import SimpleNamespace

import pytest
from composing import settings
from torch import nn
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.egrsd.engine.fsdp import EgrsdEngine
from recipe.egrsd.teacher import worker
from recipe.egrsd.teacher.kinds import Teacher


def test_what_the_probe_of_the_head_took_is_given_back_last(monkeypatch):
    """vLLM compares its share with the GPU's free memory; torch's cache counts as taken (vllm/v1/worker/utils.py)."""
    done, engine = [], object.__new__(EgrsdEngine)
    engine.require_right_scores = lambda: done.append("probe")
    monkeypatch.setattr(ActorRolloutRefWorker, "init_model", lambda self: done.append("verl"))
    monkeypatch.setattr(worker, "aggressive_empty_cache", lambda *, force_sync: done.append(f"empty, {force_sync}"))
    whole = object.__new__(worker.EgrsdWorker)
    whole.actor, whole.ref = SimpleNamespace(engine=engine), None
    whole.init_model()
    assert done == ["verl", "probe", "empty, True"]


def test_shards_are_read_when_they_have_arrived(monkeypatch):
    """verl offloads without waiting, and says that who reads on the host must (fsdp_utils.py:197)."""
    waited, device = [], SimpleNamespace(synchronize=lambda: waited.append(True))
    monkeypatch.setattr(worker, "get_torch_device", lambda: device)
    assert len(worker.local_shards(nn.Linear(2, 3), trainable_only=False)) == 2
    assert waited == [True]


@pytest.mark.parametrize(("lora", "ranks"), [(False, 4), (True, 2)])
def test_rows_are_shared_by_the_ranks_of_the_part_that_scores(lora, ranks):
    """actor with Ulysses 2 on four GPUs, ref without: two data-parallel ranks and four."""
    info = {"actor": [0, 0, 1, 1], "ref": [0, 1, 2, 3]}
    workers = SimpleNamespace(_query_dispatch_info=info.get, compute_log_prob=None, compute_ref_log_prob=None)
    assert Teacher(settings().teacher, workers, uses_lora=lora).num_ranks == ranks
