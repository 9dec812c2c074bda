"""One transformers forward of a bare row: what verl's engine must agree with."""

import torch


def plain_forward(
    model, prompt: list[int], response: torch.Tensor, *, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of each response token and entropy of its distribution, by one transformers forward of the bare row."""
    row = torch.cat([torch.tensor(prompt), response])
    with torch.no_grad():
        logits = model(row[None]).logits[0].float() / temperature
    log_probs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return log_probs.gather(-1, response[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)
