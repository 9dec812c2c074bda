"""The mathematics of the papers on plain tensors: torch, and nothing of ours outside this folder.

weights.py     ratio weight, lookahead, scale, gate: the idea of EGRSD
evidence.py    right guides against wrong ones: what rlcsd and sipo add to an advantage
advantage.py   shaped reward, running baseline
pull.py        which tokens a divergence pulls, with what weight
divergence.py  teacher against student over the whole vocabulary: what opsd, ssopd and others train on
vocabulary.py  float32 log-probs, and scores that read a whole distribution
"""
