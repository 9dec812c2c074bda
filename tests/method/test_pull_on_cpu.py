"""Which tokens a divergence pulls, with what weight: by hand, and against loops."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from composing import composed
from composing import settings as preset
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from micro_batches import EVERYWHERE, actor_config, jagged, micro_batch
from torch.nn.functional import pad
from verl import DataProto
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
from verl.utils import tensordict_utils as tu

from recipe.egrsd.config.pull import WEIGHTINGS, PullConfig
from recipe.egrsd.engine.head import head_scores
from recipe.egrsd.loss import training_loss
from recipe.egrsd.method.divergence import Divergence
from recipe.egrsd.method.pull import pull_weights, pulled_rows

CORRECT, LENGTHS = [1, 0, 1, 0, 0, 0, 1, 0], [900, 1500, 700, 16000, 300, 16000, 1200, 40]


def pulled(correct, lengths, rows, groups=None, has_teacher=None):
    count = len(correct)
    groups, has_teacher = groups or ["x"] * count, has_teacher or [True] * count
    return pulled_rows(groups, range(count), [*map(bool, correct)], lengths, has_teacher, rows=rows)


def test_responses_by_hand():
    """Of the two longest wrong ones the first; the shortest correct one is row 2."""
    assert pulled(CORRECT, LENGTHS, "longest_wrong") == [3]
    assert pulled(CORRECT, LENGTHS, "shortest_correct") == [2]
    assert pulled(CORRECT, LENGTHS, "wrong") == [1, 3, 4, 5, 7] and pulled(CORRECT, LENGTHS, "correct") == [0, 2, 6]
    assert pulled(CORRECT, LENGTHS, "all", has_teacher=[True] * 3 + [False] * 5) == [0, 1, 2]
    assert pulled(CORRECT, LENGTHS, "longest_wrong", has_teacher=[False] * 4 + [True] * 4) == [5]
    assert pulled([1, 1, 0, 0], [3, 2, 4, 2], "longest_wrong", groups=["a", "b", "a", "b"]) == [2, 3]


def weights(correct, lengths, rows, *, groups=None, numbers=None, **knobs):
    masks = [torch.ones(length, dtype=torch.int64) for length in lengths]
    groups, numbers = groups or ["x"] * len(correct), numbers or range(len(correct))
    knobs = {"tokens": None, "weighting": "frontier"} | knobs
    return pull_weights(masks, groups, numbers, [*map(bool, correct)], rows, **knobs)


def test_the_frontiers_weight_by_hand():
    """4p(1-p) of k correct ones of 8, times 0.5: 0, .21875, .375, .46875, .5, …; the row's 1,024 tokens share it."""
    for right, expected in enumerate([0, 0.21875, 0.375, 0.46875, 0.5, 0.46875, 0.375, 0.21875, 0]):
        rows = [7] if right < 8 else []
        found = weights([1] * right + [0] * (8 - right), [2] * 8, rows)
        assert 0.5 * sum(w.sum().item() for w in found) == pytest.approx(expected, abs=1e-6)
    row = weights(CORRECT, LENGTHS, [3], tokens=1024)[3]
    assert row.count_nonzero() == 1024 and row[1024:].count_nonzero() == 0
    assert 0.5 * row[0].item() == pytest.approx(0.46875 / 1024, abs=1e-9)
    # Two problems of four, two tokens pulled of row 2: .5 * 4 * .5 * .5 / 2 problems / 2 tokens = .125; b is all wrong.
    found = weights([1, 0, 0, 1, 0, 0, 0, 0], [3, 2, 4, 2, 1, 1, 1, 1], [2], groups=[*"aaaabbbb"], tokens=2)
    assert [0.5 * value for value in found[2].tolist()] == pytest.approx([0.125, 0.125, 0, 0], abs=1e-9)
    assert sum(w.count_nonzero() for w in found) == 2


def test_a_rollout_of_several_rows_is_one_for_the_frontier():
    """One of two rollouts is right, whatever the three rows of the other: p = 1/2, shared by its three rows."""
    found = weights([1, 0, 0, 0], [2] * 4, [1, 2, 3], numbers=[0, 1, 1, 1])
    assert [w.sum().item() for w in found] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=1e-6)


response = st.tuples(st.sampled_from("ab"), st.booleans(), st.lists(st.booleans(), min_size=1, max_size=5))


