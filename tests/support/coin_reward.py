"""A reward that a random model earns half of the time; same keys as recipe.egrsd.reward."""

from zlib import crc32


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict | None = None, **_) -> dict:
    """1 or 0 by the bits of the response's checksum."""
    score = float(crc32(solution_str.encode()) % 2)
    return {"score": score, "acc": score}
