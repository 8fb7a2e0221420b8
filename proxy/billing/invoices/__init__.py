"""Invoices as they are issued: facts gathered, numbers taken, documents stored.

What belongs here: the steps from a month's facts to a stored document. What does not: what it says (core/invoicing/),
and its files (billing/documents/).
"""
