"""Settings are replaced as a whole, or kept."""

from pathlib import Path

import pytest

from proxy.settings.holder import SettingsHolder
from proxy.settings.mistakes import SettingsError
from tests.settings.support import NOW_MS, edit, sound_folder

LATER = """\
  - id: "{id}"
    effective_from: {effective_from}
    standard: {{input: 2, cached_input: 2, output: 9, reasoning: 9, rerank: 5, audio_minutes: 0.02}}
    batch: {{input: 1, cached_input: 1, output: 4.5, reasoning: 4.5}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sound_folder(tmp_path)


@pytest.fixture
def holder(folder: Path) -> SettingsHolder:
    return SettingsHolder(folder, {}, lambda: NOW_MS)


def test_the_first_load_must_be_sound(folder: Path):
    (folder / "tiers.yaml").unlink()
    with pytest.raises(SettingsError, match=r"tiers\.yaml: the file is missing"):
        SettingsHolder(folder, {})


def test_a_sound_reload_replaces_the_settings_and_is_counted(folder: Path, holder: SettingsHolder):
    edit(folder, "tiers.yaml", "150_000", "160_000")
    assert holder.reload() == []
    assert holder.current.tiers["tier1"].output_tokens_hour == 160_000
    assert (holder.reloads, holder.failed_reloads, holder.restart_needed) == (1, 0, ())


def test_a_wrong_reload_keeps_the_settings_and_is_counted(folder: Path, holder: SettingsHolder):
    before = holder.current
    edit(folder, "tiers.yaml", "150_000", "many")
    assert [mistake.path for mistake in holder.reload()] == ["tiers.tier1.output_tokens_hour"]
    assert holder.current is before
    assert (holder.reloads, holder.failed_reloads) == (0, 1)


def test_what_needs_a_restart_is_named_and_keeps_its_value(folder: Path, holder: SettingsHolder):
    (folder / "proxy.yaml").write_text(
        "listen: 127.0.0.1:9999\nredis_url: redis://cache\ntimeouts: {connect_s: 1}\n"
        "limiter: {hold_ttl_s: 30, default_max_tokens: 99}\n"
    )
    assert holder.reload() == []
    assert holder.restart_needed == ("listen", "redis_url", "limiter.hold_ttl_s")
    proxy = holder.current.proxy
    assert (proxy.listen, proxy.redis_url, proxy.limiter.hold_ttl_s) == ("127.0.0.1:8080", None, 60)
    assert (proxy.timeouts.connect_s, proxy.limiter.default_max_tokens) == (1, 99)


def test_what_needs_a_restart_is_forgotten_when_it_is_taken_back(folder: Path, holder: SettingsHolder):
    edit(folder, "proxy.yaml", "8080", "9999")
    holder.reload()
    assert holder.restart_needed == ("listen",)
    edit(folder, "proxy.yaml", "9999", "8080")
    holder.reload()
    assert holder.restart_needed == ()


def test_a_new_price_is_a_new_version(folder: Path, holder: SettingsHolder):
    with (folder / "prices.yaml").open("a") as file:
        file.write(LATER.format(id="2027-01", effective_from="2027-01-01T00:00:00+01:00"))
    assert holder.reload() == []
    assert [version.id for version in holder.current.prices.versions] == ["2026-01", "2027-01"]


def test_a_price_that_has_been_in_force_is_never_changed(folder: Path, holder: SettingsHolder):
    edit(folder, "prices.yaml", "output: 8.00", "output: 7.00")
    (mistake,) = holder.reload()
    assert (mistake.line, mistake.path) == (2, "versions[0]")
    assert mistake.message == "'2026-01' has been in force: it may not be changed, a new price is a new version"


def test_a_price_that_has_been_in_force_is_never_removed(folder: Path, holder: SettingsHolder):
    (folder / "prices.yaml").write_text("versions:\n" + LATER.format(id="b", effective_from="2026-06-01T00:00:00Z"))
    mistake, _ = holder.reload()
    assert (mistake.line, mistake.path) == (1, "versions")
    assert mistake.message == "'2026-01' has been in force: it may not be removed"


def test_a_new_price_begins_in_the_future(folder: Path, holder: SettingsHolder):
    prices = folder / "prices.yaml"
    past = prices.read_text()
    prices.write_text(past + LATER.format(id="2026-11", effective_from="2026-11-01T00:00:00+01:00"))  # at this very ms
    (mistake,) = holder.reload()
    assert (mistake.line, mistake.path) == (7, "versions[1].effective_from")
    assert mistake.message == "must lie ahead: calls since then have been charged by another version"
    assert [version.id for version in holder.current.prices.versions] == ["2026-01"]
    prices.write_text(past + LATER.format(id="2026-11", effective_from="2026-11-01T00:00:01+01:00"))
    assert holder.reload() == []


def test_a_price_that_is_not_in_force_yet_may_be_changed(folder: Path, holder: SettingsHolder):
    prices = folder / "prices.yaml"
    past = prices.read_text()
    prices.write_text(past + LATER.format(id="2027-01", effective_from="2027-01-01T00:00:00+01:00"))
    assert holder.reload() == []
    prices.write_text(past + LATER.format(id="2027-02", effective_from="2027-02-01T00:00:00+01:00"))
    assert holder.reload() == []


def test_origins_are_written_as_browsers_do_and_a_reload_changes_them(folder: Path, holder: SettingsHolder):
    assert holder.current.proxy.cors_origins == ("*",)
    (folder / "proxy.yaml").write_text(
        'cors_origins: ["HTTPS://App.Example:443", "http://localhost:3000", "chrome-extension://abc", "http://[::1]:80"]\n'
    )
    assert holder.reload() == []
    assert holder.restart_needed == ()
    assert holder.current.proxy.cors_origins == (
        "https://app.example",
        "http://localhost:3000",
        "chrome-extension://abc",
        "http://[::1]",
    )
    (folder / "proxy.yaml").write_text("cors_origins: []\n")
    assert holder.reload() == []
    assert holder.current.proxy.cors_origins == ()
