"""python -m recipe.egrsd.report: what runs have left behind, as one HTML page and PNGs. A page needs neither verl nor
torch; sampling.py, which makes saved tokens without training, needs both and vLLM."""
