"""Which training problems are benchmark problems: shared n-grams of normalised text."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

NGRAM = 8  # words
SHARE = 0.5  # of a benchmark problem's n-grams; its boilerplate alone ("m and n are relatively prime ...") stays below

_TOKEN = re.compile(r"[^\W\d_]+|\d+|[-+*/=<>^!|]")
_SAME = {"dfrac": "frac", "tfrac": "frac"}
_LAYOUT = {"left", "right", "text", "mathrm", "mathbf", "displaystyle", "quad", "qquad"}


def words(text: str) -> list[str]:
    """Lower-case words, numbers and operators; white space, punctuation and LaTeX that is layout only are gone."""
    found: list[str] = _TOKEN.findall(text.lower())
    return [_SAME.get(word, word) for word in found if word not in _LAYOUT]


def ngrams(text: str) -> set[tuple[str, ...]]:
    """Runs of NGRAM words; a shorter text is one run. Empty for a text without words."""
    found = words(text)
    runs = {tuple(found[i : i + NGRAM]) for i in range(max(1, len(found) - NGRAM + 1))}
    return runs - {()}


class Overlap:
    """Benchmark problems, looked up by their n-grams.

    Args:
        problems: name of a benchmark -> its problems.
    """

    def __init__(self, problems: Mapping[str, Sequence[str]]):
        self.sizes: dict[tuple[str, int], int] = {}
        self.owners: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
        for name, texts in problems.items():
            for index, text in enumerate(texts):
                runs = ngrams(text)
                self.sizes[name, index] = len(runs)
                for run in runs:
                    self.owners[run].append((name, index))

    def of(self, problem: str) -> list[tuple[str, int]]:
        """The benchmark problems, name and row, of which the problem holds at least SHARE."""
        shared = Counter(self._owners_of(problem))
        return sorted(owner for owner, count in shared.items() if count >= SHARE * self.sizes[owner])

    def _owners_of(self, problem: str) -> Iterator[tuple[str, int]]:
        for run in ngrams(problem):
            yield from self.owners.get(run, ())
