"""What keeps a run with vLLM from hanging.

weight_sync.py  verl's vLLM adapter with a weight sync that fails instead of hanging
server.py       its other end: each run on a machine has a socket of its own
receiver.py     and there, in vLLM's worker: a weight sync that fails says why
watchdog.py     ends a run whose rollout engine died, with the engine's own error, or whose rollouts will never come
progress.py     tells a run that is slow from one that is stuck, with numbers
"""
