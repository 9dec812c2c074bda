"""From verifiable rewards to the rollout's advantage: length shaping and whitening by running statistics (paper section
3.1).

B  responses. Rewards and advantages are float32; the running statistics are kept in float64.
"""

from torch import Tensor

WARMUP_MEAN = 0.5
"""What the paper takes from a reward before there are statistics (Alg. 1 line 20)."""


def shaped_reward(correct: Tensor, length: Tensor, *, max_length: int, length_bonus: float = 0.5) -> Tensor:
    """correct * (1 + length_bonus * (1 - length / max_length)): a short correct answer earns up to 1 + length_bonus.

    Args:
        correct: (B,) 1.0 for a verified answer, 0.0 otherwise. Other values are allowed only without a bonus.
        length: (B,) number of sampled response tokens.
        max_length: largest allowed length, tokens.
        length_bonus: 0 returns ``correct`` unchanged.

    Returns:
        (B,) float32; 0 for an incorrect response.

    Raises:
        ValueError: for unequal shapes, a score other than 0 or 1 with a bonus, a length outside [0, max_length]; names
            the row.
    """
    correct = correct.detach().float()
    if correct.shape != length.shape:
        raise ValueError(
            f"correct has shape {tuple(correct.shape)}, length {tuple(length.shape)}: they would broadcast."
        )
    if length_bonus == 0:
        return correct
    _refuse(correct, (correct != 0) & (correct != 1), "score", "is neither 0 nor 1; set algorithm.egrsd.length_bonus=0")
    _refuse(length, (length < 0) | (length > max_length), "response length", f"is not in [0, max_length={max_length}]")
    return correct * (1.0 + length_bonus * (1.0 - length.float() / max_length))


def _refuse(values: Tensor, bad: Tensor, name: str, reason: str) -> None:
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(f"{name} {values[row].item():g} in row {row} {reason}.")


class RunningBaseline:
    """Whitens rewards by the mean and population std of all rewards seen in earlier updates (Welford, float64).

    The statistics of a batch never whiten that same batch: call ``advantages`` first, ``update`` after the step (Alg. 1
    line 20). During the first ``warmup_steps`` updates the advantage is ``reward - warmup_mean``.
    """

    def __init__(self, warmup_steps: int = 10, warmup_mean: float = WARMUP_MEAN, min_std: float = 1e-6):
        self.warmup_steps, self.warmup_mean, self.min_std = warmup_steps, warmup_mean, min_std
        self._steps = self._count = 0
        self._mean = self._sum_sq_dev = 0.0

    @property
    def mean(self) -> float:
        """Mean of all rewards seen so far; 0 before the first update."""
        return self._mean

    @property
    def std(self) -> float:
        """Population standard deviation of all rewards seen so far; 0 before the first update."""
        return (self._sum_sq_dev / self._count) ** 0.5 if self._count else 0.0

    @property
    def in_warmup(self) -> bool:
        return self._steps < self.warmup_steps or self._count == 0

    def advantages(self, rewards: Tensor) -> Tensor:
        """(B,) rewards -> (B,) float32 advantages; the statistics do not change."""
        rewards = rewards.detach().double()
        if self.in_warmup:
            return (rewards - self.warmup_mean).float()
        return ((rewards - self._mean) / max(self.std, self.min_std)).float()

    def update(self, rewards: Tensor) -> None:
        """Adds the (B,) rewards of one training step. Raises ValueError for an empty or non-finite batch."""
        rewards = rewards.detach().double()
        if rewards.numel() == 0 or not rewards.isfinite().all():
            raise ValueError(f"RunningBaseline.update needs at least one reward, all finite; got {rewards.tolist()}.")
        # Chan's batch form of Welford's recurrence: merge (count, mean, sum of squared deviations) of old and new.
        added, mean = rewards.numel(), rewards.mean().item()
        delta, total = mean - self._mean, self._count + added
        self._sum_sq_dev += (rewards - mean).square().sum().item() + delta * delta * self._count * added / total
        self._mean += delta * added / total
        self._count = total
        self._steps += 1

    def state_dict(self) -> dict:
        return {"steps": self._steps, "count": self._count, "mean": self._mean, "sum_sq_dev": self._sum_sq_dev}

    def load_state_dict(self, state: dict) -> None:
        self._steps, self._count = state["steps"], state["count"]
        self._mean, self._sum_sq_dev = state["mean"], state["sum_sq_dev"]
