"""The functions of limiter.lua, as Redis gets them.

What belongs here: their text and their name. What does not: loading and calling them (redis.py, commands.py).

A library is named by its content, so that two versions of the proxy can share one Redis while a new one is rolled out:
each calls its own functions, and a Redis that holds an older version is found to lack the new one. What the functions
keep in Redis is named apart from them (``tollgate:…``): its format may only grow.
"""

from hashlib import sha256
from importlib.resources import files
from typing import Final

_TEXT: Final = files("proxy.limiter").joinpath("limiter.lua").read_text()

NAME: Final = f"tollgate_{sha256(_TEXT.encode()).hexdigest()[:12]}"
"""Name of the library, and first part of the names of its functions."""

CODE: Final = _TEXT.replace("LIBRARY_NAME", NAME)
"""What ``FUNCTION LOAD`` is given."""
