"""Prompts read once for a group: the same scores, and only where it pays. Who takes which row."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import write_inputs
from queues import PromptTable
from runs import ROOT
from transformers import DynamicCache, MambaConfig, Qwen3Config, Qwen3ForCausalLM
from verl.utils import tensordict_utils as tu

from recipe.egrsd.engine.shared_prompt import prompt_inputs, require_attention_only, response_inputs
from recipe.egrsd.teacher.rows import Sharing, planned, scoring_order
from recipe.egrsd.teacher.scoring import nested, score


@pytest.mark.parametrize("window", [None, pytest.param(16, marks=pytest.mark.long)])
def test_shared_prompts_change_no_score(window, tmp_path):
    """In verl's engine, packed or padded, one group or three of different lengths in a micro-batch; full or sliding
    attention."""
    write_inputs(tmp_path, train=1)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    if window:
        layers = ["sliding_attention"] * len(config["layer_types"])
        path.write_text(
            json.dumps(config | {"layer_types": layers, "use_sliding_window": True, "sliding_window": window})
        )
    out = tmp_path / "outputs.pt"
    command = [sys.executable, ROOT / "tests" / "support" / "shared_prompt_outputs.py", tmp_path / "model", out]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-4000:]
    results = torch.load(out)
    alone = results["alone, packed=True"]["scores"]
    assert {result["micro_batch"] for result in results.values()} == {None, 4, 12}
    for name, result in results.items():
        for ours, expected in zip(result["scores"], alone, strict=True):
            for row, exact in zip(ours, expected, strict=True):
                torch.testing.assert_close(row, exact, atol=2e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


HYBRID = Qwen3Config(num_hidden_layers=2, layer_types=["full_attention", "linear_attention"])


@pytest.mark.parametrize("config", [MambaConfig(), HYBRID])
def test_a_model_that_keeps_a_state_is_refused(config):
    require_attention_only(Qwen3Config())
    with pytest.raises(TypeError, match=r"layers of kind \['(mamba|linear_attention)'\].*name a folder in actor_r"):
        require_attention_only(config)


def order_of(prompts: list[int], responses: list[int], **knobs) -> tuple[list[int], Sharing | None]:
    """Prompts are named by their length here."""
    return scoring_order(
        [[length] * length for length in prompts], responses, **{"num_ranks": 1, "max_tokens": 10**6} | knobs
    )


def test_sharing_pays_where_it_halves_the_tokens():
    four = Sharing(group_size=4, rows_of_micro_batch=4)
    assert order_of([200] * 4, [100] * 4)[1] == four  # 600 tokens against 1,200
    assert order_of([199] * 4, [100] * 4)[1] is None  # 599 against 1,196


def test_a_micro_batch_holds_as_many_groups_as_fit_and_divide_a_ranks_share():
    prompts = [length for length in range(901, 907) for _ in range(4)]  # six groups of up to 906 + 4 * 10 = 946 tokens
    sizes = {limit: order_of(prompts, [10] * 24, max_tokens=limit)[1] for limit in (945, 946, 1892, 4 * 946, 6 * 946)}
    assert {limit: sharing and sharing.rows_of_micro_batch for limit, sharing in sizes.items()} == {
        945: None, 946: 4, 1892: 8, 4 * 946: 12, 6 * 946: 24,
    }  # fmt: skip
    assert order_of(prompts, [10] * 24, num_ranks=2, max_tokens=6 * 946)[1] == Sharing(
        group_size=4, rows_of_micro_batch=12
    )


@pytest.mark.parametrize(
    ("prompts", "ranks"),
    [([300] * 4 + [301] * 3 + [302], 1), ([300] * 4 + [301] * 4 + [302] * 4, 2), ([1] * 4, 1)],
    ids=["groups of different size", "groups that ranks cannot share evenly", "padding samples"],
)
def test_no_sharing_else(prompts, ranks):
    order, sharing = order_of(prompts, [1] * len(prompts), num_ranks=ranks)
    assert sharing is None and sorted(order) == list(range(len(prompts)))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_groups_of_different_size_share_their_prompts_too(ranks):
    """Three problems with four, two and three responses, as wrong ones come: responses of one token make them even, and
    for ranks a fourth problem; they cost their tokens alone."""
    seen = {}

    class Table(PromptTable):
        def compute_log_prob(self, batch):
            seen["shared_by"] = tu.get_non_tensor_data(batch, "egrsd_shared_by", None)
            seen["tokens"] = sum(map(len, batch["responses"].unbind()))
            seen["prompts"] = len({tuple(ids.tolist()) for ids in batch["prompts"].unbind()})
            return super().compute_log_prob(batch)

    prompts = [[7] * length for length in (300, 300, 301, 302, 300, 302, 301, 302, 300)]
    lengths = [3, 1, 4, 1, 5, 9, 2, 6, 5]
    rows = nested([torch.ones(length, dtype=torch.int64) for length in lengths])
    knobs = {"num_ranks": ranks, "temperature": 1.0, "names": [*map(str, lengths)], "max_shared_tokens": 10**5}
    found = score(Table(ranks).compute_log_prob, prompts, rows, rows, **knobs)
    for ids, length, values in zip(prompts, lengths, found.log_probs.unbind(), strict=True):
        assert values.tolist() == pytest.approx(PromptTable.log_probs(ids, length))
    groups = -(-3 // ranks) * ranks
    assert seen == {"shared_by": 4, "tokens": sum(lengths) + 4 * groups - 9, "prompts": groups}


def test_what_makes_groups_even_changes_no_score():
    """Plain transformers: three problems with four, two and one response on two ranks, hence a fourth problem of two
    tokens; logits as of each row by itself."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=50, num_hidden_layers=2, head_dim=8, **sizes)).eval()
    first, second, third = (torch.randint(50, (length,)).tolist() for length in (300, 310, 290))
    rows = [torch.randint(50, (length,)) for length in (3, 7, 2, 9, 4, 1, 6)]
    columns = [[*[first] * 4, *[second] * 2, third], rows, [torch.ones_like(row) for row in rows], [*"abcdefg"]]
    (prompts, rows, *_), order, sharing = planned(columns, num_ranks=2, rows_of_micro_batch=1, max_tokens=10**5)
    assert sharing == Sharing(group_size=4, rows_of_micro_batch=8) and len(order) == 16
    for at in (0, 8):  # a rank's only micro-batch
        chosen, cache = order[at : at + 8], DynamicCache()
        groups = [torch.tensor(prompts[row]) for row in chosen[::4]]
        with torch.no_grad():
            model(**prompt_inputs(groups), past_key_values=cache, use_cache=True)
            found = model(**response_inputs(groups, [rows[row] for row in chosen], cache)).logits
            for ours, row in zip(found, chosen, strict=True):
                alone = model(torch.cat([torch.tensor(prompts[row]), rows[row]])[None]).logits
                expected = alone[0, len(prompts[row]) - 1 : -1]
                torch.testing.assert_close(ours[: len(rows[row])], expected, atol=2e-6, rtol=0)


