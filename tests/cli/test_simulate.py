"""``tollgate simulate``: what is printed, what is refused with which exit code, and that nothing is written."""

import asyncio
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from proxy.cli import progress
from proxy.cli.simulate import simulate
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.migrations import migrate
from proxy.ledger.store import Ledger
from proxy.settings.loader import load_settings
from tests.ledger.support import NOON_MS, entry
from tests.support.tampering import unguard

CONFIG = Path(__file__).parents[2] / "config"
MONTH = "--month 2026-11"
DAY_MS = 86_400_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the configuration, in which commands run."""
    for name in ("TOLLGATE_DATABASE_URL", "TOLLGATE_REDIS_URL", "TOLLGATE_UPSTREAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "240")
    shutil.copytree(CONFIG, tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def url(folder: Path) -> str:
    """A ledger in SQLite with two accounts: acme makes three calls of 90,000 tokens in a quarter of an hour."""
    return filled(f"sqlite:///{folder / 'state' / 'ledger.db'}")


def filled(url: str) -> str:
    async def fill() -> None:
        await migrate(url)
        database = Database.open(url)
        acme = await Accounts(database, lambda: NOON_MS - 40 * DAY_MS).create("acme", "tier2")
        small = await Accounts(database, lambda: NOON_MS - 40 * DAY_MS).create("small", "tier1")
        used = [(UsageType.INPUT, 15), (UsageType.OUTPUT, 90_000)]
        calls = [
            entry(account_id=acme.id, used=used, tier="tier2", admitted_ms=NOON_MS + at, settled_ms=NOON_MS + at + 1000)
            for at in (0, 300_000, 600_000)
        ]
        calls += [entry(account_id=small.id) for _ in range(2)]
        await Ledger(database).insert(calls)
        await database.close()

    asyncio.run(fill())
    return url


def run(line: str) -> Result:
    return CliRunner().invoke(simulate, line.split())


def out(line: str) -> str:
    result = run(line)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(line: str):
    return json.loads(out(f"{line} --json"))


def proposed(name: str, old: str, new: str, count: int = 1) -> None:
    """Write proposed.yaml: a file of the configuration with a change."""
    text = Path("config", name).read_text()
    assert text.count(old) >= count
    Path("proposed.yaml").write_text(text.replace(old, new, count))


def test_against_what_stands_nothing_changes(url):
    document = as_json(MONTH)
    totals = document["totals"]
    assert (totals["calls"], totals["refused_calls"], totals["refused"]) == (5, 0, {})
    assert totals["charged_eur"] == totals["proposed_eur"] == "2.160807"
    assert totals["difference_eur"] == "0.00"
    assert [account["account"] for account in document["accounts"]] == ["acme", "small"]
    assert document["accounts"][0]["worst"]["output_tokens_hour"] == {
        "used": 270_000, "limit": 300_000, "percent": "90.0"
    }  # fmt: skip
    assert document["accounts"][0]["worst"]["budget_month"] == {
        "used": "2.160081", "limit": "3000.00", "percent": "0.1"
    }  # fmt: skip


def test_the_document_of_a_proposed_tier(url):
    proposed("tiers.yaml", "output_tokens_hour: 300_000", "output_tokens_hour: 200_000")
    document = as_json(f"{MONTH} --tiers proposed.yaml")
    acme = document["accounts"][0]
    assert {name: document[name] for name in document if name not in ("accounts", "totals")} == {
        "month": "2026-11", "tiers": "proposed.yaml", "prices": None, "tier": None, "price_version": None,
        "hold": "used", "retries": 0, "price_versions": ["2025-01"],
    }  # fmt: skip
    del acme["id"], acme["worst"]["requests"], acme["worst"]["output_tokens_day"], acme["worst"]["budget_month"]
    assert acme == {
        "account": "acme", "tiers": ["tier2"], "proposed_tier": None, "calls": 3, "refused_calls": 1,
        "refused": {"output_tokens_hour": 1}, "delayed_calls": 0, "shadow": {}, "lost_output_tokens": 90_000,
        "lost_eur": "0.720027", "charged_eur": "2.160081", "proposed_eur": "1.440054", "difference_eur": "-0.720027",
        "first_refusal": "2026-11-24T12:10:00.000+01:00",
        "worst": {"output_tokens_hour": {"used": 180_000, "limit": 200_000, "percent": "90.0"}},
    }  # fmt: skip
    assert document["totals"]["difference_eur"] == "-0.720027"


def test_the_table_of_a_proposed_tier(url):
    proposed("tiers.yaml", "output_tokens_hour: 300_000", "output_tokens_hour: 200_000")
    table = out(f"{MONTH} --tiers proposed.yaml")
    assert re.search(r"acme .* tier2 .* 3 .* 1 .* 2026-11-24 12:10:00\+01:00 .* -0\.720027 ", table)
    assert re.search(r"output_tokens_hour 1 .* output_tokens_hour 90\.0 %", table)
    assert re.search(r"total .* 5 .* 1 .* 2\.160807 .* 1\.44078 .* -0\.720027 ", table)
    assert "Refused calls: 90,000 output tokens, 0.720027 €." in table
    assert "Price versions: 2025-01." in table
    assert "Each call holds what it used; a refused one does not come again." in table


def test_proposed_prices_change_the_revenue_exactly(url):
    proposed("prices.yaml", "output: 8.00", "output: 8.000001")
    document = as_json(f"{MONTH} --prices proposed.yaml")
    assert document["totals"]["proposed_eur"] == "2.160807270084"
    assert document["totals"]["difference_eur"] == "0.000000270084"
    assert "+0.000000270084" in out(f"{MONTH} --prices proposed.yaml")


def test_a_version_of_the_future_can_be_tried_on_the_past(url):
    text = Path("config/prices.yaml").read_text()
    version = text[text.index('  - id: "2025-01"') :].replace("output: 8.00", "output: 16.00")
    later = re.sub(r'"2025-01"\n    effective_from: \S+', "later\n    effective_from: 2099-01-01T00:00:00Z", version)
    Path("proposed.yaml").write_text(f"{text}\n{later}")
    assert as_json(f"{MONTH} --prices proposed.yaml")["totals"]["difference_eur"] == "0.00"
    document = as_json(f"{MONTH} --prices proposed.yaml --price-version later")
    assert (document["totals"]["difference_eur"], document["price_versions"]) == ("2.160672", ["later"])


def test_one_account_another_tier_a_cap_and_another_try(url):
    document = as_json(f"{MONTH} --account acme --tier tier1 --hold cap=1000 --retries 2")
    (acme,) = document["accounts"]
    assert (acme["tiers"], acme["proposed_tier"], acme["refused"]) == (["tier2"], "tier1", {"output_tokens_hour": 2})
    assert (document["hold"], document["retries"], document["tier"]) == ("cap=1000", 2, "tier1")
    table = out(f"{MONTH} --account acme --tier tier1 --hold cap=1000 --retries 2")
    assert "tier2 → tier1" in table
    assert "Each call holds 1,000 output tokens, or what it used if that was more" in table
    assert "comes again 2 times at most" in table
    assert "small" not in table


def test_a_limit_in_shadow_is_told_apart(url):
    proposed(
        "tiers.yaml", "output_tokens_hour: 300_000", "output_tokens_hour: 200_000\n    shadow: [output_tokens_hour]"
    )
    totals = as_json(f"{MONTH} --tiers proposed.yaml")["totals"]
    assert (totals["refused_calls"], totals["shadow"]) == (0, {"output_tokens_hour": 1})
    table = out(f"{MONTH} --tiers proposed.yaml")
    assert "output_tokens_hour in shadow 1" in table
    assert "output_tokens_hour 135.0 %" in table


def test_a_long_table_is_cut_and_says_so(url):
    table = out(f"{MONTH} --rows 1")
    assert "and 1 more accounts (--rows 0 shows all)" in table
    assert "small" not in table
    assert "small" in out(f"{MONTH} --rows 0")


def test_every_mistake_of_both_files_is_told_with_file_and_line(url):
    proposed("tiers.yaml", "monthly_limit: 1000\n", "monthly_limit: a lot\n    output_tokens_minute: 5\n")
    Path("prices2.yaml").write_text(Path("config/prices.yaml").read_text().replace("      rerank: 4.00\n", ""))
    result = run(f"{MONTH} --tiers proposed.yaml --prices prices2.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert re.search(r"^prices2\.yaml:\d+: versions\[0\]\.standard: no standard price for rerank", lines[0])
    assert all(re.search(r"^proposed\.yaml:\d+: tiers\.tier1\.\w+: ", line) for line in lines[1:])


def test_tiers_that_accounts_hold_and_the_file_lacks_are_mistakes(url):
    text = Path("config/tiers.yaml").read_text()
    Path("proposed.yaml").write_text(re.sub(r"  tier2:.*?\n\n", "", text, flags=re.DOTALL).replace("tier1:", "basic:"))
    result = run(f"{MONTH} --tiers proposed.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "proposed.yaml: tiers: there is no tier 'tier1', which accounts hold: small",
        "proposed.yaml: tiers: there is no tier 'tier2', which accounts hold: acme",
    ]


def test_a_usage_type_without_a_price_is_told(url):
    async def insert() -> None:
        database = Database.open(url)
        await Ledger(database).insert(
            [entry("a-batch", used=[(UsageType.AUDIO_MINUTES, 5)], tariff_class=TariffClass.BATCH, account_id="acc_z")]
        )
        await database.close()

    asyncio.run(insert())
    result = run(MONTH)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "account acc_z: version 2025-01 has no batch price for audio_minutes of gpt-oss:120b, which call a-batch used\n"
    )


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("", 2, "--month"),
        ("--month 2026-13", 2, "not a month"),
        (f"{MONTH} --tiers nowhere.yaml", 2, "nowhere.yaml: the file is missing"),
        (f"{MONTH} --config nowhere", 2, "there is no such folder"),
        (f"{MONTH} --tier gold", 2, "there is no tier 'gold'; there are: monthly, tier1"),
        (f"{MONTH} --price-version new", 2, "there is no price version 'new'; there are: 2025-01"),
        (f"{MONTH} --hold all", 2, "neither 'used' nor 'cap='"),
        (f"{MONTH} --hold cap=0", 2, "neither 'used' nor 'cap='"),
        (f"{MONTH} --hold 5", 2, "neither 'used' nor 'cap='"),
        (f"{MONTH} --retries 11", 2, "0<=x<=10"),
        (f"{MONTH} --account nobody", 1, "there is no account named 'nobody'"),
    ],
)
def test_a_mistake_is_told_in_a_line_without_a_traceback(url, line, code, says):
    result = run(line)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert says in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_what_holds_of_the_present_settings_holds_of_files_read_instead(folder):
    proposed("tiers.yaml", "requests: 1000 # in", "requests: 999 # in")
    settings = load_settings(Path("config"), {}, instead={"tiers.yaml": Path("proposed.yaml")})
    assert settings.tiers["tier1"].requests == 999
    assert settings.prices == load_settings(Path("config"), {}).prices


def test_what_takes_long_shows_its_progress_on_a_terminal_unless_told_not_to(url, monkeypatch):
    errors = io.StringIO()

    def console(*, stderr: bool = False) -> Console:
        return Console(file=errors, force_terminal=True) if stderr else Console()

    monkeypatch.setattr(progress, "Console", console)
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    assert "calls replayed" not in out(f"{MONTH} --no-progress") + errors.getvalue()
    assert "calls replayed" not in out(MONTH)
    assert re.search(r"calls replayed.*5/5", errors.getvalue())


# Nothing is written


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_nothing_is_written_to_any_file(url, folder):
    proposed("tiers.yaml", "output_tokens_hour: 300_000", "output_tokens_hour: 200_000")
    before = digests(folder)
    out(f"{MONTH} --tiers proposed.yaml")
    as_json(f"{MONTH} --retries 3")
    assert run(f"{MONTH} --account nobody").exit_code == 1
    assert digests(folder) == before


def test_where_there_is_no_ledger_none_is_made(folder):
    result = run(MONTH)
    assert result.exit_code == 1
    assert "there is no ledger in" in result.stderr
    assert not (folder / "state").exists()


def test_a_ledger_of_another_version_is_left_as_it_is(url, folder):
    async def set_back() -> None:
        database = Database.open(url)
        async with database.write() as connection:
            await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        await database.close()

    asyncio.run(set_back())
    before = digests(folder)
    result = run(MONTH)
    assert result.exit_code == 1
    assert "the ledger is not of this version" in result.stderr
    assert digests(folder) == before


def test_it_works_beside_a_server_that_writes(url):
    async def beside() -> str:
        database = Database.open(url)
        await unguard(database, "entries")
        async with database.write() as connection:
            await connection.exec_driver_sql("DELETE FROM entries")
            document = await asyncio.to_thread(as_json, MONTH)
            await connection.rollback()
        await database.close()
        return document["totals"]["charged_eur"]

    assert asyncio.run(beside()) == "2.160807"


def test_on_postgresql_a_role_that_can_only_read_is_enough(folder, postgres_database, monkeypatch):
    filled(postgres_database)
    name = postgres_database.rsplit("/", 1)[1]
    role = f"reader_{name}"
    sql = f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    subprocess.run(["psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, postgres_database], check=True)
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", postgres_database.replace("tollgate@", f"{role}@"))
    proposed("tiers.yaml", "output_tokens_hour: 300_000", "output_tokens_hour: 200_000")
    totals = as_json(f"{MONTH} --tiers proposed.yaml")["totals"]
    assert (totals["refused"], totals["difference_eur"]) == ({"output_tokens_hour": 1}, "-0.720027")
    assert "acme" in out(MONTH)
