"""The names of limits: in headers, metrics, logs and stores.

What belongs here: the vocabulary, and how a model's id becomes a scope. What does not: which limits an account has
(quotas.py).
"""

import re
from typing import Final, NamedTuple


class Names(NamedTuple):
    """What the limits of one level are called."""

    requests: str
    output_tokens_hour: str
    output_tokens_day: str
    budget_month: str
    calls_in_flight: str


REQUESTS: Final = "requests"
OUTPUT_TOKENS_HOUR: Final = "output_tokens_hour"
OUTPUT_TOKENS_DAY: Final = "output_tokens_day"
BUDGET_MONTH: Final = "budget_month"
CALLS_IN_FLIGHT: Final = "calls_in_flight"

ACCOUNT_NAMES: Final = Names(REQUESTS, OUTPUT_TOKENS_HOUR, OUTPUT_TOKENS_DAY, BUDGET_MONTH, CALLS_IN_FLIGHT)
"""Of the account: its tier's, and what overrides make of them."""
KEY_NAMES: Final = Names(*(f"key_{name}" for name in ACCOUNT_NAMES))
"""Of one key; the scope is the key's id."""
MODEL_NAMES: Final = Names(*(f"model_{name}" for name in ACCOUNT_NAMES))
"""Of an account with one model; the scope is ``scope_of_model``. Models have no budget."""

CREDIT: Final = "credit"
"""What a prepaid account has left: whole again with a purchase only."""
PURCHASE_CREDIT: Final = "purchase_credit"
"""No limit: what is said to have bound while a tier waits for its purchase credit."""

LIMIT_NAMES: Final = (
    *ACCOUNT_NAMES,
    *KEY_NAMES,
    *(name for name in MODEL_NAMES if name != MODEL_NAMES.budget_month),
    CREDIT,
    PURCHASE_CREDIT,
)
"""Every name that there can be."""
BUDGET_NAMES: Final = frozenset({BUDGET_MONTH, KEY_NAMES.budget_month})
"""Those that are whole again with a new month only."""
IN_FLIGHT_NAMES: Final = frozenset(names.calls_in_flight for names in (ACCOUNT_NAMES, KEY_NAMES, MODEL_NAMES))
"""Those that have room again as soon as a call ends: nobody can say when."""

_STRANGE: Final = re.compile(r"[^A-Za-z0-9.-]")
_WRITTEN: Final = re.compile(r"_([0-9a-f]{2})")


def scope_of_model(model_id: str) -> str:
    """Return a model's id (ASCII) as letters, digits, '_', '.' and '-': different ids stay different."""
    return _STRANGE.sub(lambda found: f"_{ord(found[0]):02x}", model_id)


def model_of_scope(scope: str) -> str:
    """Return the model's id that a scope was made from."""
    return _WRITTEN.sub(lambda found: chr(int(found[1], 16)), scope)
