"""Tollgate: a metering, limiting and pricing reverse proxy in front of an LLM inference cluster."""

__version__ = "0.1.0"
