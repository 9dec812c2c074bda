"""Settings: the presets, the keys with their types and ranges, what is refused, the paper's own values.

algorithm/     the presets, each a yaml: deltas over verl's config, the one home of every default
schema.py      the keys, their meaning, type and range
pull.py        the same for the keys of a divergence's weight
steering.py    the same for the keys of a teacher that is shown all peers
contrast.py    the same for the keys of a teacher that is shown right guides and wrong ones
teacher.py     the same for the keys of the teacher
derived.py     what follows from several keys of a whole config
resolvers.py   defaults that follow from other keys
verl_keys.py   the types of verl's own keys that are read here
strict.py      what a value may be, and the one line that is said of one that may not
methods.py     checks across keys of what single methods need
passes.py      the same: do the rows fit into the passes that read them
models.py      the same: weights and precision of student and teacher
objective.py   the same: what the loss reads, and what it would leave unread
contents.py    what checkpoints hold and a resumed run loads of them
validation.py  every other check across keys, before Ray starts
resuming.py    what must not change from the run that wrote a checkpoint to the one that goes on from it
verl_version.py  the verl that is imported, those that this was tested with, and what becomes of another
paper.json     figures and settings as printed in the paper
"""
