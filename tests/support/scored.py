"""What compute_score finds, with everything that holds for every result checked; and answers that never end."""

from pathlib import Path

from recipe.egrsd import reward
from recipe.egrsd.reward import compute_score

ROOT = Path(reward.__file__).parents[3]
BOMB = "9^{9^{9^9}}"
MEMORY_BOMB = "(x+1)^{1000000}"
TYPES = {
    "score": float,
    "acc": float,
    "has_answer": int,
    "answer_too_long": int,
    "timed_out": int,
    "crashed": int,
    "bad_ground_truth": int,
    "response_chars": int,
    "pred": str,
}
FLAGS = ("answer_too_long", "timed_out", "crashed", "bad_ground_truth")


def score(ground_truth, answer: str, **kwargs) -> float:
    return result(ground_truth, f"So the answer is \\boxed{{{answer}}}.", **kwargs)["score"]


def result(ground_truth, response: str, **kwargs) -> dict:
    """compute_score, with everything that holds for every result checked."""
    found = compute_score("math", response, ground_truth, {"index": 0}, **kwargs)
    assert {key: type(value) for key, value in found.items()} == TYPES
    assert found["score"] == found["acc"] and found["score"] in (0.0, 1.0)
    assert sum(found[flag] for flag in FLAGS) <= 1 and (found["score"] == 0.0 or not any(found[f] for f in FLAGS))
    assert found["response_chars"] == len(response) and len(found["pred"]) <= reward.MAX_PRED_CHARS
    return found


def flags(found: dict) -> set[str]:
    return {flag for flag in FLAGS if found[flag]}
