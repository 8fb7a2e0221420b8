"""Async batches, decided: what a file and a batch are, what a line must be, and how both are shown. Pure.

What belongs here: values, the states of a batch and the checks of its lines. What does not: storing (ledger/batches/,
files/), running (batching/), HTTP (web/).
"""
