"""A table that stands for the scoring engine, for tests of the trainer's steps."""

import torch
from micro_batches import jagged
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu


class PromptTable:
    """Stands for the scoring engine: numbers that depend on the prompt, and rows that it has seen."""

    def __init__(self, ranks: int = 1):
        self.ranks = ranks

    @staticmethod
    def log_probs(prompt: list[int], length: int) -> list[float]:
        return [-0.001 * sum(prompt) * (t + 1) for t in range(length)]

    def _query_dispatch_info(self, mesh: str) -> list[int]:
        return list(range(self.ranks))

    def compute_log_prob(self, batch: TensorDict) -> TensorDict:
        assert len(batch) % self.ranks == 0
        self.rows = [ids.tolist() for ids in batch["input_ids"].unbind()]
        log_probs, entropy, hidden = [], [], []
        for prompt, mask in zip(batch["prompts"].unbind(), batch["response_mask"].unbind(), strict=True):
            scores = torch.tensor(self.log_probs(prompt.tolist(), len(mask)))
            before = torch.full((len(prompt) - 1,), 500.0)
            log_probs.append(torch.cat([before, scores, torch.tensor([600.0])]))
            entropy.append(torch.cat([before, -20 * scores, torch.tensor([600.0])]))
            hidden.append(scores.repeat_interleave(2))  # of size 2
        columns = {"log_probs": jagged(log_probs), "entropy": jagged(entropy)}
        if tu.get_non_tensor_data(batch, "egrsd_keeps_hidden", False):
            columns["teacher_hidden"] = jagged(hidden)
        return TensorDict(columns, batch_size=len(log_probs))

    def hold_teacher_head(self, *, part: str, **knobs) -> None:
        self.part, self.knobs = part, knobs
