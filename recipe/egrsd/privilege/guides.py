"""A teacher that reads a response several times, shown another guide each time: algorithm.egrsd.privilege=peers.

Guides are all responses to the problem and its reference solution, if the row has one. Each has a coefficient: what the
teacher says under it counts so much in the sum (OGLS-SD, arXiv 2605.12400, eq. 9 to 12). Logits are linear in what the
head is given, so that the sum is made of hidden states and is exact:
z0 + strength (mean over right guides - mean over wrong ones).
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from recipe.egrsd.privilege.peers import only_row

BARE, SOLUTION = -2, -1
"""Guides that are no response: none at all, the student's own prompt; the reference solution."""


def guides(
    keys: Sequence[str],
    correct: Sequence[bool],
    shown: Sequence[Sequence[int] | None],
    has_solution: Sequence[bool],
    *,
    strength: float,
    own_response: bool,
) -> list[list[tuple[int, float]]]:
    """For each response its guides, rows of the batch or one of the above, each with its coefficient.

    All responses to a problem have the same guides in the same order, so that those which read one at a time share its
    prompt; a guide that is not a response's own has the coefficient 0. Without a right or without a wrong guide there
    is nothing to steer by, and the list is empty.

    Args:
        keys: B row names (rows.py); those of one problem are a group.
        correct: B, whether the response earned something.
        shown: B responses as of ``peers.shown_ids``; None: nobody's guide.
        has_solution: B.
        strength: of the steering.
        own_response: whether a response is among its own guides, as published.

    Raises:
        ValueError: if a rollout has several rows; names the row.
    """
    groups = defaultdict(list)
    for row, key in enumerate(keys):
        group, number = only_row(key)
        if shown[row] is not None:
            groups[group].append((number, row))
    found = []
    for row, key in enumerate(keys):
        of_problem = [*[SOLUTION] * has_solution[row], *(peer for _, peer in sorted(groups[only_row(key)[0]]))]
        right = {guide: guide == SOLUTION or correct[guide] for guide in of_problem if own_response or guide != row}
        size = Counter(right.values())
        if not (size[True] and size[False]):
            found.append([])
            continue
        share = {guide: (1 if side else -1) * strength / size[side] for guide, side in right.items()}
        found.append([(BARE, 1.0), *((guide, share.get(guide, 0.0)) for guide in of_problem)])
    return found
