"""The file store: bytes of files and of pieces of them, kept where every replica reaches them.

What belongs here: the contract (contract.py) and its stores. What does not: whose a file is and what it is for
(ledger/batches/), and names, which are ours (batching/).
"""
