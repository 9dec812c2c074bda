"""``python -m recipe.egrsd.doctor <the overrides of main_ppo>``: finds mistakes on a CPU, before a GPU is booked. No
Ray.

case.py      what is looked at: the config as main_ppo composes it, the model and rows that the trainer would build
checks.py    config, data, prompts, limits, answers, in the order in which they are shown
boundary.py  where the response begins under both prompts
memory.py    how much memory a GPU needs in each phase; shapes.py: the sizes of the model that it is computed from
host.py      what a run takes of a node besides its GPUs
versions.py  what is installed, and the attention that a run would take
"""
