"""Reported: an engine's usage object, judged and taken apart.

What belongs here: which of an engine's numbers are believed, and how they become disjoint quantities. What does not:
where in an answer they stand (chat_stream, chat_body), and the rules of estimates (``proxy.core.estimate``).

A number is believed when it is a whole JSON integer, not negative, no more than can be, and not 0 although something
was seen: zeros come from engines that do not know yet, or do not count. A quantity whose number is missing or not
believed is estimated; nothing here raises.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from proxy.core import estimate
from proxy.core.usage import Quantity, Source, Usage, UsageType

HIDDEN_COMPLETION_TOKENS_MAX: Final = 1 << 17
"""Tokens a choice that an engine may count without showing any of them (reasoning that it keeps to itself)."""

HIDDEN_PROMPT_TOKENS_MAX: Final = 1 << 20
"""Prompt tokens that a short request may stand for (a template, an image or film behind an address)."""

# An attribute of an enumeration costs as much as a call; these are looked up for every call.
_INPUT: Final = UsageType.INPUT
_CACHED_INPUT: Final = UsageType.CACHED_INPUT
_OUTPUT: Final = UsageType.OUTPUT
_REASONING: Final = UsageType.REASONING
_REPORTED: Final = Source.REPORTED
_ESTIMATED: Final = Source.ESTIMATED


class Reported(msgspec.Struct, frozen=True):
    """What an engine said, taken apart; None: it said nothing that can be believed.

    Args:
        prompt: prompt tokens, cached ones among them.
        cached: those of them that came from a cache; never more than ``prompt``.
        completion: all generated tokens, reasoning among them.
        reasoning: the reasoning tokens; never more than ``completion``.
        is_split_sure: whether completion and reasoning fitted together.
    """

    prompt: int | None
    cached: int
    completion: int | None
    reasoning: int
    is_split_sure: bool = True


class Seen(msgspec.Struct, frozen=True):
    """What the proxy itself has seen of a call, against which an engine's numbers are judged.

    Args:
        prompt_bytes: size of the request.
        answer_bytes: size of the answer so far.
        choices: how many answers were asked for.
        count_tokens: returns the generated tokens by the rules of ``proxy.core.estimate``; asked only when needed.
    """

    prompt_bytes: int
    answer_bytes: int
    choices: int
    count_tokens: Callable[[], int]


_NOTHING_SAID: Final = Reported(None, 0, None, 0)


def read_usage(usage: object) -> Reported | None:
    """Take a decoded usage object apart; None when it is no object.

    Reasoning tokens are part of ``completion_tokens`` with vLLM and OpenAI (in ``completion_tokens_details``) and
    SGLang (beside it). Where total = prompt + completion + reasoning, they stand beside the completion, and are added
    to it.
    """
    if not isinstance(usage, dict):
        return None
    prompt = _count(usage.get("prompt_tokens"))
    completion = _count(usage.get("completion_tokens"))
    cached = reasoning = 0
    if details := usage.get("prompt_tokens_details"):  # many engines send a null
        cached = min(_detail(details, "cached_tokens"), prompt or 0)
    if details := usage.get("completion_tokens_details"):
        reasoning = _detail(details, "reasoning_tokens")
    if not reasoning and "reasoning_tokens" in usage:
        reasoning = _count(usage["reasoning_tokens"]) or 0
    if not reasoning or completion is None:
        return Reported(prompt, cached, completion, 0)
    is_split_sure = True
    if prompt is not None and _count(usage.get("total_tokens")) == prompt + completion + reasoning:
        completion += reasoning
    elif reasoning > completion:
        reasoning, is_split_sure = completion, False
    return Reported(prompt, cached, completion, reasoning, is_split_sure)


def merge(reports: list[Reported]) -> Reported:
    """Add up what was reported for single choices; the list is not empty.

    Prompts of the same length are one prompt that each choice repeats; prompts of different lengths are several. An
    unknown number makes the sum unknown.
    """
    prompts = {report.prompt for report in reports}
    counted = reports[:1] if len(prompts) == 1 else reports
    return Reported(
        _sum([report.prompt for report in counted]),
        sum(report.cached for report in counted),
        _sum([report.completion for report in reports]),
        sum(report.reasoning for report in reports),
        all(report.is_split_sure for report in reports),
    )


def usage_of(reported: Reported | None, seen: Seen) -> Usage:
    """Return disjoint quantities: an engine's numbers where they can be believed, else estimates."""
    if reported is None:
        reported = _NOTHING_SAID
    quantities: list[Quantity] = []
    prompt, cached = reported.prompt, reported.cached
    if not prompt or prompt > max(HIDDEN_PROMPT_TOKENS_MAX, seen.prompt_bytes):
        quantities.append(Quantity(_INPUT, estimate.input_tokens(seen.prompt_bytes), _ESTIMATED))
    else:
        if prompt > cached:
            quantities.append(Quantity(_INPUT, prompt - cached))
        if cached:
            quantities.append(Quantity(_CACHED_INPUT, cached))
    completion, reasoning = reported.completion, reported.reasoning
    if not completion or completion > max(HIDDEN_COMPLETION_TOKENS_MAX * seen.choices, seen.answer_bytes):
        counted = seen.count_tokens()
        if counted:
            quantities.append(Quantity(_OUTPUT, counted, _ESTIMATED))
    else:
        source = _REPORTED if reported.is_split_sure else _ESTIMATED
        if completion > reasoning:
            quantities.append(Quantity(_OUTPUT, completion - reasoning, source))
        if reasoning:
            quantities.append(Quantity(_REASONING, reasoning, source))
    return Usage(tuple(quantities))


def _count(number: object) -> int | None:
    """Return a JSON number if it can be a count; ``True`` is no number, and 2^53 is where JSON's end for most."""
    return number if type(number) is int and 0 <= number <= 1 << 53 else None


def _detail(details: object, name: str) -> int:
    return (_count(details.get(name)) or 0) if isinstance(details, dict) else 0


def _sum(amounts: list[int | None]) -> int | None:
    total = 0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total
