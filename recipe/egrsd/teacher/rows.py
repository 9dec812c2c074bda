"""Which rows a scoring pass takes, in which order, and how they share their prompts."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions


@dataclass(frozen=True)
class Sharing:
    """Every ``group_size`` consecutive rows have one prompt; a micro-batch holds whole groups."""

    group_size: int
    rows_of_micro_batch: int


def scoring_order(
    prompt_ids: Sequence[Sequence[int]],
    response_lengths: Sequence[int],
    *,
    num_ranks: int,
    max_tokens: int = 0,
    real: int | None = None,
) -> tuple[list[int], Sharing | None]:
    """Which rows the ranks take, one rank's equal share after the other, so that all have about as much to compute.

    verl has balanced the batch by the student's rows; privileged prompts differ much more in length. The rows of a rank
    come longest first, so that micro-batches of a fixed number of padded rows hold rows of about one length.

    Args:
        prompt_ids: B privileged prompts.
        response_lengths: B numbers of tokens.
        num_ranks: divides B.
        max_tokens: of a micro-batch whose rows share prompts; 0 for no sharing.
        real: the first so many rows would be scored without sharing, too; None: all.

    Returns:
        The numbers of the rows in their new order; and how they share their prompts, where that pays: it takes two
        passes through the weights instead of one, so it must save half of the tokens.
    """
    by_prompt = defaultdict(list)
    for row, ids in enumerate(prompt_ids):
        by_prompt[tuple(ids)].append(row)
    alone = [len(ids) + length for ids, length in zip(prompt_ids, response_lengths, strict=True)]
    shared = [len(ids) + sum(response_lengths[row] for row in rows) for ids, rows in by_prompt.items()]
    groups, work, sharing = [[row] for row in range(len(alone))], alone, None
    sizes = {len(rows) for rows in by_prompt.values()}
    if (
        2 * sum(shared) <= sum(alone[:real])
        and len(sizes) == 1
        and len(shared) % num_ranks == 0
        and max(shared) <= max_tokens
    ):
        groups, work, (group_size,) = list(by_prompt.values()), shared, sizes
        per_rank = len(shared) // num_ranks
        fitting = max(n for n in range(1, per_rank + 1) if per_rank % n == 0 and n * max(shared) <= max_tokens)
        sharing = Sharing(group_size=group_size, rows_of_micro_batch=fitting * group_size)
    work = calculate_workload(torch.tensor(work)).tolist()
    order = []
    shares: Any = get_seqlen_balanced_partitions(work, k_partitions=num_ranks, equal_size=True)
    for share in shares:
        order += [row for group in sorted(share, key=work.__getitem__, reverse=True) for row in groups[group]]
    return order, sharing


def planned(
    columns: Sequence[list], *, num_ranks: int, rows_of_micro_batch: int, max_tokens: int
) -> tuple[tuple[list, list, list, list], list[int], Sharing | None]:
    """Columns with fillings, their order, and how they share prompts: with groups made even where that pays, else with
    ranks alone.

    Args:
        columns: prompts, responses, masks and names of the rows to be scored.
        num_ranks, max_tokens: as of ``scoring_order``.
        rows_of_micro_batch: where their number is fixed.
    """
    with_fillings, real = evened(*columns, num_ranks=num_ranks), len(columns[0])
    lengths = [*map(len, with_fillings[1])]
    order, sharing = scoring_order(with_fillings[0], lengths, num_ranks=num_ranks, max_tokens=max_tokens, real=real)
    if sharing is None:
        with_fillings = filled(*columns, multiple=num_ranks * rows_of_micro_batch)
        order, _ = scoring_order(with_fillings[0], [*map(len, with_fillings[1])], num_ranks=num_ranks)
    return with_fillings, order, sharing


def filled(prompts: list, *columns: list, multiple: int) -> tuple[list, list, list, list]:
    """Rows of two tokens added, so that ranks take equal shares of whole micro-batches."""
    return _with_fillings(prompts, *columns, fillings=-len(prompts) % multiple * [prompts[0][:1]])


def evened(prompts: list, *columns: list, num_ranks: int) -> tuple[list, list, list, list]:
    """Responses of one token added, so that all prompts have equally many and ranks equally many prompts: what sharing
    a prompt asks for."""
    counts = Counter(map(tuple, prompts))
    size = max(counts.values())
    fillings = [ids for ids, count in counts.items() for _ in range(size - count)]
    fillings += [prompts[0][: number + 2] for number in range(-len(counts) % num_ranks) for _ in range(size)]
    return _with_fillings(prompts, *columns, fillings=fillings)


def _with_fillings(
    prompts: list, rows: list, masks: list, names: list, *, fillings: list
) -> tuple[list, list, list, list]:
    """Responses of one token behind the fillings' prompts."""
    nothing = torch.zeros_like(masks[0][:1])
    return (
        prompts + fillings,
        rows + len(fillings) * [rows[0][:1]],
        masks + len(fillings) * [nothing],
        names + len(fillings) * ["(filling)"],
    )
