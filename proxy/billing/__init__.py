"""Billing: what accounts owe and what they have paid, made from entries."""
