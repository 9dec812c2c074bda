"""Who teaches, and how a response is scored by it.

kinds.py    which weights teach, and how they follow the student
readings.py several passes over one response, and their sum
rows.py     which rows a pass takes, in which order, and how they share their prompts
scoring.py  a pass that scores responses, the checks on what comes back
worker.py   verl's worker plus a teacher that moves: copy, moving average, save, load, shard by shard
"""
