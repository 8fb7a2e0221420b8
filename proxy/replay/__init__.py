"""Replaying a month of the ledger against other tiers and other prices: ``tollgate simulate``. Nothing is written."""
