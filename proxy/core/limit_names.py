"""The names of limits: in headers, metrics, logs and stores.

What belongs here: the vocabulary. What does not: which limits an account has (quotas.py).
"""

from typing import Final

REQUESTS: Final = "requests"
OUTPUT_TOKENS_HOUR: Final = "output_tokens_hour"
OUTPUT_TOKENS_DAY: Final = "output_tokens_day"
BUDGET_MONTH: Final = "budget_month"
LIMIT_NAMES: Final = (REQUESTS, OUTPUT_TOKENS_HOUR, OUTPUT_TOKENS_DAY, BUDGET_MONTH)
