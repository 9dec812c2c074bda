"""What the teacher is shown.

texts.py                      which texts of which row each privilege shows, and in which template
teacher_prompt.jinja          what the teacher is told; copy and edit it
teacher_prompt_concise.jinja  the same without a solution, asking for a short one (crisp)
teacher_prompt_other_problem.jinja  another problem and its solution, said to be no hint (op2sd)
teacher_prompt_feedback.jinja       what the reward function said of a response
teacher_prompt_crosslingual.jinja   the problem and its solution in English, too (copsd)
columns.py                    do the training files have them? Asked before Ray starts
prompts.py                    texts -> teacher messages -> token ids
prefix.py                     words with which the assistant's turn begins, in the chat template
dataset.py                    verl's data set plus teacher_prompt_ids; refuses bad rows at start-up
peers.py                      which other response to the same problem it is shown (peer_correct, ...)
feedback.py                   what the reward function said, as tokens to be shown (feedback, feedback_shuffled)
guides.py                     all of them and the solution, one a pass, with their coefficients (peers)
contrasts.py                  a right guide and wrong ones, one a pass (peer_contrast, answer_contrast)
rows.py                       which rows of a batch are one rollout: its reward, and its teacher prompts
"""
