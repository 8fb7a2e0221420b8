"""The ledger: the outbox, the SQL truth, and the way from one to the other; accounts, keys and credit."""
