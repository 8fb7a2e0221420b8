"""Holding everything that is derived against the ledger's entries: ``tollgate reconcile``.

What belongs here: one module for each thing that counts the same calls, what it is compared with, and putting right
what can be. What does not: SQL (ledger/), and what is printed (cli/reconcile.py).
"""
