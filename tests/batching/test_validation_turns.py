"""Files wait for their check in turns: an account that brings many holds up no other."""

import asyncio

from tests.batching.support import chat_line, create, ended

MANY = 12


async def test_while_an_account_has_many_files_checked_another_is_next(stack, monkeypatch):
    validating = stack.app.batch_work.worker._validating
    validate = validating.validate
    order, may_check, is_checking = [], asyncio.Event(), asyncio.Event()

    async def in_order(holder, batch):
        order.append(batch.id)
        is_checking.set()
        await may_check.wait()
        await validate(holder, batch)

    monkeypatch.setattr(validating, "validate", in_order)
    others = [await stack.add_account(name, "tier1") for name in ("one", "two")]
    many = [await create(stack, [chat_line(1, max_tokens=2)]) for _ in range(MANY)]
    async with asyncio.timeout(20):
        await is_checking.wait()
    late = [
        await create(stack, [chat_line(1, max_tokens=2)], key=made.token, account=made.key.account_id)
        for made in others
    ]
    may_check.set()
    for batch_id in (*late, *many):
        await ended(stack, batch_id)
    assert order[0] == many[0]
    assert set(order[1:3]) == set(late)
    assert order[3:] == many[1:]
