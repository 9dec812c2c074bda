"""A teacher that reads a response beside each of its guides: which, with what coefficients, what comes of the sum.

The trainer's steps with such a teacher: tests/steps/test_guide_steps_on_cpu.py.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from recipe.egrsd.config.steering import SteeringConfig
from recipe.egrsd.engine.head import head_scores
from recipe.egrsd.method.divergence import Divergence
from recipe.egrsd.method.pull import pull_weights, pulled_rows
from recipe.egrsd.privilege.guides import BARE, SOLUTION, guides
from recipe.egrsd.teacher.readings import HiddenSum
from recipe.egrsd.teacher.scoring import nested


def steering(strength: float = 3.0, warmup_steps: int | None = None, own_response: bool = True) -> SteeringConfig:
    return SteeringConfig(strength=strength, warmup_steps=warmup_steps, own_response=own_response)


def of_group(correct, *, solution=True, strength=3.0, own_response=True, keys=None, shown=None):
    """One group, unless keys say otherwise."""
    count = len(correct)
    keys, shown = keys or [f"u_{row}_0" for row in range(count)], shown or [[5]] * count
    has = solution if isinstance(solution, list) else [solution] * count
    return guides(keys, [*map(bool, correct)], shown, has, strength=strength, own_response=own_response)


def test_a_group_by_hand():
    """Right: the solution, rows 0 and 3, 3 / 3 each; wrong: rows 1 and 2, -3 / 2 each, one of them being read."""
    found = of_group([1, 0, 0, 1])
    assert found[1] == found[2] == [(BARE, 1.0), (SOLUTION, 1.0), (0, 1.0), (1, -1.5), (2, -1.5), (3, 1.0)]
    assert of_group([1, 0, 0, 1], own_response=False)[1] == [
        (BARE, 1.0), (SOLUTION, 1.0), (0, 1.0), (1, 0.0), (2, -3.0), (3, 1.0)
    ]  # fmt: skip
    assert of_group([0, 0])[0] == [(BARE, 1.0), (SOLUTION, 3.0), (0, -1.5), (1, -1.5)]
    assert of_group([0, 0], solution=False) == of_group([1, 1]) == [[], []]  # nothing to steer by
    assert of_group([1, 0], own_response=False) == [[(BARE, 1.0), (SOLUTION, 3.0), (0, 0.0), (1, -3.0)], []]
    # What cannot be shown is nobody's guide, and has guides of its own.
    assert of_group([1, 0, 0], shown=[[5], None, [6]])[1] == [(BARE, 1.0), (SOLUTION, 1.5), (0, 1.5), (2, -3.0)]


def test_which_responses_are_pulled():
    """[1, 0, 0, 1]: rows 1 and 2. [0, 0]: both with a solution, none without. [1, 1]: none."""
    for correct, solution, expected in (
        ([1, 0, 0, 1], True, [1, 2]), ([0, 0], True, [0, 1]), ([0, 0], False, []), ([1, 1], True, []),
    ):  # fmt: skip
        has_teacher = [*map(bool, of_group(correct, solution=solution))]
        count = len(correct)
        assert pulled_rows(["u"] * count, range(count), correct, [9] * count, has_teacher, rows="wrong") == expected


def test_the_strength_rises_linearly_from_nothing():
    ramp = steering(warmup_steps=3)
    assert [ramp.strength_at(step) for step in range(1, 6)] == [0, 1, 2, 3, 3]
    assert steering().strength_at(1) == 3.0


members = st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), min_size=1, max_size=9)


@examples(max_examples=200, deadline=None)
@given(members, st.sampled_from(["", "a", "ab"]), st.booleans(), st.randoms(use_true_random=False))
def test_it_is_the_definition_whatever_the_order_of_the_batch(rows, solved, own, shuffled):
    """By loops: mean over right guides minus mean over wrong ones, in one order for all responses of a problem."""
    keys = [f"{group}_{sum(g == group for g, _, _ in rows[:i])}_0" for i, (group, _, _) in enumerate(rows)]
    order = list(range(len(rows)))
    shuffled.shuffle(order)
    for batch in (list(range(len(rows))), order):
        found = of_group(
            [rows[i][1] for i in batch], keys=[keys[i] for i in batch],
            shown=[[7] if rows[i][2] else None for i in batch],
            solution=[rows[i][0] in solved for i in batch], strength=2.0, own_response=own,
        )  # fmt: skip
        named = {i: [(g if g < 0 else keys[batch[g]], c) for g, c in found[at]] for at, i in enumerate(batch)}
        for i, (group, _, _) in enumerate(rows):
            pool = [j for j, (g, _, shown) in enumerate(rows) if g == group and shown and (own or i != j)]
            right = [keys[j] for j in pool if rows[j][1]] + [SOLUTION] * (group in solved)
            wrong = [keys[j] for j in pool if not rows[j][1]]
            if not right or not wrong:
                assert named[i] == []
                continue
            expected = {BARE: 1.0} | dict.fromkeys(right, 2 / len(right)) | dict.fromkeys(wrong, -2 / len(wrong))
            assert {g: c for g, c in named[i] if c} == pytest.approx(expected)
        for group in "ab":
            orders = [[g for g, _ in named[i]] for i in range(len(rows)) if rows[i][0] == group and named[i]]
            assert all(guide == orders[0] for guide in orders)


# One token, T = 1.1. Bare prompt; correct rollouts 0 and 3; wrong ones 1 and 2, of which 1 is the reader; the solution.
LOGITS = {
    BARE: [1, 0.5, 0, -0.5], 0: [1.8, 0.2, 0.1, -0.9], 3: [1.4, 0.4, 0.3, -0.7], SOLUTION: [2, 0, 0.2, -1],
    1: [0.8, 0.9, 0.2, -0.6], 2: [0.6, 1.1, 0, -0.2],
}  # fmt: skip
STUDENT, TEMPERATURE = torch.tensor([[1.1, 0.4, 0.1, -0.4]]), 1.1


def steered(of_row, *, dtype=torch.float64):
    """Row 1's combined logits: hidden states under a head that changes nothing."""
    total = HiddenSum(2)
    for guide, coefficient in of_row:
        if coefficient:
            states = torch.tensor(LOGITS[guide], dtype=dtype)
            total.add(nested([states[:0], states]), [None, coefficient])
    return total.rounded().unbind()[1]


