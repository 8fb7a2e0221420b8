"""Upstreams: the relay, its connections, and how they fail."""
