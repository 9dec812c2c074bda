"""One TransferQueue for all tests of what a step shows its teachers: starting one costs half a minute."""

from queues import queue  # noqa: F401  a fixture
