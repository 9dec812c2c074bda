"""From published data sets to verl's parquet rows: ``python -m recipe.egrsd.prepare_data``.

sources.py  where each data set lies, and which of its columns hold problem, solution and answer
named.py    what the command line names -> the sources that are read
rows.py     one row of a source -> one row of verl's, or the reason why not
overlap.py  which training problems are benchmark problems
report.py   what happened to the rows
"""
