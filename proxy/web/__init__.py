"""Listeners: the customers' and the operators'."""
