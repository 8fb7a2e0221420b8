"""What a running proxy served, replayed from its ledger: as it was, and under half of its limits."""

import asyncio
from pathlib import Path

import msgspec

from proxy.clock import unix_ms
from proxy.core.calendar import month_of
from proxy.ledger.months_entries import MonthsEntries
from proxy.replay.month import replay_month
from proxy.replay.proposal import Proposal
from proxy.replay.rating import Rating
from proxy.settings.loader import load_settings
from tests.support.stack import chat, running, write_config


async def test_what_was_served_is_admitted_again_and_half_the_limit_admits_half(tmp_path: Path) -> None:
    config = write_config(tmp_path, tiers=("requests: 1000 # in any requests_window_s (60 seconds)", "requests: 20"))
    async with running(tmp_path, config=config) as stack:
        bodies = [chat(f"SIM:tokens={10 + n}", max_tokens=40 + n, stream=False) for n in range(30)]
        answers = await asyncio.gather(*(stack.ask(body) for body in bodies))
        entries = await stack.entries()
        settings, database = load_settings(config, {}), stack.app.database
        month = month_of(unix_ms(), "Europe/Paris")
        as_it_was = Proposal(settings.tiers, Rating(settings.prices), settings.models)
        same = await replay_month(MonthsEntries(database), as_it_was, month)
        tiers = {**settings.tiers, "tier1": msgspec.structs.replace(settings.tiers["tier1"], requests=10)}
        half = await replay_month(MonthsEntries(database), msgspec.structs.replace(as_it_was, tiers=tiers), month)
    assert sorted(answer[0] for answer in answers) == [200] * 20 + [429] * 10
    charged_pico = sum(entry.charge.total_pico for entry in entries)
    assert (same.totals.calls, same.totals.refused) == (20, {})
    assert same.totals.charged_pico == same.totals.proposed_pico == charged_pico > 0
    assert (half.totals.calls, half.totals.refused) == (20, {"requests": 10})
    assert half.totals.proposed_pico + half.totals.lost_pico == charged_pico
