"""Batches, decided."""
