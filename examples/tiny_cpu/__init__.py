"""A small model that learns with EGRSD on two CPU cores."""

import os

# Read when torch is first imported. A thread that waits by spinning takes the core from whatever else runs on a small
# machine: with one busy neighbour, a training step took ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
