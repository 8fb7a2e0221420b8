"""Files and batches in the database."""