def divergence(teacher, *, kind="reverse_kl", clip=None, clip_low=None):
    hidden = STUDENT.clone().requires_grad_()
    knobs = {"temperature": TEMPERATURE, "kind": kind, "clip": clip, "clip_low": clip_low}
    also, label = Divergence(teacher.float()[None], torch.eye(4), **knobs), torch.tensor([0])
    found = head_scores(hidden, torch.eye(4), None, label, temperature=TEMPERATURE, also=also)[:, 1]
    found.sum().backward()
    return found.item(), hidden.grad[0].tolist()


@pytest.mark.parametrize(
    ("strength", "logits", "probabilities", "reverse", "clipped", "forward", "forward_clipped"),
    [
        (0, [1, 0.5, 0, -0.5], [0.436042, 0.276772, 0.175677, 0.111509], 0.003125, 0.003125, 0.003217, 0.003217),
        (1, [2.033333, -0.3, 0.1, -0.966667], [0.736515, 0.088298, 0.127021, 0.048166], 0.197724, 0.1, 0.172520,
         -0.089877),
        (3, [4.1, -1.9, 0.3, -1.9], [0.961395, 0.004112, 0.030382, 0.004112], 1.368846, 0.1, 0.629575, -0.030517),
    ],
)  # fmt: skip
def test_the_steered_teacher_by_hand(strength, logits, probabilities, reverse, clipped, forward, forward_clipped):
    """Mean of right logits [1.733333, .2, .2, -.866667], of wrong ones [.7, 1, .1, -.4]: their difference
    [1.033333, -.8, .1, -.466667] times strength, added to the bare prompt's."""
    teacher = steered(of_group([1, 0, 0, 1], strength=strength)[1])
    assert teacher.tolist() == pytest.approx(logits, abs=1e-6)
    assert (teacher / TEMPERATURE).softmax(-1).tolist() == pytest.approx(probabilities, abs=1e-6)
    both = {"clip": 0.05, "clip_low": -0.05}
    assert divergence(teacher)[0] == pytest.approx(reverse, abs=1e-6)
    assert divergence(teacher, **both)[0] == pytest.approx(clipped, abs=1e-6)
    assert divergence(teacher, kind="forward_kl")[0] == pytest.approx(forward, abs=1e-6)
    assert divergence(teacher, kind="forward_kl", **both)[0] == pytest.approx(forward_clipped, abs=1e-6)
    if strength == 3:  # every share lies outside of ±.05: as published, the token has no gradient
        assert divergence(teacher, **both)[1] == [0, 0, 0, 0]
        assert divergence(teacher)[1] == pytest.approx([-0.877742, 0.595003, 0.072500, 0.210239], abs=1e-6)


