"""A teacher that is shown another response: who is chosen, and what of the response is shown.

The trainer's steps with such a teacher: tests/steps/test_peer_steps_on_cpu.py.
"""

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from recipe.egrsd.privilege.peers import CHOICE_OF_PEERS, chosen_peers, shown_ids, spliced
from recipe.egrsd.privilege.prompts import SLOT

EOS, EOT = 90, 91
RULES = ("shortest", "longest", "random")


def peers(correct, lengths, *, wanted=(True,), rule="shortest", seed="1 1", keys=None, shown=None):
    """One group, unless keys say otherwise."""
    count = len(correct)
    keys = keys or [f"u_x_{row}_0" for row in range(count)]
    shown = shown or [[5] * length for length in lengths]
    knobs = {"wanted": wanted, "rule": rule, "seed": seed}
    return chosen_peers(keys, [[1, 2]] * count, [score > 0 for score in correct], shown, **knobs)


def test_a_group_by_hand():
    """Correct ones: rows 0, 2, 6 of 900, 700, 1,200 tokens. Everybody's shortest is row 2, but row 2's own is row 0."""
    correct, lengths = [1, 0, 1, 0, 0, 0, 1, 0], [900, 1500, 700, 16000, 300, 16000, 1200, 40]
    assert peers(correct, lengths) == [2, 2, 0, 2, 2, 2, 2, 2]
    assert peers(correct, lengths, rule="longest") == [6, 6, 6, 6, 6, 6, 0, 6]
    # Wrong ones: rows 1, 3, 4, 5, 7. Of the two longest the first rollout is taken, but never itself.
    assert peers(correct, lengths, wanted=[False], rule="longest") == [3, 3, 3, 5, 3, 3, 3, 3]
    assert peers([1, 0, 0], [3, 3, 3]) == [None, 0, 0]
    assert peers([0, 0], [3, 3]) == [None, None] and peers([1, 1], [3, 3], wanted=[False]) == [None, None]


def test_a_right_one_stands_in_for_a_wrong_one():
    """OASIS's context (eq. 7): the shortest wrong one, however short a right one is; among right ones alone the
    shortest other one. The only wrong one is shown a right one, for itself it is none."""
    knobs = {"wanted": CHOICE_OF_PEERS["peer_wrong_first"]}
    assert peers([1, 0, 1, 0], [1, 9, 2, 8], **knobs) == [3, 3, 3, 1]
    assert peers([1, 1, 1], [5, 3, 4], **knobs) == [1, 2, 1]
    assert peers([1, 0], [5, 3], **knobs) == [1, 0] and peers([1], [5], **knobs) == [None]
    keys = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
    assert peers([1, 1, 1, 0], [5, 3, 4, 9], keys=keys, **knobs) == [1, 0, 3, 2]


groups = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 4)), min_size=1, max_size=12
)  # problem, whether right, tokens shown (0: nothing that can be shown)


@examples(max_examples=300, deadline=None)
@given(groups, st.sampled_from(RULES), st.sampled_from([*CHOICE_OF_PEERS.values()]), st.randoms(use_true_random=False))
def test_it_is_the_rule_whatever_the_order_of_the_batch(rows, rule, wanted, shuffled):
    """Against loops over the definition, and again with the rows in another order, as balancing leaves them."""
    keys = [f"{group}_{sum(g == group for g, _, _ in rows[:i])}_0" for i, (group, _, _) in enumerate(rows)]
    correct, shown = [int(right) for _, right, _ in rows], [[7] * tokens or None for _, _, tokens in rows]
    knobs = {"wanted": wanted, "rule": rule}
    found = peers(correct, None, keys=keys, shown=shown, **knobs)
    for row, (group, _, _) in enumerate(rows):
        others = [i for i, (g, _, n) in enumerate(rows) if g == group and n and i != row]
        kinds = [[i for i in others if rows[i][1] == right] for right in wanted]
        allowed = next(filter(None, kinds), [])
        best = {"shortest": min, "longest": max}.get(rule)
        if best and allowed:
            allowed = [i for i in allowed if rows[i][2] == best(rows[j][2] for j in allowed)][:1]
        assert found[row] in allowed if allowed else found[row] is None
    order = list(range(len(rows)))
    shuffled.shuffle(order)
    again = peers(
        [correct[i] for i in order], None, keys=[keys[i] for i in order], shown=[shown[i] for i in order], **knobs
    )
    assert [None if at is None else order[at] for at in again] == [found[i] for i in order]


def test_chance_goes_by_run_and_step_alone():
    draw = {"correct": [1] * 30, "lengths": [3] * 30, "rule": "random"}
    assert peers(**draw) == peers(**draw)  # as a resumed run would
    assert peers(**draw) != peers(**draw, seed="1 2") and peers(**draw) != peers(**draw, seed="2 1")
    assert len(set(peers(**draw))) > 10


def test_a_response_is_shown_without_its_end_and_never_with_a_control_token():
    control = {EOS, EOT}
    assert shown_ids([5, 6, EOS], control_ids=control) == [5, 6]
    assert shown_ids([5, 6, EOT, EOS], control_ids=control) == [5, 6]
    assert shown_ids([5, 6], control_ids=control) == [5, 6]  # cut at the limit
    assert shown_ids([5, EOT, 6, EOS], control_ids=control) is None and shown_ids([EOS], control_ids=control) is None
    assert spliced([1, 2, SLOT, 3], [5, 6]) == [1, 2, 5, 6, 3]


def test_a_rollout_of_several_rows_is_refused():
    with pytest.raises(ValueError, match=r"row u_0_1 is a later row of its rollout, and a peer is one response"):
        peers([1, 1], [3, 3], keys=["u_0_0", "u_0_1"])
