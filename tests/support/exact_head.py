"""The head's scores by their definition, in float64, and the sums over the vocabulary that stand beside a log-prob."""

import torch

from recipe.egrsd.method.divergence import Divergence
from recipe.egrsd.method.vocabulary import Entropy


def exact_scores(hidden, weight, bias, labels, *, temperature: float, also) -> torch.Tensor:
    """The definition, in float64, from all logits at once."""
    logits = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    log_p = (logits / temperature).log_softmax(-1)
    columns = [log_p.gather(-1, labels[:, None])[:, 0]]
    if isinstance(also, Entropy):
        columns.append(-torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1))
    elif also is not None:
        teacher = (also.hidden.double() @ also.weight.double().T / temperature).log_softmax(-1)
        left, right = (teacher, log_p) if also.knobs["kind"] == "forward_kl" else (log_p, teacher)
        of_entry = left.exp() * (left - right)
        columns.append((of_entry if also.knobs["clip"] is None else of_entry.clamp(max=also.knobs["clip"])).sum(-1))
    return torch.stack(columns, 1)


def beside(name: str | None, tokens: int, vocabulary: int):
    if name in (None, "entropy"):
        return Entropy() if name else None
    kind, _, clip = name.partition(" ")
    knobs = {"temperature": 1.3, "kind": kind, "clip": float(clip) if clip else None}
    return Divergence(torch.randn(tokens, 16), torch.randn(vocabulary, 16), **knobs)
