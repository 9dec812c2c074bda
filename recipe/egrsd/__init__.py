"""EGRSD and CL-EGRSD (arXiv 2605.13255) for verl. Every verl process in the environment imports this file: keep it
empty."""
