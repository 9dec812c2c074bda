"""verl's FSDP engine with scores made in the head: float32, and no logits in memory.

fsdp.py           the engine: where responses stand in a batch, and which pass is scored how
precision.py      how the head multiplies: outside autocast, and rounded once
head.py           the head on response positions only: scores and their gradients, a chunk of logits at a time
layers.py         kinds of layers: which keep a state, whose prompts can be shared
packing.py        whether a model keeps the rows of a pack apart
shared_prompt.py  a group's privileged prompt read once, not once a response
"""
