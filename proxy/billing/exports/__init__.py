"""Exports: a month of the ledger as a file, in the format that its reader wants.

What belongs here: one module a format, and what they share. Everything is streamed: a month of ten million entries
needs no more memory than one of a thousand. What does not: reading the ledger (ledger/streaming.py).
"""
