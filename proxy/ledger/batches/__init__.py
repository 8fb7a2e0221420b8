"""Files and batches in the ledger's database.

What belongs here: statements, each a transaction. What does not: the tables (ledger/batch_schema.py), the work that
they are about (batching/), and bytes (files/).
"""