@examples(max_examples=200, deadline=None)
@given(rows=st.lists(response, min_size=1), tokens=st.none() | st.integers(1, 4), weighting=st.sampled_from(WEIGHTINGS))
def test_weights_against_loops(rows, tokens, weighting):
    """Half of the responses pulled, some positions a tool's, some rows padding."""
    masks = [torch.tensor(mask, dtype=torch.int64) for _, _, mask in rows]
    groups, correct = [group for group, _, _ in rows], [right for _, right, _ in rows]
    chosen = [i for i in range(0, len(rows), 2) if masks[i][:tokens].any()]
    found = pull_weights(masks, groups, range(len(rows)), correct, chosen, tokens=tokens, weighting=weighting)
    real = [i for i in range(len(rows)) if masks[i].any()]
    for i, row in enumerate(found):
        for t, value in enumerate(row.tolist()):
            if i not in chosen or not masks[i][t] or (tokens and t >= tokens):
                assert value == 0
                continue
            own = sum(masks[i][:tokens].tolist())
            every = sum(sum(masks[j][:tokens].tolist()) for j in chosen)
            group = [j for j in real if groups[j] == groups[i]]
            p = sum(correct[j] for j in group) / len(group)
            problems, same = len({groups[j] for j in real}), sum(groups[j] == groups[i] for j in chosen)
            expected = {"token_mean": 1 / every, "response_mean": 1 / len(chosen) / own,
                        "frontier": 4 * p * (1 - p) / problems / same / own}[weighting]  # fmt: skip
            assert value == pytest.approx(expected, rel=1e-6)


STUDENT = torch.tensor([[2, 1, 0, -1], [0.5, 0.5, 0, 0], [3, 0, 0, -2], [0, 1, 0.5, -0.5]])
TEACHER = torch.tensor([[2.2, 0.8, 0, -1], [1.5, 0.2, -0.3, 0], [3, 0, 0, -2], [0.3, 0.9, 0.4, -0.6]])


def scores(student, teacher, *, temperature, at=None, chunk=2**26, **knobs):
    """Logits as hidden states under a head that changes nothing; the gradient of a weighted sum."""
    hidden = student.clone().requires_grad_()
    also = Divergence(teacher, torch.eye(4), at=at, temperature=temperature, **knobs)
    labels = torch.zeros(len(student), dtype=torch.int64)
    found = head_scores(hidden, torch.eye(4), None, labels, temperature=temperature, also=also, chunk_logits=chunk)
    return found[:, 1], hidden, also


def test_the_published_numbers_of_opsds_loss():
    """T = 1.1, forward KL: without clip .010972, .151399, 0, .011105; clipped at .05 from above, with its gradient."""
    plain, _, _ = scores(STUDENT, TEACHER, temperature=1.1, kind="forward_kl", clip=None)
    assert plain.tolist() == pytest.approx([0.010972, 0.151399, 0, 0.011105], abs=1e-6)
    clipped, hidden, also = scores(STUDENT, TEACHER, temperature=1.1, kind="forward_kl", clip=0.05)
    assert clipped.tolist() == pytest.approx([-0.009603, -0.151985, 0, -0.006805], abs=1e-6)
    assert clipped.mean().item() == pytest.approx(-0.042098, abs=1e-6)  # opsd's, op2sd's and copsd's token mean
    for mean, knobs in ((-0.046908, {"temperature": 1.0}), (-0.008075, {"kind": "reverse_kl"})):
        other, _, _ = scores(STUDENT, TEACHER, **({"temperature": 1.1, "kind": "forward_kl", "clip": 0.05} | knobs))
        assert other.mean().item() == pytest.approx(mean, abs=1e-6)
    # Of two responses, tokens 1 to 3 and token 4: (-.161588 / 3 - .006805) / 2, (.162371 / 3 + .011105) / 2.
    of_means = torch.cat(weights([0, 0], [3, 1], [0, 1], weighting="response_mean"))
    for values, expected in ((clipped, -0.030334), (plain, 0.032614)):
        assert (of_means * values).sum().item() == pytest.approx(expected, abs=1e-6)
    clipped.mean().backward()
    assert hidden.grad[0].tolist() == pytest.approx([0.044559, -0.025350, -0.013692, -0.005516], abs=1e-6)
    assert hidden.grad[1].tolist() == pytest.approx([0.029953, -0.009719, -0.006169, -0.014065], abs=1e-6)
    # Token 2: .353384 is cut to .05 and is all of its positive part; one entry of four.
    assert also.watched["clip_removed"][1].item() == pytest.approx(0.303384, abs=1e-6)
    assert also.watched["positive_shares"][1].item() == pytest.approx(0.353384, abs=1e-6)
    assert also.watched["clipped_entries_frac"].tolist() == [0.25, 0.25, 0, 0.25]
    assert also.watched["clipped_tokens_frac"].tolist() == [1, 1, 0, 1]


