"""Invoices, decided: lines, VAT, credit drawn, totals, and the exact check of them all. Pure.

What belongs here: how usage becomes the lines of a document, in integers. What does not: reading usage (ledger/),
numbers and storing (billing/invoices/), and the document's files (billing/documents/).
"""
