"""python -m recipe.egrsd.report: what runs have left behind, as one HTML page and PNGs. A page needs neither verl nor
torch; sampling.py, which makes saved tokens without training, needs both and vLLM.

runs.py       what a run has left in its folder: metrics, saved tokens, evaluations
figures.py    every figure, as PNG and as SVG
mechanism.py  disagreement, gate and weights by the teacher's entropy, beside the paper's figures
leakage.py    whether the student speaks of a solution that it has never seen
page.py       the page, from page.html.jinja, page.css and tokens.js
sampling.py   the mechanism of any model and data set, without training
"""