def test_both_sides_of_a_clip():
    """Steered teacher [4.1, -1.9, .3, -1.9]: reverse KL 1.368846; every entry lies outside of ±.05: .1, no gradient."""
    student, teacher = torch.tensor([[1.1, 0.4, 0.1, -0.4]]), torch.tensor([[4.1, -1.9, 0.3, -1.9]])
    for knobs, expected, gradient in (
        ({"kind": "reverse_kl", "clip": None}, 1.368846, [-0.877742, 0.595003, 0.0725, 0.210239]),
        ({"kind": "reverse_kl", "clip": 0.05, "clip_low": -0.05}, 0.1, [0, 0, 0, 0]),
        ({"kind": "forward_kl", "clip": 0.05, "clip_low": -0.05}, -0.030517, None),
        ({"kind": "forward_kl", "clip": 0.05}, -0.035262, None),
    ):
        found, hidden, _ = scores(student, teacher, temperature=1.1, **knobs)
        assert found.item() == pytest.approx(expected, abs=1e-6)
        found.sum().backward()
        if gradient:
            assert hidden.grad[0].tolist() == pytest.approx(gradient, abs=1e-6)


def test_ssopds_part_by_hand():
    """Two tokens of the longest wrong response, T = 1.2, weights .125: -.018286, without clip .017049."""
    student = torch.cat([STUDENT[:2], torch.tensor([[0.2, 0.1, 0, -0.3], [1, 0, 0, 0]])])
    for clip, expected in ((0.05, -0.018286), (None, 0.017049)):
        at = torch.tensor([0, 1])
        found, hidden, _ = scores(student, TEACHER[:2], temperature=1.2, at=at, kind="forward_kl", clip=clip)
        loss = (0.125 * found).sum()
        assert loss.item() == pytest.approx(expected, abs=1e-6)
        loss.backward()
        if clip:
            assert hidden.grad[0].tolist() == pytest.approx([0.021436, -0.011737, -0.006760, -0.002938], abs=1e-6)
            assert hidden.grad[1].tolist() == pytest.approx([0.014405, -0.004672, -0.003080, -0.006652], abs=1e-6)
        assert not hidden.grad[2:].any()


def group_advantages(correct: list[int]) -> list[float]:
    """Of one problem's responses, as verl makes them of ssopd's settings."""
    algorithm, one = composed(algorithm="ssopd").algorithm, torch.ones(len(correct), 1)
    rewards = torch.tensor(correct).float()[:, None]
    data = {"token_level_rewards": rewards, "rm_scores": rewards, "response_mask": one}
    data = DataProto.from_single_dict(data | {"uid": np.array(["x"] * len(correct), dtype=object)})
    keys, name = [f"x_{row}_0" for row in range(len(correct))], algorithm.egrsd.advantage
    found = compute_advantage_for_multi_trajectories(data, batch_keys=keys, adv_estimator=name, config=algorithm)
    return found.batch["advantages"][:, 0].tolist()


@pytest.mark.parametrize(("correction", "right", "wrong"), [(1, 1.207612, -0.724567), (0, 1.290994, -0.774597)])
def test_group_advantages_by_hand(correction, right, wrong, monkeypatch):
    """Three right of eight, mean .375, squared deviations 8 * .375 * .625 = 1.875: .625 / sqrt(1.875 / 7) and
    -.375 / sqrt(1.875 / 7). A population's standard deviation, the wrong one here, has 8 for 7."""
    monkeypatch.setattr(torch, "std", partial(torch.std, correction=correction))
    expected = [right if is_right else wrong for is_right in CORRECT]
    assert group_advantages(CORRECT) == pytest.approx(expected, abs=3e-6)


