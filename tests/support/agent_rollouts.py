"""Rollouts as verl's agent loop writes them, with tool tokens and one of two rows; a table that scores them in place of
an engine; what the oracle says of them."""

import reference
import torch
from micro_batches import jagged
from queues import written_row
from tensordict import TensorDict

EOS, MAX_LENGTH = 0, 8
PROMPT, PRIVILEGED = [1, 2, 3], [1, 2, 9, 9, 3]
# Two prompts with two rollouts each. name -> score, response mask; 0 is a token that a tool wrote. b_1 has two rows.
ROLLOUTS = {
    "a_0_0": (1.0, [1, 1, 0, 0, 1, 1]),
    "a_1_0": (0.0, [1, 1, 1]),
    "b_0_0": (1.0, [1, 0, 0, 0, 0, 0, 1, 1]),
    "b_1_0": (1.0, [1, 1, 1, 1]),
    "b_1_1": (1.0, [1, 1]),
}
ADDED = {"b_1_1": [4, 5]}  # what the agent loop appended to the prompt of the rollout's second row


def random(length: int, seed: int) -> torch.Tensor:
    return torch.rand(length, generator=torch.Generator().manual_seed(seed))


def row(number: int, key: str) -> dict:
    score, mask = ROLLOUTS[key]
    prompt, response = PROMPT + ADDED.get(key, []), [10 + number] * len(mask)
    written = written_row(key, score, prompt, response, shown=PRIVILEGED, mask=mask)
    return written | {"rollout_log_probs": -random(len(mask), number)}


class Table:
    """Stands for the scoring engine: numbers that depend on the response, huge ones for what must not count."""

    def _query_dispatch_info(self, mesh: str) -> list[int]:
        return [0]  # one rank

    def compute_log_prob(self, batch: TensorDict) -> TensorDict:
        self.rows = [ids.tolist() for ids in batch["input_ids"].unbind()]
        log_probs, entropy = [], []
        for ids, mask in zip(batch["input_ids"].unbind(), batch["response_mask"].unbind(), strict=True):
            before = torch.full((len(ids) - len(mask) - 1,), 500.0)
            chosen = mask.bool()
            ratio = torch.where(chosen, -2 * random(len(mask), int(ids[-1])), 300.0)
            nats = torch.where(chosen, 4 * random(len(mask), 100 + int(ids[-1])), 400.0)
            for column, values in ((log_probs, ratio), (entropy, nats)):
                column.append(torch.cat([before, values, torch.tensor([600.0])]))  # position t is for token t + 1
        return TensorDict({"log_probs": jagged(log_probs), "entropy": jagged(entropy)}, batch_size=len(log_probs))


def shaped(key: str) -> float:
    """A rollout's reward by the oracle: that of its last row, whose sampled tokens are its length."""
    score, mask = ROLLOUTS["b_1_1" if key.startswith("b_1") else key]
    return reference.shaped_reward([score], [sum(mask)], MAX_LENGTH, 0.5)[0]


def oracle_weights(rows: dict[str, dict[str, list]], *, gamma: float, window: int) -> dict[str, dict[str, list]]:
    keys = list(ROLLOUTS)
    mask = [[bool(m) for m in rows["response_mask"][key]] for key in keys]
    scored = ("old_log_probs", "teacher_log_probs", "teacher_entropy")
    student, teacher, entropy = ([rows[name][key] for key in keys] for name in scored)
    advantages = [rows["advantages"][key][0] for key in keys]  # the first token is always sampled
    scale = reference.entropy_scale(entropy, mask, 1.0)
    gate = reference.entropy_gate(reference.lookahead_entropy(entropy, mask, window), scale, gamma, 0.1)
    result = {
        "gate": gate,
        "weight": reference.ratio_weight(student, teacher, advantages, 0.2),
        "token advantage": reference.token_advantages(
            student, teacher, entropy, mask, advantages, gamma=gamma, window=window
        ),
    }
    return {name: dict(zip(keys, column, strict=True)) for name, column in result.items()}
