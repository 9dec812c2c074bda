"""The protocol of an evaluation: how responses are sampled, and how many of each problem."""

import argparse
from collections.abc import Sequence
from typing import Any

from recipe.egrsd.evaluate import Refused

PROTOCOLS = {"paper": {"thinking": True, "temperature": 1.0, "top_p": 0.95, "top_k": 0, "max_tokens": 32768}}
SAMPLES = 4


def samples(given: Sequence[str], benchmarks: Sequence[str]) -> dict[str, int]:
    """Number of samples for each benchmark, from words like ``4`` and ``aime24=16``."""
    found = dict.fromkeys(benchmarks, SAMPLES)
    for word in sorted(given, key=lambda word: "=" in word):  # the general number first, wherever it stands
        name, _, number = word.rpartition("=")
        if not number.isdigit() or int(number) < 1:
            raise Refused(f"--k {word}: expected a number of samples >= 1, or NAME=NUMBER.")
        if name and name not in found:
            raise Refused(f"--k {word}: --data has no benchmark {name!r}; it has {', '.join(benchmarks)}.")
        found |= {name: int(number)} if name else dict.fromkeys(benchmarks, int(number))
    return found


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """The protocol's settings, with those named one by one in their place; its name is "own" if they differ."""
    preset = PROTOCOLS[args.protocol]
    named = {key: getattr(args, key) for key in preset if getattr(args, key) is not None}
    settings = {**preset, **named}
    return {"protocol": args.protocol if settings == preset else "own", **settings}
