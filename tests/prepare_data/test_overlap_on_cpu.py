"""Benchmark problems among the training rows: found in other words, not in boilerplate, and left out."""

import pytest
from source_rows import PUBLISHED, ROOTS, dropped, openthoughts, rows_of, write

from recipe.egrsd.prepare_data.overlap import Overlap

BENCHMARK = {
    "aime": [
        (
            "Find the number of ordered pairs of positive integers (m, n) with m + n = 2024 and gcd(m, n) = 8. The "
            "answer can be written as p/q where p and q are relatively prime positive integers. Find p + q."
        )
    ],
    "roots": [ROOTS],
    "short": ["Compute $17 \\cdot 23$."],
}


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (ROOTS, [("roots", 0)]),
        (
            "Let $x$ and $y$ be REAL numbers such that\n$$x + y =10$$, $$xy=21.$$ Find $\\left(x^{2}+y^2\\right)$!",
            [("roots", 0)],
        ),
        (f"Here is an old problem. {ROOTS} Explain each step.", [("roots", 0)]),
        ("Let $x$ and $y$ be real numbers such that $x-y=4$ and $xy=5$. Find all values of $x^3-y^3$.", []),
        ("The probability can be written as p/q where p and q are relatively prime positive integers. Find p + q.", []),
        ("compute 17 \\cdot 23", [("short", 0)]),
        ("Compute $17 + 23$.", []),
        ("", []),
        ("$$ \\left( \\right) $$", []),
        ("计算 17 与 23 的乘积。", []),
    ],
)
def test_overlap_is_found_in_other_words_and_not_in_boilerplate(problem, expected):
    assert Overlap(BENCHMARK).of(problem) == expected


@pytest.mark.parametrize("keep", [False, True])
def test_benchmark_problems_leave_the_training_set(prepare, tmp_path, capsys, keep):
    path = write(tmp_path / "aime24.parquet", [PUBLISHED["aime24"][0]])
    leaked = openthoughts(2, problem=ROOTS.replace(r"\(", "$").replace(r"\)", "$"))
    words = ["--benchmarks", f"aime24={path}", *(["--keep-overlap"] if keep else [])]
    report = prepare([openthoughts(1), leaked, openthoughts(3)], *words)
    found = report["overlap"]["benchmarks"]["aime24"]
    assert found == {"rows": {"count": 1, "first": [1]}, "problems": {"count": 1, "first": [0]}}
    assert [row["extra_info"]["index"] for row in rows_of(tmp_path / "out")] == ([0, 1, 2] if keep else [0, 2])
    assert dropped(report) == ({} if keep else {"the problem is one of a benchmark's": [1]})
    assert "rows that hold one of 1 problems of aime24" in capsys.readouterr().out
