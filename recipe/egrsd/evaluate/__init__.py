"""The parts of ``python -m recipe.egrsd.evaluate``. torch and vLLM are imported only where something is generated.

protocol.py    how responses are sampled, and how many of each problem
problems.py    benchmark files -> problems
model.py       what the user named -> files that vLLM loads
engine.py      vLLM in processes of its own: prompts in, responses out
responses.py   token ids -> one graded row
store.py       the folder of a run; files appear whole or not at all
run.py         one evaluation: what is missing, generated, graded, stored
statistics.py  estimators over repeated samples of the same problems
summary.py     rows -> figures, and the table that is printed
comparison.py  two evaluations, paired problem by problem
"""


class Refused(ValueError):
    """What the user can mend: one sentence with the reason and the way out."""