def test_plausible_other_teachers_are_other_numbers():
    """Own response excluded [4.4, -2.2, .6, -2.5]: 1.592386; solution left out [3.7, -1.6, .3, -1.7]: 1.103963; right
    guides alone, z0 + 3 (mean - z0), [3.2, -.4, .6, -1.6]: .608466; a mean of probabilities instead of logits."""
    without_own = steered(of_group([1, 0, 0, 1], own_response=False)[1])
    assert without_own.tolist() == pytest.approx([4.4, -2.2, 0.6, -2.5])
    assert divergence(without_own)[0] == pytest.approx(1.592386, abs=1e-6)
    unsolved = steered(of_group([1, 0, 0, 1], solution=False)[1])
    assert unsolved.tolist() == pytest.approx([3.7, -1.6, 0.3, -1.7])
    assert divergence(unsolved)[0] == pytest.approx(1.103963, abs=1e-6)
    right_alone = steered([(BARE, -2.0), (SOLUTION, 1.0), (0, 1.0), (3, 1.0)])
    assert right_alone.tolist() == pytest.approx([3.2, -0.4, 0.6, -1.6])
    assert divergence(right_alone)[0] == pytest.approx(0.608466, abs=1e-6)
    of_logits = steered([(SOLUTION, 1 / 3), (0, 1 / 3), (3, 1 / 3)])
    assert (of_logits / TEMPERATURE).softmax(-1).tolist() == pytest.approx(
        [0.628824, 0.156009, 0.156009, 0.059158], abs=1e-6
    )
    each = torch.tensor([LOGITS[guide] for guide in (SOLUTION, 0, 3)], dtype=torch.float64)
    assert (each / TEMPERATURE).softmax(-1).mean(0).tolist() == pytest.approx(
        [0.625540, 0.158808, 0.155898, 0.059754], abs=1e-6
    )


def test_tokens_behind_the_limit_are_not_pulled():
    masks = [torch.ones(1500, dtype=torch.int64)] * 2
    found = pull_weights(masks, ["u", "u"], [0, 1], [True, False], [1], tokens=1024, weighting="token_mean")
    assert [int(weights.count_nonzero()) for weights in found] == [0, 1024] and not found[1][1024:].any()


def test_the_sum_of_hidden_states_is_the_sum_of_logits():
    """To 1e-12 in float64. In bfloat16 rounded once: nearer to it than a sum of rounded logits."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(500, 64, generator=generator, dtype=torch.float64)
    passes = [torch.randn(20, 64, generator=generator, dtype=torch.float64) for _ in range(6)]
    coefficients = [1.0, 1.0, 1.0, -1.5, -1.5, 1.0]
    logits = sum(c * states @ head.T for c, states in zip(coefficients, passes, strict=True))

    def total(dtype: torch.dtype):
        found = HiddenSum(1)
        for c, states in zip(coefficients, passes, strict=True):
            found.add(nested([states.to(dtype).flatten()]), [c])
        return found.rounded().values().view(20, 64)

    torch.testing.assert_close(total(torch.float64) @ head.T, logits, atol=1e-12, rtol=0)
    ours = total(torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    passes, head = [states.bfloat16() for states in passes], head.bfloat16()
    exact = sum(c * states.double() @ head.double().T for c, states in zip(coefficients, passes, strict=True))
    theirs = sum(c * (states @ head.T) for c, states in zip(coefficients, passes, strict=True)).double()
    error, of_logits = ((logits - exact).abs().mean() for logits in (ours.double() @ head.double().T, theirs))
    assert error < 0.6 * of_logits


def test_a_response_that_is_read_once_keeps_its_hidden_states():
    states = torch.randn(12).bfloat16()
    total = HiddenSum(2)
    total.add(nested([states, states[:0]]), [1.0, None])
    kept, nothing = total.rounded().unbind()
    assert torch.equal(kept, states) and kept.dtype == nothing.dtype == torch.bfloat16 and not len(nothing)
    assert HiddenSum(2).rounded() is None
