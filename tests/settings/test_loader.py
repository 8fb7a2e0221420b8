"""A sound configuration becomes the values that the proxy uses."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from proxy.core.batches.storage import ObjectStore
from proxy.core.catalogue import Engine
from proxy.core.endpoints import ROUTE_USAGE_TYPES
from proxy.core.money import PICO_PER_EURO
from proxy.core.usage import TariffClass, UsageType
from proxy.settings.loader import FILES, load_settings
from proxy.settings.mistakes import SettingsError
from proxy.settings.types import ProxySettings
from tests.settings.support import NOW_MS, ROOT, edit, load, mistakes, sound_folder

STANDARD, BATCH = TariffClass.STANDARD, TariffClass.BATCH


@pytest.fixture(scope="module")
def shipped():
    return load_settings(ROOT / "config", {}, now_ms=NOW_MS)


def test_the_files_that_come_with_it_are_all_read(shipped):
    assert {path.name for path in (ROOT / "config").iterdir() if path.suffix == ".yaml"} == set(FILES)
    assert set(shipped.upstreams) == {"cluster"}


def test_the_shipped_proxy_yaml_holds_the_defaults(shipped):
    assert shipped.proxy == ProxySettings()


@pytest.mark.parametrize(
    ("tier_id", "credit", "month", "hour", "day"),
    [
        ("tier1", 200, 1_000, 150_000, 3_600_000),
        ("tier2", 500, 3_000, 300_000, 7_200_000),
        ("tier3", 1_000, 5_000, 450_000, 10_800_000),
        ("tier4", 4_000, 10_000, 600_000, 14_400_000),
    ],
)
def test_the_shipped_tiers_are_the_documented_ones(shipped, tier_id, credit, month, hour, day):
    tier = shipped.tiers[tier_id]
    assert (tier.purchase_credit_pico, tier.monthly_limit_pico) == (credit * PICO_PER_EURO, month * PICO_PER_EURO)
    assert (tier.output_tokens_hour, tier.output_tokens_day) == (hour, day)
    assert (tier.requests, tier.requests_window_s) == (1000, 60)


def test_monthly_billing_has_no_limit_but_requests(shipped):
    tier = shipped.tiers["monthly"]
    assert (tier.purchase_credit_pico, tier.monthly_limit_pico) == (None, None)
    assert (tier.output_tokens_hour, tier.output_tokens_day) == (None, None)
    assert tier.requests == 1000
    assert tier.batch_enqueued_tokens is None


def test_the_shipped_tiers_have_an_allowance_for_batches_in_the_proportion_of_their_windows(shipped):
    tokens = {tier_id: tier.batch_enqueued_tokens for tier_id, tier in shipped.tiers.items() if tier_id != "monthly"}
    assert tokens == {f"tier{place}": place * 200_000_000 for place in (1, 2, 3, 4)}


def test_a_tier_that_says_nothing_of_batches_has_a_limit(tmp_path: Path):
    folder = sound_folder(tmp_path)
    assert load(folder).tiers["tier1"].batch_enqueued_tokens == 200_000_000
    with (folder / "tiers.yaml").open("a") as file:
        file.write("    batch_enqueued_tokens: 0\n")
    assert load(folder).tiers["tier1"].batch_enqueued_tokens == 0


def test_the_shipped_prices_are_the_documented_ones(shipped):
    (version,) = shipped.prices.versions
    standard = {kind: version.unit_price_pico("any", kind, STANDARD) for kind in UsageType}
    assert standard == {
        UsageType.INPUT: 1_800_000,
        UsageType.CACHED_INPUT: 1_800_000,
        UsageType.OUTPUT: 8_000_000,
        UsageType.REASONING: 8_000_000,
        UsageType.RERANK: 4_000_000,
        UsageType.AUDIO_MINUTES: PICO_PER_EURO // 100,
    }
    batch = {kind: price for (kind, tariff), price in version.unit_prices_pico.items() if tariff is BATCH}
    tokens = (UsageType.INPUT, UsageType.CACHED_INPUT, UsageType.OUTPUT, UsageType.REASONING)
    assert batch == {kind: standard[kind] // 2 for kind in tokens}
    assert version.unit_price_pico("any", UsageType.RERANK, BATCH) == standard[UsageType.RERANK]


def test_the_shipped_models_are_those_of_the_documentation(shipped):
    models = {model.id: model for model in shipped.models.values()}
    assert models["gpt-oss:120b"].max_model_len == 60000
    assert set(models) >= {
        "gemma3:27b", "granite-embedding:278m", "nvidia/llama-nemotron-rerank-vl-1b-v2", "DeepSeek-OCR",
    }  # fmt: skip
    assert {route for model in models.values() for route in model.endpoints} == set(ROUTE_USAGE_TYPES)


def test_a_model_is_found_by_each_of_its_names(tmp_path: Path):
    folder = sound_folder(tmp_path)
    edit(folder, "models.yaml", "    max_model_len", "    aliases: [chat, gpt-oss:120b]\n    max_model_len")
    models = load(folder).models
    assert list(models) == ["gpt-oss:120b", "chat"]
    assert models["chat"] is models["gpt-oss:120b"]
    assert models["chat"].upstream_model == "gpt-oss:120b"


def test_a_model_keeps_the_order_of_its_upstreams(tmp_path: Path):
    folder = sound_folder(tmp_path)
    spare = "  spare:\n    url: https://spare.example/prefix/v1/\n    engine: sglang\n"
    edit(folder, "models.yaml", "models:", f"{spare}models:")
    edit(folder, "models.yaml", "[cluster]", "[spare, cluster]")
    servers = load(folder).models["gpt-oss:120b"].upstreams
    assert [(server.name, server.url, server.engine) for server in servers] == [
        ("spare", "https://spare.example/prefix", Engine.SGLANG),
        ("cluster", "http://127.0.0.1:9900", Engine.VLLM),
    ]


def test_euros_keep_every_digit(tmp_path: Path):
    folder = sound_folder(tmp_path)
    edit(folder, "tiers.yaml", "monthly_limit: 1000", "monthly_limit: 8999999.999999999999")
    edit(folder, "prices.yaml", "rerank: 4.00", "rerank: 1234567.000001")
    settings = load(folder)
    assert settings.tiers["tier1"].monthly_limit_pico == 8_999_999_999_999_999_999
    price = settings.prices.versions[0].unit_price_pico("any", UsageType.RERANK, STANDARD)
    assert price == 1_234_567_000_001


def test_a_model_price_wins_only_where_it_is_written(tmp_path: Path):
    folder = sound_folder(tmp_path)
    with (folder / "prices.yaml").open("a") as file:
        file.write("    models: {gpt-oss:120b: {standard: {input: 0.15}}}\n")
    (version,) = load(folder).prices.versions
    assert version.unit_price_pico("gpt-oss:120b", UsageType.INPUT, STANDARD) == 150_000
    assert version.unit_price_pico("gpt-oss:120b", UsageType.INPUT, BATCH) == 900_000
    assert version.unit_price_pico("another", UsageType.INPUT, STANDARD) == 1_800_000


def test_a_version_that_begins_later_is_sound_when_one_is_in_force(tmp_path: Path):
    folder = sound_folder(tmp_path)
    text = (folder / "prices.yaml").read_text()
    later = text.partition("\n")[2].replace("2026-01", "2027-01", 1).replace("2026-01-01T", "2027-01-01T")
    (folder / "prices.yaml").write_text(text + later)
    book = load(folder).prices
    assert [version.id for version in book.versions] == ["2026-01", "2027-01"]
    assert book.version_at(NOW_MS).id == "2026-01"
    assert book.versions[1].effective_from_ms == 1_798_758_000_000


def test_an_override_may_outlive_its_model_in_versions_that_are_past(tmp_path: Path):
    folder = sound_folder(tmp_path)
    text = (folder / "prices.yaml").read_text() + "    models: {retired-model: {standard: {input: 0.15}}}\n"
    later = text.partition("\n")[2].replace('"2026-01"', '"2026-06"').replace("2026-01-01T", "2026-06-01T")
    (folder / "prices.yaml").write_text(text + later.replace("retired-model", "gpt-oss:120b"))
    assert len(load(folder).prices.versions) == 2


def test_an_empty_or_absent_proxy_yaml_means_the_defaults(tmp_path: Path):
    folder = sound_folder(tmp_path)
    (folder / "proxy.yaml").write_text("# nothing\n")
    assert load(folder).proxy == ProxySettings()
    (folder / "proxy.yaml").unlink()
    assert load(folder).proxy == ProxySettings()


def test_the_environment_wins_over_the_file(tmp_path: Path):
    folder = sound_folder(tmp_path)
    proxy = load(
        folder,
        TOLLGATE_LISTEN="0.0.0.0:80",
        TOLLGATE_ADMIN_LISTEN="[::1]:0",
        TOLLGATE_STATE_DIR="/srv/tollgate",
        TOLLGATE_REDIS_URL="rediss://:hunter2@cache:6379/0",
        TOLLGATE_DATABASE_URL="postgresql://tollgate:hunter2@db/tollgate",
    ).proxy
    assert (proxy.listen, proxy.admin_listen, proxy.state_dir) == ("0.0.0.0:80", "[::1]:0", "/srv/tollgate")
    assert proxy.redis_url == "rediss://:hunter2@cache:6379/0"
    assert proxy.database_url == "postgresql://tollgate:hunter2@db/tollgate"


def test_a_cluster_may_be_named_by_several_nodes_each_of_which_is_checked(tmp_path: Path):
    folder = sound_folder(tmp_path)
    url = "rediss://user:hunt,er2@one:7000,[::1]:7001,three/0"
    assert load(folder, TOLLGATE_REDIS_URL=url).proxy.redis_url == url
    for wrong in ("redis://one:7000,", "redis://one:7000,two:x", "redis://:hunter2@,two", "redis://one,two:99999"):
        with pytest.raises(SettingsError, match="a URL such as"):
            load(folder, TOLLGATE_REDIS_URL=wrong)


def test_both_listeners_may_let_the_system_choose_a_port(tmp_path: Path):
    proxy = load(sound_folder(tmp_path), TOLLGATE_LISTEN="127.0.0.1:0", TOLLGATE_ADMIN_LISTEN="127.0.0.1:0").proxy
    assert proxy.listen == proxy.admin_listen


def test_an_empty_variable_counts_as_absent(tmp_path: Path):
    folder = sound_folder(tmp_path)
    assert load(folder, TOLLGATE_LISTEN="", TOLLGATE_REDIS_URL=" ", TOLLGATE_UPSTREAM="") == load(folder)


def test_a_repr_of_the_settings_holds_no_secret(tmp_path: Path):
    settings = load(
        sound_folder(tmp_path),
        TOLLGATE_REDIS_URL="redis://:hunter2@cache",
        TOLLGATE_DATABASE_URL="postgresql://db/tollgate?password=hunter2",
        TOLLGATE_UPSTREAM="http://127.0.0.1:1",
        TOLLGATE_UPSTREAM_API_KEY="hunter2",
    )
    assert "redis://***@cache" in repr(settings)
    assert "hunter2" not in repr(settings)


def test_one_upstream_serves_every_model_and_keeps_each_engine(tmp_path: Path):
    folder = sound_folder(tmp_path)
    with (folder / "models.yaml").open("a") as file:
        file.write("  other:\n    endpoints: [/v1/rerank]\n    max_model_len: 1\n    upstreams: [ranker]\n")
    edit(folder, "models.yaml", "models:", "  ranker: {url: 'http://r', engine: tei, api_key_env: NOT_SET}\nmodels:")
    settings = load(folder, TOLLGATE_UPSTREAM="http://127.0.0.1:1234/v1/", TOLLGATE_UPSTREAM_API_KEY="sk-1")
    servers = {name: model.upstreams for name, model in settings.models.items()}
    assert {name: [(one.name, one.url, one.engine, one.api_key) for one in own] for name, own in servers.items()} == {
        "gpt-oss:120b": [("upstream", "http://127.0.0.1:1234", Engine.VLLM, "sk-1")],
        "other": [("upstream", "http://127.0.0.1:1234", Engine.TEI, "sk-1")],
    }
    assert list(settings.upstreams) == ["upstream"]


@pytest.mark.parametrize("setting", ["api_key_env: CLUSTER_KEY", "api_key_file: cluster.key"])
def test_a_key_comes_from_a_variable_or_a_file_beside_the_configuration(tmp_path: Path, setting: str):
    folder = sound_folder(tmp_path)
    (folder / "cluster.key").write_text("sk-1\n")
    edit(folder, "models.yaml", "9900\n", f"9900\n    {setting}\n")
    assert load(folder, CLUSTER_KEY="sk-1").upstreams["cluster"].api_key == "sk-1"


def test_a_stores_url_may_come_from_a_file(tmp_path: Path):
    folder = sound_folder(tmp_path)
    (folder / "redis.url").write_text("redis://:hunter2@cache:6379/0\n")
    (folder / "proxy.yaml").write_text("redis_url_file: redis.url\n")
    assert load(folder).proxy.redis_url == "redis://:hunter2@cache:6379/0"
    from_environment = load(folder, TOLLGATE_REDIS_URL_FILE=str(folder / "redis.url")).proxy
    assert from_environment.redis_url == "redis://:hunter2@cache:6379/0"
    assert load(folder, TOLLGATE_REDIS_URL="redis://other").proxy.redis_url == "redis://other"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty or too large"), (b"x" * 65_537, "is empty or too large"), (b"\xff", "is no UTF-8 text")],
)
def test_a_file_without_a_sound_secret_is_a_mistake(tmp_path: Path, content: bytes, reason: str):
    folder = sound_folder(tmp_path)
    (folder / "key").write_bytes(content)
    (folder / "proxy.yaml").write_text("redis_url_file: key\n")
    assert mistakes(folder) == [f"proxy.yaml:1: redis_url_file: the file that it names {reason}"]


def test_a_user_name_without_a_password_may_stand_in_the_file(tmp_path: Path):
    folder = sound_folder(tmp_path)
    (folder / "proxy.yaml").write_text("database_url: postgresql://tollgate@db/tollgate\n")
    assert load(folder).proxy.database_url == "postgresql://tollgate@db/tollgate"


def test_tls_files_are_looked_for_beside_the_configuration(tmp_path: Path):
    folder = sound_folder(tmp_path)
    (folder / "a.pem").touch()
    (folder / "b.pem").touch()
    (folder / "proxy.yaml").write_text("tls_certificate: a.pem\ntls_key: b.pem\n")
    proxy = load(folder).proxy
    assert (proxy.tls_certificate, proxy.tls_key) == (str(folder / "a.pem"), str(folder / "b.pem"))


def test_files_are_kept_in_a_folder_unless_an_object_store_is_named(tmp_path: Path):
    folder = sound_folder(tmp_path)
    assert load(folder, TOLLGATE_S3_ACCESS_KEY_ID="id", TOLLGATE_S3_SECRET_ACCESS_KEY="x").object_store is None
    (folder / "secret").write_text("hunter2\n")
    (folder / "id").write_text("AKIA\n")
    (folder / "proxy.yaml").write_text(
        "batch:\n  store: s3://tollgate/of/batches\n  s3_endpoint: https://s3.example:9000/\n  s3_region: fr-1\n"
        "  s3_access_key_id_file: id\n  s3_secret_access_key_file: secret\n"
    )
    store = ObjectStore("tollgate", "of/batches", "https://s3.example:9000", "fr-1", "AKIA", "hunter2")
    settings = load(folder)
    assert settings.object_store == store
    assert "hunter2" not in repr(settings)
    assert "AKIA" not in repr(settings)
    won = load(folder, TOLLGATE_S3_ACCESS_KEY_ID="BKIA", TOLLGATE_S3_SECRET_ACCESS_KEY_FILE=str(folder / "id"))
    assert won.object_store == replace(store, access_key_id="BKIA", secret_access_key="AKIA")


def test_a_credential_of_the_object_store_that_cannot_be_sent_is_a_mistake_where_it_was_given(tmp_path: Path):
    folder = sound_folder(tmp_path)
    (folder / "secret").write_text("hunter 2\n")
    (folder / "proxy.yaml").write_text("batch:\n  store: s3://tollgate\n  s3_secret_access_key_file: secret\n")
    told = "the key holds characters that cannot be sent in a header"
    assert mistakes(folder, TOLLGATE_S3_ACCESS_KEY_ID="AKIA") == [
        f"proxy.yaml:3: batch.s3_secret_access_key_file: {told}"
    ]
    given = {"TOLLGATE_S3_ACCESS_KEY_ID": "hunter 2", "TOLLGATE_S3_SECRET_ACCESS_KEY_FILE": str(folder / "none")}
    missing = "the file that it names cannot be read: No such file or directory"
    assert mistakes(folder, **given) == [
        f"environment: TOLLGATE_S3_ACCESS_KEY_ID: {told}",
        f"environment: TOLLGATE_S3_SECRET_ACCESS_KEY_FILE: {missing}",
    ]
