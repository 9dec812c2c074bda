"""What every machine of a run must have, asked before verl needs it.

architectures.py  which models are scored rightly, by their config: refuses the others in one line
attention.py  the attention that all of them have; a driver or a library that is missing, in one line
models.py     a model's name becomes a folder, pinned to its commit on the hub, before any process reads it
nodes.py      several Ray nodes: refuses one without this recipe or the model, or with another version of either
slots.py      the CPUs a run holds of Ray's: refuses a Ray that has fewer, where verl would wait for ever
wandb_login.py  verl's default logger asks who you are when everything has started: refuses a run that cannot answer
"""
