"""A TransferQueue for the tests of what a step shows its teachers."""

from queues import queue  # noqa: F401  a fixture
