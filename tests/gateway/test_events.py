"""From a call to the operator's receiver, through the whole proxy."""

import asyncio

import pytest

from proxy.core import webhooks
from proxy.events import work
from proxy.ledger.accounts import Accounts
from proxy.ledger.credit import Credit
from proxy.ledger.keys import Keys
from tests.events.receiver import SECRET, receiving
from tests.support.stack import chat, running, write_config


@pytest.fixture
async def receiver():
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def hasty(monkeypatch):
    """Looks and attempts follow each other at once."""
    monkeypatch.setitem(work.EventWork.__init__.__kwdefaults__, "tick_s", 0.1)
    monkeypatch.setattr(work, "LOOK_MS", 200)
    monkeypatch.setattr(webhooks, "PAUSES_S", (0,))


async def messages(receiver, count):
    """Wait for so many messages, a little longer for one too many, and return what they are about."""
    async with asyncio.timeout(20):
        while len(receiver.messages) < count:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    told = [message for _, message in receiver.messages]
    return sorted((each["type"], each["data"].get("threshold_percent", 0), each["data"]["account"]) for each in told)


async def test_what_calls_spend_reaches_the_receiver_once(tmp_path, receiver, redis_url, postgres_database, hasty):
    config = write_config(
        tmp_path,
        tiers=("monthly_limit: 1000\n", "monthly_limit: 0.009\n"),
        proxy=("timeouts:", "webhooks:\n  timeout_s: 0.5\ntimeouts:"),
    )
    environ = {
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_DATABASE_URL": postgres_database,
        "TOLLGATE_WEBHOOK_URL": receiver.url,
        "TOLLGATE_WEBHOOK_SECRET": SECRET,
    }
    receiver.statuses = [500]
    async with running(tmp_path, config=config, environ=environ) as stack:
        database = stack.app.database
        await Accounts(database).create("second", "tier2")
        made = await Keys(database).create("second")
        await Credit(database).add("second", 500 * 10**12, "R1")
        await stack.app.directory.refresh()
        for _ in range(3):
            assert (await stack.ask(chat(max_tokens=250)))[0] == 200
        assert (await stack.ask(chat(max_tokens=20), key=made.token))[0] == 200
        assert await messages(receiver, 2) == [("budget.reached", 50, "acme"), ("tier.activated", 0, "second")]
        async with stack.session.get(stack.admin_url + "/metrics") as answer:
            shown = await answer.text()
    assert 'tollgate_events_total{kind="budget.reached"} 1' in shown
    assert 'tollgate_events_total{kind="credit.reached"} 0' in shown
    assert 'tollgate_webhook_deliveries_total{result="acknowledged"} 2' in shown
    assert 'tollgate_webhook_deliveries_total{result="refused"} 1' in shown
