"""From published data sets to verl's parquet rows: ``python -m recipe.egrsd.prepare_data``."""
