"""What a run says about itself.

metrics.py     every metric: meaning, unit, healthy range
sums.py        means over the tokens of a step, from sums of its micro-batches
alarms.py      says once in the log that training has gone wrong, with numbers and advice
thresholds.py  when each alarm speaks
tokens.py      every so many steps, responses with all that was decided about each token, as parquet
kinds.py       the paper's kinds of tokens: lock, mid, pivot, fork
"""
