"""Plain transformers and plain torch: what verl's engine must agree with."""

import torch

SGD = [
    "actor_rollout_ref.actor.optim.optimizer=SGD", "actor_rollout_ref.actor.optim.lr=1.0",
    "actor_rollout_ref.actor.optim.weight_decay=0", "actor_rollout_ref.actor.optim.clip_grad=1000",
    "trainer.save_freq=1", "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
    "trainer.total_training_steps=2",
]  # fmt: skip
"""Overrides of a whole run of two steps that ``descend`` follows."""
TOKENS = 10
"""Of each response the first ones, which such a run pulls where its method pulls a part."""


def plain_forward(
    model, prompt: list[int], response: torch.Tensor, *, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of each response token and entropy of its distribution, by one transformers forward of the bare row."""
    row = torch.cat([torch.tensor(prompt), response])
    with torch.no_grad():
        logits = model(row[None]).logits[0].float() / temperature
    log_probs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return log_probs.gather(-1, response[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(-1)


def descend(model, loss: torch.Tensor) -> float:
    """One step of gradient descent with the learning rate 1; the largest change."""
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(parameter.grad)
    return max(parameter.grad.abs().max().item() for parameter in model.parameters())


def assert_close_parameters(found: dict[str, torch.Tensor], model) -> None:
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            found[name], parameter.detach(), atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )
