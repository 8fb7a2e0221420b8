"""Texts that a spreadsheet would take for formulas.

What belongs here: telling them, and making them harmless where a file has no types (OWASP, "CSV injection"). What does
not: workbooks, whose cells say that they are text.
"""

import re
from functools import lru_cache
from typing import Final

# Excel and LibreOffice take the full-width signs for the plain ones; tabs, returns and blanks before a sign are
# dropped on the way in. The apostrophe is there so that what is made harmless can be told from what was so before.
_FORMULA: Final = re.compile(r"[\s']*[=+\-@＝＋－＠]|'*[\t\r\n]")


@lru_cache(maxsize=4096)
def harmless(text: str) -> str:
    """Return a text with an apostrophe in front if a spreadsheet might run it.

    Whoever reads the file back takes one apostrophe away where ``[=+-@]`` follows it, further apostrophes or blanks
    between them or not: no two texts become the same.

    >>> harmless("=1+1"), harmless("acme"), harmless("'=1+1")
    ("'=1+1", 'acme', "''=1+1")
    """
    return f"'{text}" if is_formula(text) else text


def is_formula(text: str) -> bool:
    """Whether a spreadsheet might run it, or what is left of it once it has taken an apostrophe away."""
    return _FORMULA.match(text) is not None
