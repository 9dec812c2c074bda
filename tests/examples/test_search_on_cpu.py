"""What the search of the demo's settings is told in words; the rest of it is in test_smollm2_on_cpu.py."""

import pytest

from examples.smollm2 import search, warm_start
from recipe.egrsd.cpu import precision


def test_what_is_searched_is_spelt_out():
    assert search.start_of("solutions=384,mix=0.8", seed=3) == warm_start.Start(solutions=384, mix=0.8, seed=3)
    with pytest.raises(ValueError, match=r"^rows is nothing that a start has: solutions, lr, batch"):
        search.start_of("rows=3", seed=0)
    with pytest.raises(ValueError, match=r"^lr in solutions=3,lr has no value"):
        search.start_of("solutions=3,lr", seed=0)


def test_the_words_of_a_training_try(tmp_path):
    """A preset and what train.sh reads; every other word is a key of verl's."""
    tries = search.Search(tmp_path, tmp_path, size=1, evaluated=1)
    words = search.words_of("algorithm=opsd,lr=1e-4,steps=7,algorithm.egrsd.divergence_clip=null")
    run = tries.training(tmp_path / "start", words, seed=3)
    assert (run.algorithm, run.steps, run.seed) == ("opsd", 7, 3)
    assert run.variables == {"LR": "1e-4", "DTYPE": precision.fastest()}
    assert run.overrides == ["algorithm.egrsd.divergence_clip=null"]
    assert tries.training(tmp_path / "start", {}, seed=3).algorithm == "cl_egrsd"