def test_what_makes_groups_even_does_not_speak_for_sharing():
    """One problem with eight responses, eight with one: evened 1,008 tokens, alone 1,652."""
    seen = {}

    class Table(PromptTable):
        def compute_log_prob(self, batch):
            seen["shared_by"] = tu.get_non_tensor_data(batch, "egrsd_shared_by", None)
            return super().compute_log_prob(batch)

    prompts = [[7] * length for length in (100, *[100] * 7, *range(101, 109))]
    rows = nested([torch.ones(1, dtype=torch.int64) for _ in prompts])
    knobs = {"num_ranks": 1, "temperature": 1.0, "names": [""] * 16, "max_shared_tokens": 10**5}
    score(Table().compute_log_prob, prompts, rows, rows, **knobs)
    assert seen["shared_by"] is None


def test_longest_first_and_ranks_alike():
    order, _ = order_of([10, 80, 20, 70, 30, 60, 40, 50], [1] * 8, num_ranks=2)
    shares = [[10, 80, 20, 70, 30, 60, 40, 50][row] for row in order]
    assert sum(shares[:4]) == sum(shares[4:]) == 180
    assert all(half == sorted(half, reverse=True) for half in (shares[:4], shares[4:]))


@given(
    groups=st.integers(1, 6), size=st.integers(1, 5), ranks=st.integers(1, 3), seed=st.randoms(use_true_random=False),
    limit=st.sampled_from([0, 100, 10**6]),
)  # fmt: skip
def test_every_row_is_scored_once_and_groups_stay_together(groups, size, ranks, seed, limit):
    prompts = [(number + 2) * 10 for number in range(groups * ranks) for _ in range(size)]
    seed.shuffle(prompts)
    order, sharing = order_of(prompts, [seed.randint(1, 30) for _ in prompts], num_ranks=ranks, max_tokens=limit)
    assert sorted(order) == list(range(len(prompts)))
    if sharing:
        assert len(order) // ranks % sharing.rows_of_micro_batch == 0
        handed_out = [prompts[row] for row in order]
        for start in range(0, len(order), sharing.group_size):
            assert len(set(handed_out[start : start + sharing.group_size])) == 1
