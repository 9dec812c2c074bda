"""prepare_data run again: the same bytes, what is complete stays, an interruption leaves nothing half written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from source_rows import PUBLISHED, ROOTS, openthoughts, rows_of, write

from recipe.egrsd.prepare_data import __main__ as prepare_data


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".partial"}


@pytest.fixture
def everything(prepare, tmp_path) -> Callable[[str], dict[str, bytes]]:
    """(folder) -> all files after a run with two benchmarks."""
    words = [f"{name}={write(tmp_path / f'{name}.parquet', [PUBLISHED[name][0]])}" for name in ("aime24", "gsm8k")]
    rows = [openthoughts(index) for index in range(1, 9)] + [openthoughts(1)]

    def run(out: str) -> dict[str, bytes]:
        prepare(rows, "--benchmarks", *words, "--validation", "2", out=out)
        return bytes_of(tmp_path / out)

    return run


def test_the_same_input_gives_the_same_bytes(everything):
    first = everything("first")
    assert sorted(first) == [
        "aime24.parquet", "aime24.report.json", "gsm8k.parquet", "gsm8k.report.json",
        "train.parquet", "train.report.json", "validation.parquet",
    ]  # fmt: skip
    assert everything("second") == first


def test_what_is_complete_stays_and_what_is_not_is_made_again(everything, prepare, tmp_path, capsys):
    first, out = everything("out"), tmp_path / "out"
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert everything("out") == first
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    assert capsys.readouterr().out.count("complete already") == 3
    (out / "validation.parquet").unlink()
    (out / "gsm8k.parquet").write_bytes(b"PAR1 torn")
    assert everything("out") == first
    assert (out / "aime24.parquet").stat().st_mtime_ns == times[out / "aime24.parquet"]
    report = prepare([openthoughts(1)])  # another input in the same folder
    assert report["kept"] == len(rows_of(out)) == 1


def test_another_instruction_is_written_into_the_same_folder(prepare, tmp_path):
    """The same rows: training set and benchmark."""
    words = ["--benchmarks", f"gsm8k={write(tmp_path / 'gsm8k.parquet', [PUBLISHED['gsm8k'][0]])}"]
    for instruction in ("Say it in words.", "Box it."):
        prepare([openthoughts(1), openthoughts(2)], *words, "--instruction", instruction)
        rows = [*rows_of(tmp_path / "out"), *rows_of(tmp_path / "out", "gsm8k")]
        assert [row["prompt"][-1]["content"].rsplit("\n", 1)[1] for row in rows] == [instruction] * 3


def test_other_choices_of_rows_are_made_anew_in_the_same_folder(prepare, tmp_path):
    """Row 1 is a benchmark's: kept, as published data sets do, then left out; then one of the two others is held
    out."""
    words = ["--benchmarks", f"aime24={write(tmp_path / 'aime24.parquet', [PUBLISHED['aime24'][0]])}"]
    rows = [openthoughts(1), openthoughts(2, problem=ROOTS), openthoughts(3)]
    counts = {}
    for more in (["--keep-overlap"], [], ["--validation", "1"]):
        counts[" ".join(more)] = prepare(rows, *words, *more)["kept"]
        made = {
            row["extra_info"]["index"] for name in ("train", "validation") for row in rows_of(tmp_path / "out", name)
        }
        assert made == ({0, 1, 2} if more == ["--keep-overlap"] else {0, 2})
    assert counts == {"--keep-overlap": 3, "": 2, "--validation 1": 2}
    assert [len(rows_of(tmp_path / "out", name)) for name in ("train", "validation")] == [2 - 1, 1]


def test_other_rules_for_answers_make_the_files_anew(prepare, monkeypatch, capsys):
    """They decide which rows can be graded."""
    rules = prepare_data.RULES
    for version, said in ((rules, "written: "), (rules, "complete already: "), (rules + 1, "written: ")):
        monkeypatch.setattr(prepare_data, "RULES", version)
        assert prepare([openthoughts(1)])["request"]["versions"]["answers"] == version
        assert f"\n  {said}" in capsys.readouterr().out


@pytest.mark.parametrize("moment", range(7))
def test_an_interruption_leaves_nothing_half_written(everything, monkeypatch, tmp_path, moment):
    """Every file is written whole under another name first. The interruption comes after half of the bytes of one of
    them."""
    whole, out = everything("whole"), tmp_path / "out"
    replace, replaced = prepare_data.os.replace, []

    def interrupted(unfinished: Path, path: Path) -> None:
        if len(replaced) == moment:
            unfinished.write_bytes(unfinished.read_bytes()[: unfinished.stat().st_size // 2])
            raise KeyboardInterrupt
        replaced.append(path.name)
        replace(unfinished, path)

    with monkeypatch.context() as patched:
        patched.setattr(prepare_data.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            everything("out")
    left = bytes_of(out)
    assert sorted(left) == sorted(replaced) and len(left) == moment
    assert all(whole[name] == content for name, content in left.items())
    assert everything("out") == whole
    assert not list(out.glob("*.partial"))
