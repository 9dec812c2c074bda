"""A teacher that reads a response under a right guide and under wrong ones, whose difference is evidence
(method/evidence.py): algorithm.egrsd.privilege=peer_contrast, responses to the same problem, and answer_contrast, the
right answer and a wrong one. Which, is decided here; B rows of a batch.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

from recipe.egrsd.privilege.peers import only_row
from recipe.egrsd.reward import MAX_ANSWER_CHARS, last_boxed, said


def wrong_peers(
    keys: Sequence[str],
    problems: Sequence[Sequence[int]],
    correct: Sequence[bool],
    shown: Sequence[Sequence[int] | None],
    *,
    most: int,
    seed: str,
) -> list[list[int]]:
    """For each response up to ``most`` rows of wrong responses to its problem, never itself, by chance: RLCSD.

    Args:
        keys, problems, correct, shown, seed: as of ``peers.chosen_peers``.
        most: at least 1.

    Raises:
        ValueError: if a rollout has several rows; names the row.
    """
    groups = defaultdict(list)
    for row, key in enumerate(keys):
        group, number = only_row(key)
        if shown[row] is not None and not correct[row]:
            groups[group].append((number, row))
    found = []
    for row, key in enumerate(keys):
        group, number = only_row(key)
        others = [peer for _, peer in sorted(groups[group]) if peer != row]
        chance = Random(f"{seed} {list(problems[row])} {number} wrong")  # a text seeds it alike in every process
        found.append(chance.sample(others, min(most, len(others))))
    return found


def wrong_answers(
    keys: Sequence[str],
    correct: Sequence[bool],
    answers: Sequence[Sequence[int] | None],
    right: Sequence[Sequence[int]],
) -> list[list[int] | None]:
    """For each response the wrong answer that its teacher is shown; None without one: SIPO.

    A wrong response is held against its own answer, and without one against none: another's would be a mistake that it
    did not make. A right one is held against the most frequent wrong answer of its group, the first rollout's of
    equally frequent ones. An answer that is spelt as the right one is nobody's wrong answer.

    Args:
        keys: B row names (rows.py); those of one problem are a group.
        correct: B, whether the response earned something.
        answers: B answers, token ids, as of ``boxed_ids``; None without one.
        right: B right answers, token ids.

    Raises:
        ValueError: if a rollout has several rows; names the row.
    """
    own = [
        None if answer is None or good or list(answer) == list(expected) else tuple(answer)
        for answer, good, expected in zip(answers, correct, right, strict=True)
    ]
    groups = defaultdict(list)
    for _, key, answer in sorted((only_row(key)[1], key, answer or ()) for key, answer in zip(keys, own, strict=True)):
        if answer:
            groups[only_row(key)[0]].append(answer)
    frequent = {group: Counter(found).most_common(1)[0][0] for group, found in groups.items()}
    of_group = [frequent.get(only_row(key)[0]) for key in keys]
    found = [other if good else answer for good, other, answer in zip(correct, of_group, own, strict=True)]
    return [None if answer is None else list(answer) for answer in found]


def boxed_ids(tokenizer: Any, response: Sequence[int], *, room: int) -> list[int] | None:
    """The last boxed answer of a response, as the reward reads it, as tokens to be shown; None without one, if it is
    longer than the reward or ``room`` tokens allow, or spells a control token, which could end the teacher's turn."""
    answer = last_boxed(said(tokenizer.decode(response, skip_special_tokens=True)))
    if not answer or len(answer) > MAX_ANSWER_CHARS:
        return None
    ids = tokenizer.encode(answer, add_special_tokens=False)
    return None if len(ids) > room or {*tokenizer.all_special_ids}.intersection(ids) else ids
