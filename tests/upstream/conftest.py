"""Connections to upstreams are tried on both event loops: each tells of back-pressure in its own way."""

import asyncio

import uvloop


def pytest_asyncio_loop_factories():
    """Run each test on asyncio's loop, and on the one that serves customers."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
