"""The turnstile: calls have the processor first; without calls nobody waits."""

import asyncio

from proxy.batching.turnstile import LINES_A_TURN, Turnstile


class Lines:
    """Lines that come all at once, and the order in which they pass."""

    def __init__(self, count, calls):
        self.calls = calls
        self.passed = []
        self.turnstile = Turnstile(lambda: self.calls)
        self.tasks = [asyncio.ensure_future(self._pass(number)) for number in range(count)]

    async def _pass(self, number):
        await self.turnstile.enter()
        self.passed.append(number)


async def test_without_calls_all_pass_at_once():
    lines = Lines(100, calls=0)
    await asyncio.sleep(0)
    assert lines.passed == list(range(100))


async def test_with_calls_a_few_pass_in_a_turn_in_the_order_in_which_they_came():
    lines = Lines(7, calls=1)
    await asyncio.sleep(0)
    assert lines.passed == list(range(LINES_A_TURN))
    for turn in (2, 3):
        lines.turnstile._turn.cancel()
        lines.turnstile._next_turn()
        await asyncio.sleep(0)
        assert lines.passed == list(range(turn * LINES_A_TURN))
    await asyncio.gather(*lines.tasks)  # turns come by themselves
    assert lines.passed == list(range(7))


async def test_when_the_last_call_has_ended_all_pass():
    lines = Lines(100, calls=1)
    await asyncio.sleep(0)
    lines.calls = 0
    lines.turnstile._turn.cancel()
    lines.turnstile._next_turn()
    await asyncio.sleep(0)
    assert lines.passed == list(range(100))


async def test_a_line_that_is_cancelled_leaves_its_turn_to_the_next():
    lines = Lines(5, calls=1)
    await asyncio.sleep(0)
    for task in lines.tasks[LINES_A_TURN:4]:
        task.cancel()
    lines.turnstile._turn.cancel()
    lines.turnstile._next_turn()
    await asyncio.sleep(0)
    assert lines.passed == [0, 1, 4]


async def test_a_turn_that_nobody_used_begins_no_other():
    lines = Lines(1, calls=1)
    await asyncio.gather(*lines.tasks)
    lines.turnstile._turn.cancel()
    lines.turnstile._next_turn()
    assert lines.turnstile._turn is None
