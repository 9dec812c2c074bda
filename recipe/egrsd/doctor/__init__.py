"""``python -m recipe.egrsd.doctor <the overrides of main_ppo>``: finds mistakes on a CPU, before a GPU is booked. No
Ray."""