def test_ssopds_policy_gradient_and_divergence_together_by_hand():
    """The longest wrong response of the first of two problems of four: ids 0, 1, 3, 0, T = 1.2, the weights of above.

    A = -.5 / (.577350 + 1e-6) = -.866024. Token 4, which is not pulled: p(0) = e^.8333 / (e^.8333 + 3) = .434066, and
    the mean over 8 responses of a mean over 4 tokens gives .866024 (1 - .434066) / (8 * 4 * 1.2) = .012763, for the
    other ids -.866024 * .188645 / 38.4 = -.004254. Token 1 has p(0) = .586318, likewise .009330, and the divergence's
    .021436: .030765.
    """
    config, egrsd = composed(algorithm="ssopd"), preset("ssopd")
    student = torch.cat([STUDENT[:2], torch.tensor([[0.2, 0.1, 0, -0.3], [1, 0, 0, 0]])]).requires_grad_()
    also = Divergence(TEACHER[:2], torch.eye(4), at=torch.tensor([0, 1]), temperature=1.2, **egrsd.divergence_knobs)
    ids = torch.tensor([0, 1, 3, 0])
    found = head_scores(student, torch.eye(4), None, ids, temperature=1.2, also=also)
    scores = {"log_probs": found[:, 0], "divergence": found[:, 1]}
    scores |= {name: torch.cat([values, torch.zeros(2)]) for name, values in also.watched.items()}
    output = {name: jagged([pad(values, (0, 1))]) for name, values in scores.items()}
    pull = weights([1, 0, 0, 1, 0, 0, 0, 0], [3, 2, 4, 2, 1, 1, 1, 1], [2], groups=[*"aaaabbbb"], tokens=2)[2]
    once, nothing = torch.ones(4, dtype=torch.int64), torch.zeros(4)
    row = {"prompts": once[:1], "responses": ids, "response_mask": once, "teacher_mask": once}
    row |= {"teacher_log_probs": nothing, "teacher_entropy": nothing, "pull_weight": egrsd.pull.coefficient * pull}
    row["advantages"] = nothing + group_advantages([1, 0, 0, 1])[2]
    batch = micro_batch({name: [column] for name, column in row.items()}, [0])
    tu.assign_non_tensor(batch, global_batch_size=8)
    actor = replace(actor_config(), loss_agg_mode=config.actor_rollout_ref.actor.loss_agg_mode)
    training_loss(actor, egrsd, output, batch)[0].backward()
    expected = [[0.030765, -0.017484, -0.009258, -0.004023], [0.007609, 0.011084, -0.007560, -0.011133],
                [-0.006583, -0.006057, -0.005573, 0.018213], [0.012763, -0.004254, -0.004254, -0.004254]]  # fmt: skip
    torch.testing.assert_close(student.grad, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("chunk", [4, 8, 2**26])
def test_pulled_positions_are_scored_as_if_alone(kind, chunk):
    """Whatever the chunks, and 0 with no gradient elsewhere; gradients by torch's own differentiation."""
    at, knobs = torch.tensor([0, 3]), {"temperature": 1.1, "kind": kind, "clip": 0.02}
    found, hidden, _ = scores(STUDENT, TEACHER[at], at=at, chunk=chunk, **knobs)
    alone, by_itself, _ = scores(STUDENT[at], TEACHER[at], **knobs)
    torch.testing.assert_close(found[at], alone, atol=1e-6, rtol=0)
    found.sum().backward(), alone.sum().backward()
    torch.testing.assert_close(hidden.grad[at], by_itself.grad, atol=1e-6, rtol=0)
    assert not found[1:3].any() and not hidden.grad[1:3].any()
    leaf = STUDENT[at].clone().requires_grad_()
    log_s, log_t = (leaf / 1.1).log_softmax(-1), (TEACHER[at] / 1.1).log_softmax(-1)
    s, t = log_s.exp(), log_t.exp()
    m = ((s + t) / 2).log()
    shares = {"forward_kl": t * (log_t - log_s), "reverse_kl": s * (log_s - log_t),
              "jsd": (s * (log_s - m) + t * (log_t - m)) / 2}[kind]  # fmt: skip
    shares.clamp(max=0.02).sum().backward()
    torch.testing.assert_close(by_itself.grad, leaf.grad, atol=1e-6, rtol=0)


def test_a_coefficient_rises_and_falls():
    steps = {"coefficient": 3.0, "warmup_steps": 3, "decay_steps": 2}
    pull = PullConfig(**(EVERYWHERE | steps))
    assert [pull.coefficient_at(step) for step in range(1, 8)] == pytest.approx([0, 1, 2, 3, 1.5, 0, 0])
