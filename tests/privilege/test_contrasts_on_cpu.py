"""A teacher that reads a response under a right guide and under wrong ones: which, what comes of both, who has none.

The trainer's steps with such a teacher: tests/steps/test_contrast_steps_on_cpu.py.
"""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from examples.tiny_cpu import model as tiny
from recipe.egrsd.privilege.contrasts import boxed_ids, wrong_answers, wrong_peers
from recipe.egrsd.teacher.readings import Reading, contrast
from recipe.egrsd.teacher.scoring import nested

RLCSD = "recipe.egrsd.method.evidence:tanh_evidence"
SIPO = "recipe.egrsd.method.evidence:clipped_evidence"


def peers(correct, *, most=4, seed="1 1", keys=None, shown=None):
    """One group, unless keys say otherwise."""
    count = len(correct)
    keys, shown = keys or [f"u_x_{row}_0" for row in range(count)], shown or [[5]] * count
    return wrong_peers(keys, [[1, 2]] * count, [*map(bool, correct)], shown, most=most, seed=seed)


def test_wrong_peers_by_hand():
    """Wrong ones: rows 1, 2, 4. Nobody is its own, and no more than asked."""
    found = peers([1, 0, 0, 1, 0])
    assert [sorted(of_row) for of_row in found] == [[1, 2, 4], [2, 4], [1, 4], [1, 2, 4], [1, 2]]
    assert [len(of_row) for of_row in peers([1, 0, 0, 1, 0], most=2)] == [2, 2, 2, 2, 2]
    assert peers([1, 0]) == [[1], []] and peers([1, 1]) == [[], []]
    assert peers([1, 0, 0], shown=[[5], None, [6]]) == [[2], [2], []]  # what cannot be shown is nobody's guide


def test_chance_goes_by_run_and_step_alone():
    draw = {"correct": [0] * 30, "most": 4}
    assert peers(**draw) == peers(**draw)  # as a resumed run would
    assert peers(**draw) != peers(**draw, seed="1 2")
    drawn = Counter(peer for of_row in peers(**draw) for peer in of_row)
    assert len(drawn) > 25 and max(drawn.values()) < 15


groups = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from([0, 1, 2, 3])), max_size=12)


@examples(max_examples=300, deadline=None)
@given(groups, st.randoms(use_true_random=False))
def test_both_are_the_rule_whatever_the_order_of_the_batch(rows, shuffled):
    """Against loops over the definition, and again with the rows in another order. The right answer is 1 of a, b, c."""
    keys = [f"{group}_{sum(g == group for g, _, _ in rows[:i])}_0" for i, (group, _, _) in enumerate(rows)]
    correct, answers = [good for _, good, _ in rows], [[answer] if answer else None for _, _, answer in rows]
    found = wrong_answers(keys, correct, answers, [[1]] * len(rows))
    for (group, good, answer), shown in zip(rows, found, strict=True):
        own = [a for g, other, a in rows if g == group and not other and a > 1]
        if good:
            most = max((own.count(a) for a in own), default=0)
            first = next((a for a in own if own.count(a) == most), None)
            assert shown == (None if first is None else [first])
        else:
            assert shown == ([answer] if answer > 1 else None)
    others = peers(correct, keys=keys, most=2)
    for i, ((group, _, _), of_row) in enumerate(zip(rows, others, strict=True)):
        allowed = {j for j, (g, good, _) in enumerate(rows) if g == group and not good and j != i}
        assert set(of_row) <= allowed and len(of_row) == len(set(of_row)) == min(2, len(allowed))
    order = list(range(len(rows)))
    shuffled.shuffle(order)
    moved = [keys[i] for i in order], [correct[i] for i in order]
    again = wrong_answers(*moved, [answers[i] for i in order], [[1]] * len(rows))
    assert again == [found[i] for i in order]
    again = peers(moved[1], keys=moved[0], most=2)
    assert [[order[at] for at in of_row] for of_row in again] == [others[i] for i in order]


def test_an_answer_is_the_last_boxed_one_as_the_reward_reads_it():
    tokenizer = tiny.build_tokenizer()

    def found(text: str, room: int = 50) -> str | None:
        ids = boxed_ids(tokenizer, tokenizer.encode(text, add_special_tokens=False), room=room)
        return None if ids is None else tokenizer.decode(ids)

    assert found("\\boxed{1} \\boxed{ 12 }<|im_end|>") == "12"
    assert found("12") is found("\\boxed{12") is found("\\boxed{}") is found("<think> \\boxed{12}") is None
    assert found("\\boxed{123}", room=3) == "123" and found("\\boxed{123}", room=2) is None
    assert found("\\boxed{" + "1" * 1001 + "}", room=2000) is None


def test_what_several_wrong_guides_say_together():
    """.25 and .45: log .35; one guide alone: its own; none: 0."""
    readings = [
        [Reading([1]), Reading([2], against=True), Reading([3], against=True)],
        [Reading([1]), Reading([2], against=True)],
        [],
    ]
    passes = [[[0.5], [0.5], [1.0]], [[0.25], [0.3], [1.0]], [[0.45], [1.0], [1.0]]]
    found = contrast(readings, [nested([torch.tensor(row).log() for row in rows]) for rows in passes])
    assert found.values().tolist() == pytest.approx([math.log(0.35), math.log(0.3), 0.0], abs=1e-6)
    assert contrast([[Reading([1])]], [nested([torch.zeros(1)])]) is None
