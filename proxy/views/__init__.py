"""Views: what a customer can ask that uses nothing: which models there are, and what has been used."""
