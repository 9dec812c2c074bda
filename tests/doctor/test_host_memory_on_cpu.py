"""The doctor's estimate of a node's memory against figures worked out by hand and against the node's size."""

import psutil
import pytest
from findings import GREEN, RED, YELLOW, said
from inputs import qwen3
from memory_estimates import GIB, estimates

from recipe.egrsd.doctor import host
from recipe.egrsd.doctor.case import Level
from recipe.egrsd.doctor.shapes import shapes


def test_host_memory_by_hand(qwen3_8b):
    """8B: untied, read by one rank; every vLLM's sleeping weights. 4B: tied, read by every rank. Full: the reference
    model."""
    adapter, full = qwen3_8b(), qwen3_8b("actor_rollout_ref.model.lora_rank=0")
    full.model.lora_rank = 0
    weights, whole = 8_190_735_360, 8_190_735_360 + 174_587_904
    found = estimates(adapter)
    assert found["host, starting"]["weights, whole on one rank"] == pytest.approx(4 * whole / GIB)
    assert found["host, training"]["sleeping vLLM's weights"] == pytest.approx(2 * 8 * whole / GIB)
    found = estimates(full)["host, training"]
    assert found["reference model"] == pytest.approx(2 * weights / GIB) and "sleeping vLLM's weights" not in found
    adapter.model.hf_config = qwen3("4B")
    assert estimates(adapter)["host, starting"]["tied weights, whole on every rank"] == pytest.approx(
        4 * 8 * shapes(adapter.model).parameters / GIB
    )


def test_hidden_states_of_the_teacher_by_hand(qwen3_8b):
    """32 problems, 8 responses, 1,024 of at most 16,384 tokens, hidden size 4,096. OGLS-SD: a pass in bfloat16 and the
    sum in float32; SSOPD: one response a problem; EGRSD: none."""
    batch = ["data.train_batch_size=32", "actor_rollout_ref.rollout.n=8", "data.max_response_length=16384"]
    room = ["algorithm.egrsd.teacher.max_prompt_length=20000"]
    divergence = [*batch, *room, "algorithm.egrsd.divergence=reverse_kl", "algorithm.egrsd.pull.tokens=1024"]
    name, tokens = "teacher's hidden states", 32 * 8 * 1024
    steered = ["algorithm.egrsd.privilege=peers", "algorithm.egrsd.pull.rows=wrong"]
    for overrides, expected in (
        ([*divergence, *steered], 6 * tokens * 4096),
        ([*divergence, "algorithm.egrsd.pull.rows=longest_wrong"], 2 * tokens / 8 * 4096),
        ([*divergence, "algorithm.egrsd.pull.tokens=null"], 2 * tokens * 16 * 4096),
        ([*batch, *room], None),
    ):
        found = estimates(qwen3_8b(*overrides))["host, training"].get(name)
        assert found == (None if expected is None else pytest.approx(expected / GIB))


@pytest.mark.parametrize("level", Level)
def test_a_node_of_that_size(case, level):
    built = case(rows=True)
    needed = max(
        sum(terms.values()) for terms in (estimates(built)["host, starting"], estimates(built)["host, training"])
    )
    built.host_gib = {RED: needed - 1, YELLOW: needed + 1, GREEN: needed / 0.69}[level]
    found = list(host.memory(built))
    assert f"of {built.host_gib:.1f} GiB a node" in said(found, level)
    assert not [finding for finding in found if finding.level is RED] or level is RED


def test_this_machine_is_no_reason_to_stop_where_another_one_trains(case, monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(host, "this_machine", lambda: GIB)
    found = list(host.memory(case(rows=True)))
    assert "of 1.0 GiB a node, this machine's (--host-gib for another)" in said(found, YELLOW) and not said(found, RED)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert "of 1.0 GiB a node, this machine's" in said(list(host.memory(case(rows=True))), RED)


def test_the_memory_of_this_machine():
    assert 0 < host.this_machine() <= psutil.virtual_memory().total
