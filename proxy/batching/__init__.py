"""Async batches, run: validating their files, running their lines, and putting their results together.

What belongs here: the work. What does not: what a batch is (core/batches/), where it is kept (ledger/batches/, files/),
and how customers ask for it (views/).
"""
