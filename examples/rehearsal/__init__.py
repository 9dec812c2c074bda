"""What the shipped scripts are tried with, before there is a GPU and in the first minutes on one: model, problems,
checks."""

import examples.tiny_cpu  # noqa: F401  its threads wait without spinning; read when torch is first imported
