"""What runs have left behind, as one self-contained HTML page and PNGs beside it.

    python -m recipe.egrsd.report RUN ... --out report.html
    python -m recipe.egrsd.report mechanism --help   # any model and data set, without training

A RUN is a folder. Below it are looked for: metrics.jsonl of verl's file logger (VERL_FILE_LOGGER_PATH),
tokens/step_N.parquet (algorithm.egrsd.save_tokens_every) and results.json of `python -m recipe.egrsd.evaluate`. Each
may be missing; one must be there.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recipe.egrsd.report import figures, leakage, page
from recipe.egrsd.report.runs import named, read_run


def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["mechanism"]:
        from hydra.errors import HydraException

        from recipe.egrsd.report import sampling  # needs verl, torch and vLLM; a page needs none of them

        try:
            folder = sampling.sample(argv[1:])
        except (HydraException, OSError, TypeError, ValueError) as error:
            override = getattr(error, "override", None)  # that hydra could not read, and does not name itself
            sys.exit(" ".join(f"report mechanism: {f'{override}: ' if override else ''}{error}".split()))
        argv = [str(folder), "--out", str(folder / "report.html")]
    parser = argparse.ArgumentParser(
        prog="python -m recipe.egrsd.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page; PNGs get its name, too")
    args = parser.parse_args(argv)
    try:
        runs = [read_run(folder, name) for folder, name in named(args.runs)]
    except ValueError as error:
        sys.exit(f"report: {error}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    audits = {run.name: [leakage.audit(rows, step) for step, rows in run.tokens.items()] for run in runs}
    args.out.write_text(page.render(runs, audits))
    print(args.out)
    for name, figure in figures.pictures(runs, audits).items():
        path = args.out.with_name(f"{args.out.stem}_{name}.png")
        figure.savefig(path, dpi=120)
        print(path)


if __name__ == "__main__":
    main()
