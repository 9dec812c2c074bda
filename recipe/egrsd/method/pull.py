"""Which tokens of a batch a divergence pulls towards the teacher, and with what weight.

The loss is the sum over tokens of weight times divergence, so that a weight carries its own denominator: the mean of
all tokens is the weight 1 / number of tokens. Decided once for the whole batch, independent of ranks and micro-batches.
What depends on the divergences themselves, ``propagation``, belongs to each response alone, which is as independent.

B  responses      T  response positions of a row
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def pulled_rows(
    groups: Sequence[str],
    numbers: Sequence[int],
    correct: Sequence[bool],
    lengths: Sequence[int],
    has_teacher: Sequence[bool],
    *,
    rows: str,
) -> list[int]:
    """Which responses are pulled; those without a teacher never are.

    Args:
        groups: B names of the problems.
        numbers: B numbers of the responses within their problem's.
        correct: B.
        lengths: B, tokens.
        has_teacher: B.
        rows: all, correct, wrong, shortest_correct, longest_wrong; the last two take one response a problem, of equal
            ones the first.
    """
    right = {"correct": True, "shortest_correct": True, "wrong": False, "longest_wrong": False}.get(rows)
    wanted = [i for i, has in enumerate(has_teacher) if has and right in (None, correct[i])]
    if rows not in ("shortest_correct", "longest_wrong"):
        return wanted
    sign = 1 if rows == "shortest_correct" else -1
    best: dict[str, tuple[int, int, int]] = {}
    for i in wanted:
        rank = (sign * lengths[i], numbers[i], i)
        best[groups[i]] = min(best.get(groups[i], rank), rank)
    return sorted(i for _, _, i in best.values())


def pull_weights(
    masks: Sequence[Tensor],
    groups: Sequence[str],
    numbers: Sequence[int],
    correct: Sequence[bool],
    pulled: Sequence[int],
    *,
    tokens: int | None,
    weighting: str,
) -> list[Tensor]:
    """(T,) float32 for each of B responses, 0 where nothing is pulled.

    | token_mean    | 1 / number of pulled tokens of the batch                                                 |
    | response_mean | 1 / number of pulled responses / number of pulled tokens of the response                 |
    | frontier      | 4 p (1 - p) / number of problems / number of pulled responses of the problem / tokens of |
    |               | the response; p: share of right rollouts of the problem (arXiv 2605.17497)               |

    Args:
        masks: B of (T,), 1 where a token was sampled; all 0 for a padding sample.
        groups: B names of the problems; of padding samples any.
        numbers: B numbers of the rollouts within their problem's; those of one rollout of several rows are equal.
        correct: B; of one rollout's rows equal.
        pulled: of ``pulled_rows``.
        tokens: how many positions of a response are pulled at most, from its start; None: all.
        weighting: of the table.
    """
    chosen = {i: (masks[i] != 0) & (torch.arange(len(masks[i])) < (tokens or len(masks[i]))) for i in pulled}
    counts = {i: int(mask.sum()) for i, mask in chosen.items()}
    of_group = Counter(groups[i] for i in pulled)
    rollouts = {(groups[i], numbers[i]): correct[i] for i, mask in enumerate(masks) if mask.any()}
    size = Counter(group for group, _ in rollouts)
    right = Counter(group for (group, _), is_right in rollouts.items() if is_right)

    def weight(i: int) -> float:
        if weighting == "token_mean":
            return 1 / sum(counts.values())
        if weighting == "response_mean":
            return 1 / len(pulled) / counts[i]
        share = right[groups[i]] / size[groups[i]]
        return 4 * share * (1 - share) / len(size) / of_group[groups[i]] / counts[i]

    return [
        chosen[i] * torch.tensor(weight(i), dtype=torch.float32) if counts.get(i) else torch.zeros(len(mask))
        for i, mask in enumerate(masks)
    ]


def propagation(divergence: Tensor, pulled: Tensor, *, kappa: float) -> Tensor:
    """What DASH multiplies each token's weight by (arXiv 2608.06243): a response's first pulled token has c = 1, each
    later one c = 1 + gate * c, both of the pulled token before it, whose gate is sigmoid(-kappa * (r - mean r)).

    r is a token's divergence, its mean that of the response's pulled tokens. The sum of c * r is that of the paper's
    backward recursion, A = r + gate * A, the last of the next token.

    Args:
        divergence: (B, T) nats, read where a token is pulled.
        pulled: (B, T) bool.
        kappa: >= 0; 0 makes every gate 1/2.

    Returns:
        (B, T), detached: weights are data; >= 1 where a token is pulled.
    """
    divergence = torch.where(pulled, divergence.detach(), 0.0)
    mean = divergence.sum(-1, keepdim=True) / pulled.sum(-1, keepdim=True).clamp(min=1)
    gate = torch.sigmoid(-kappa * (divergence - mean))
    # handed[t] = gate[t] * c[t] = gate[t] + gate[t] * handed[t - 1]; what is not pulled hands on what it was handed.
    # Doubling solves it in log2(T) steps: after each, handed[t] counts twice as many tokens, kept[t] is their product.
    handed, kept, step = torch.where(pulled, gate, 0.0), torch.where(pulled, gate, 1.0), 1
    while step < divergence.size(-1):
        handed = handed + kept * pad(handed, (step, -step))
        kept = kept * pad(kept, (step, -step), value=1.0)
        step *= 2
    return 1 + pad(handed, (1, -1))
