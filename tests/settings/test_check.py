"""``tollgate check`` says what is wrong, or what the configuration amounts to."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli.check import check
from tests.settings.support import ROOT, edit, sound_folder


def run(folder: Path, **environ: str) -> Result:
    return CliRunner().invoke(check, ["--config", str(folder)], env=environ)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN", "ADMIN_LISTEN", "REDIS_URL", "DATABASE_URL", "STATE_DIR", "UPSTREAM", "UPSTREAM_API_KEY"):
        monkeypatch.delenv(f"TOLLGATE_{name}", raising=False)


def test_a_sound_configuration_is_summed_up_and_ends_with_0():
    result = run(ROOT / "config")
    assert result.exit_code == 0
    for fact in ("tier1", "150,000", "gpt-oss:120b", "http://127.0.0.1:9900", "2025-01", "127.0.0.1:8080", "memory"):
        assert fact in result.output


def test_every_mistake_is_a_line_and_the_end_is_1(tmp_path: Path):
    folder = sound_folder(tmp_path)
    edit(folder, "tiers.yaml", "150_000", "x")
    edit(folder, "models.yaml", "[cluster]", "[cloud]")
    result = run(folder)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{folder}/models.yaml:8: models.gpt-oss:120b.upstreams[0]: no upstream is called 'cloud'",
        f"{folder}/tiers.yaml:6: tiers.tier1.output_tokens_hour: expected a whole number, or 'unlimited', got 'x'",
    ]
    assert result.stderr.splitlines() == [f"2 mistakes in {folder}"]


def test_the_summary_masks_passwords(tmp_path: Path):
    result = run(
        sound_folder(tmp_path),
        TOLLGATE_REDIS_URL="redis://:hunter2@cache:6379/0",
        TOLLGATE_DATABASE_URL="postgresql://tollgate:hunter2@db/tollgate",
    )
    assert result.exit_code == 0
    assert "redis://***@cache:6379/0" in result.output
    assert "postgresql://***@db/tollgate" in result.output
    assert "hunter2" not in result.output


def test_prices_to_come_are_named(tmp_path: Path):
    folder = sound_folder(tmp_path)
    text = (folder / "prices.yaml").read_text()
    later = text.partition("\n")[2].replace("2026-01", "2999-01")
    (folder / "prices.yaml").write_text(text + later)
    assert "version 2026-01; then 2999-01 from 2998-12-31T23:00:00+00:00" in run(folder).output


def test_who_sells_is_named_and_whether_it_is_a_demonstration(tmp_path: Path):
    folder = sound_folder(tmp_path)
    sells = "seller     Compagnie Imaginaire de Démonstration, SAS, SIREN 123456782"
    assert f"{sells}\n" in run(folder).output
    assert f"{sells}; a demonstration: every document is marked as a specimen\n" in run(ROOT / "config").output
    (folder / "seller.yaml").unlink()
    assert "seller     none (no seller.yaml): no invoices can be issued\n" in run(folder).output
