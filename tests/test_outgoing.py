"""What one turn of the event loop has to send goes out together at its end."""

import asyncio

from proxy.outgoing import Outgoing


class Writer:
    def __init__(self, name, sent):
        self.name = name
        self.sent = sent

    def send_posted(self):
        self.sent.append(self.name)


async def test_writers_are_asked_in_their_order_once_the_turn_is_over():
    outgoing, sent = Outgoing(), []

    async def work(name):
        outgoing.gather(Writer(name, sent))
        seen.append(list(sent))

    seen = []
    await asyncio.gather(*map(work, "abc"))
    await asyncio.sleep(0)
    assert seen == [[], [], []]  # all of the turn's work was done first
    assert sent == ["a", "b", "c"]


async def test_what_comes_while_they_are_asked_waits_for_the_next_turn():
    outgoing, sent = Outgoing(), []

    class Again(Writer):
        def send_posted(self):
            super().send_posted()
            outgoing.gather(Writer("later", sent))

    outgoing.gather(Again("first", sent))
    outgoing.gather(Writer("second", sent))
    await asyncio.sleep(0)
    assert sent == ["first", "second"]
    await asyncio.sleep(0)
    assert sent == ["first", "second", "later"]
