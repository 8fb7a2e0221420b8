"""Batches, run: with a real proxy, a simulated cluster and a real database."""
