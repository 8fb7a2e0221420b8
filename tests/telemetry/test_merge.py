"""Several workers' texts become one."""

from prometheus_client.parser import text_string_to_metric_families

from proxy.core.usage import TariffClass, UsageType
from proxy.telemetry.metrics import Metrics, merge
from tests.telemetry.scraped import CHAT, charge, samples, value

MODEL = "gpt-oss:120b"


def worker(*durations_s: float, depth: float = 0, age_s: float = 0, ready: float = 1, model: str = MODEL) -> bytes:
    metrics = Metrics([MODEL, "qwen3:8b"])
    metrics.call_began()
    for duration_s in durations_s:
        metrics.call_began()
        metrics.call_ended(CHAT, model, "tier1", 200, "finished", duration_s)
        metrics.charged(CHAT, model, "tier1", charge((UsageType.INPUT, 10, 10**9)), TariffClass.STANDARD)
    metrics.watch("tollgate_outbox_entries", "", lambda: depth)
    metrics.watch("tollgate_outbox_oldest_age_seconds", "", lambda: age_s)
    metrics.watch("tollgate_ready", "", lambda: ready)
    return metrics.render()


def test_one_text_alone_keeps_every_sample():
    text = worker(0.2, 3.0, depth=7)

    assert samples(merge([text])) == samples(text)


def test_counters_histograms_and_flights_are_summed():
    merged = merge([worker(0.2, 3.0, depth=7), worker(0.2, depth=2)])

    assert value(merged, "tollgate_calls_total") == 3
    assert value(merged, "tollgate_calls_in_flight") == 2
    assert value(merged, "tollgate_call_duration_seconds_bucket", le="0.25") == 2
    assert value(merged, "tollgate_call_duration_seconds_bucket", le="+Inf") == 3
    assert value(merged, "tollgate_call_duration_seconds_count") == 3
    assert value(merged, "tollgate_tokens_total", type="input") == 30
    assert value(merged, "tollgate_outbox_entries") == 9


def test_the_oldest_age_counts_and_the_least_ready_worker():
    merged = merge([worker(age_s=3, ready=1), worker(age_s=11, ready=0), worker(age_s=5, ready=1)])

    assert value(merged, "tollgate_outbox_oldest_age_seconds") == 11
    assert value(merged, "tollgate_ready") == 0


def test_build_info_stays_one():
    assert value(merge([worker(), worker()]), "tollgate_build_info") == 1


def test_what_only_one_worker_has_seen_is_kept_with_its_family():
    merged = merge([worker(1.0), worker(1.0, model="qwen3:8b")])

    assert value(merged, "tollgate_calls_total", model=MODEL) == 1
    assert value(merged, "tollgate_calls_total", model="qwen3:8b") == 1
    families = [family.name for family in text_string_to_metric_families(merged.decode())]
    assert len(families) == len(set(families))


def test_merging_nothing_gives_nothing():
    assert merge([]) == b""
