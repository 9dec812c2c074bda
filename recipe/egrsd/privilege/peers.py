"""A teacher that is shown another response to the same problem: algorithm.egrsd.privilege=peer_correct, its control
peer_wrong, peer_wrong_first, and answer_and_peer.

Which one is decided on the driver, from the rewards of the whole batch, so that it does not depend on ranks or
micro-batches. It is shown as the very ids that it was sampled as: nothing is decoded and tokenised again.
"""

from collections import defaultdict
from collections.abc import Sequence
from random import Random

from recipe.egrsd.privilege.prompts import SLOT
from recipe.egrsd.privilege.rows import rollout_of

CHOICE_OF_PEERS = {
    "peer_correct": (True,), "peer_wrong": (False,), "peer_wrong_first": (False, True), "answer_and_peer": (True,),
    "peer_contrast": (True,),
}  # fmt: skip
"""By privilege: correct peers, wrong ones, or one kind where there is none of the other."""


def shown_ids(response: Sequence[int], *, control_ids: set[int]) -> list[int] | None:
    """A response as a peer is shown: without the control tokens that end it.

    None if nothing is left, or if it holds a control token elsewhere, which could end the teacher's user turn.
    """
    end = len(response)
    while end and response[end - 1] in control_ids:
        end -= 1
    ids = list(response[:end])
    return ids if ids and not control_ids.intersection(ids) else None


def chosen_peers(
    keys: Sequence[str],
    problems: Sequence[Sequence[int]],
    correct: Sequence[bool],
    shown: Sequence[Sequence[int] | None],
    *,
    wanted: Sequence[bool],
    rule: str,
    seed: str,
) -> list[int | None]:
    """For each response the row of the peer that its teacher is shown, never itself; None if there is none.

    Args:
        keys: B row names (rows.py); those of one problem are a group.
        problems: B prompts, token ids, by which alone chance tells groups apart: the names differ from run to run.
        correct: B, whether the response earned something.
        shown: B responses as of ``shown_ids``; None: nobody's peer.
        wanted: whether a peer is correct; the first of these that any is.
        rule: shortest or longest, in tokens as shown, the first rollout of equal ones; or random.
        seed: of the run and the step.

    Raises:
        ValueError: if a rollout has several rows; names the row.
    """
    groups = defaultdict(list)
    for row, key in enumerate(keys):
        group, number = only_row(key)
        if shown[row] is not None:
            groups[group, correct[row]].append((number, row))
    found = []
    for row, key in enumerate(keys):
        group, number = only_row(key)
        kinds = ([peer for _, peer in sorted(groups[group, kind]) if peer != row] for kind in wanted)
        peers = next(filter(None, kinds), [])
        chance = f"{seed} {list(problems[row])} {number}"
        found.append(_one_of(peers, [len(shown[peer]) for peer in peers], rule=rule, chance=chance) if peers else None)
    return found


def only_row(key: str) -> tuple[str, int]:
    """The problem and the rollout's number of a row name; ValueError if the rollout has several rows, so that no single
    response is its answer."""
    group, number, index = rollout_of(key)
    if index:
        raise ValueError(
            f"row {key} is a later row of its rollout, and a peer is one response: use an agent loop that returns "
            "one row a rollout, or an algorithm.egrsd.privilege without peers."
        )
    return group, number


def _one_of(peers: Sequence[int], lengths: Sequence[int], *, rule: str, chance: str) -> int:
    if rule == "random":
        return Random(chance).choice(peers)  # a text seeds it alike in every process
    return peers[lengths.index(min(lengths) if rule == "shortest" else max(lengths))]


def spliced(frame: Sequence[int], response: Sequence[int]) -> list[int]:
    """A teacher's prompt with a response in its slot."""
    slot = frame.index(SLOT)
    return [*frame[:slot], *response, *frame[slot + 1 :]]
