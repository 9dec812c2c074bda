"""A pretrained model and word problems, on two CPU cores: SmolLM2-135M-Instruct on templates of GSM8K's problems.

convert.py      its GGUF file -> a Hugging Face folder, checked by perplexity
problems.py     problems with worked solutions, split for good, as verl's rows
warm_start.py   a short supervised start on the solutions of other problems
quality.py      what a start is worth: accuracy, entropy, the teacher's accuracy
train.sh        verl's main_ppo
demo.py         all of it in order: make demo MODEL=smollm2
"""
