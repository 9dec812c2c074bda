"""From published data sets to verl's parquet rows. The command is recipe/egrsd/prepare_data.py."""
