"""Permits: accounts share them, and nobody waits for a bound that does not concern him."""

import asyncio

from proxy.batching.permits import Permits
from proxy.core.batches.turns import Bounds


class Takers:
    """Lines that want permits, and the order in which they got them."""

    def __init__(self, bounds):
        self.permits = Permits(lambda: bounds)
        self.granted = []
        self.tasks = {}

    async def want(self, name, account="a", model="m"):
        self.tasks[name] = asyncio.ensure_future(self._take(name, account, model))
        await asyncio.sleep(0)

    async def _take(self, name, account, model):
        await self.permits.take(account, model)
        self.granted.append(name)

    async def back(self, account="a", model="m"):
        self.permits.give_back(account, model)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_who_comes_first_is_first():
    takers = Takers(Bounds(2, 9, 9))
    for name in "abcd":
        await takers.want(name)
    assert takers.granted == ["a", "b"]
    await takers.back()
    await takers.back()
    assert takers.granted == ["a", "b", "c", "d"]
    assert takers.permits.taken == 2


async def test_an_account_with_few_lines_gets_its_half_of_what_another_fills():
    takers = Takers(Bounds(4, 9, 9))
    for number in range(9):
        await takers.want(f"many {number}", "many")
    for number in range(3):
        await takers.want(f"few {number}", "few")
    for _ in range(4):
        await takers.back("many")
    assert takers.granted[4:] == ["few 0", "few 1", "many 4", "many 5"]
    await takers.back("few")
    assert takers.granted[8:] == ["few 2"]


async def test_the_bounds_of_one_do_not_concern_another():
    takers = Takers(Bounds(9, 1, 2))
    await takers.want("one")
    await takers.want("its second")  # of the same account and model
    await takers.want("another account", "b")
    await takers.want("a third account", "c")  # the model has no more
    await takers.want("another model", "a", "n")
    assert takers.granted == ["one", "another account", "another model"]
    await takers.back("b")
    assert takers.granted[3:] == ["a third account"]
    await takers.back("a")
    assert takers.granted[4:] == ["its second"]


async def test_who_leaves_leaves_nothing_behind():
    takers = Takers(Bounds(1, 1, 1))
    await takers.want("one")
    await takers.want("two")
    takers.tasks["two"].cancel()
    await asyncio.gather(takers.tasks["two"], return_exceptions=True)
    await takers.want("three")
    takers.permits.give_back("a", "m")
    takers.tasks["three"].cancel()  # in the moment in which it was granted
    await asyncio.gather(takers.tasks["three"], return_exceptions=True)
    assert takers.permits.taken == 0
    await takers.want("four")
    assert takers.granted == ["one", "four"]
