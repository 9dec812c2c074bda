"""python -m recipe.egrsd.report: what runs have left behind, as one HTML page and PNGs. Needs neither verl nor
torch."""
