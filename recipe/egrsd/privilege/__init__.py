"""What the teacher is shown.

prompts.py                    row -> teacher messages -> token ids
teacher_prompt.jinja          what the teacher is told; copy and edit it
teacher_prompt_concise.jinja  the same without a solution, asking for a short one (crisp)
dataset.py                    verl's data set plus teacher_prompt_ids; refuses bad rows at start-up
peers.py                      which other response to the same problem it is shown (peer_correct, peer_wrong)
rows.py                       which rows of a batch are one rollout: its reward, and its teacher prompts
"""
