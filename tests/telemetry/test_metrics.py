"""What is counted is what a scrape shows."""

import pytest

from proxy.core.usage import Source, TariffClass, UsageType
from proxy.telemetry import accounts
from proxy.telemetry.looplag import SAMPLE_INTERVAL_S, LoopLag, sample_loop_lag
from proxy.telemetry.metrics import Metrics
from tests.telemetry.scraped import CHAT, charge, samples, value

MODEL = "gpt-oss:120b"
STANDARD = TariffClass.STANDARD


@pytest.fixture
def metrics() -> Metrics:
    return Metrics([MODEL, "qwen3:8b"])


def end(metrics: Metrics, *, status: int = 200, model: str = MODEL, duration_s: float = 1.0, **times: float) -> None:
    metrics.call_began()
    metrics.call_ended(CHAT, model, "tier1", status, "finished", duration_s, **times)


def test_a_call_is_in_flight_until_it_ends(metrics):
    metrics.call_began()
    metrics.call_began()
    metrics.call_ended(CHAT, MODEL, "tier1", 200, "finished", 1.0)

    assert value(metrics, "tollgate_calls_in_flight") == 1


def test_calls_are_counted_by_everything_that_describes_them(metrics):
    end(metrics)
    end(metrics)
    end(metrics, status=429)

    assert (
        value(
            metrics, "tollgate_calls_total", endpoint=CHAT, model=MODEL, tier="tier1", status="200", outcome="finished"
        )
        == 2
    )
    assert value(metrics, "tollgate_calls_total", status="429") == 1


def test_a_duration_on_a_bound_belongs_to_its_bucket_and_one_above_to_the_next(metrics):
    end(metrics, duration_s=2.5)
    end(metrics, duration_s=2.5001)
    end(metrics, duration_s=10_000)

    def bucket(le: str) -> float | None:
        return value(metrics, "tollgate_call_duration_seconds_bucket", le=le)

    assert [bucket("1.0"), bucket("2.5"), bucket("5.0"), bucket("640.0"), bucket("+Inf")] == [0, 1, 2, 2, 3]
    assert value(metrics, "tollgate_call_duration_seconds_count") == 3
    assert value(metrics, "tollgate_call_duration_seconds_sum") == pytest.approx(10_005.0001)


def test_first_token_and_overhead_are_observed_only_where_there_was_one(metrics):
    end(metrics)
    end(metrics, first_byte_s=0.3, overhead_s=0.002)

    assert value(metrics, "tollgate_time_to_first_token_seconds_count", model=MODEL, tier="tier1") == 1
    assert value(metrics, "tollgate_proxy_overhead_seconds_bucket", endpoint=CHAT, le="0.002") == 1
    assert value(metrics, "tollgate_proxy_overhead_seconds_bucket", endpoint=CHAT, le="0.001") == 0


def test_a_charge_is_tokens_and_euros_by_type(metrics):
    metrics.charged(
        CHAT, MODEL, "tier1", charge((UsageType.INPUT, 15, 1_800_000), (UsageType.OUTPUT, 42, 8_000_000)), STANDARD
    )

    labels = {"class_": "standard", "model": MODEL, "tier": "tier1"}
    assert value(metrics, "tollgate_tokens_total", type="input", **labels) == 15
    assert value(metrics, "tollgate_tokens_total", type="output", **labels) == 42
    assert value(metrics, "tollgate_euros_total", type="input", **labels) == 0.000027
    assert value(metrics, "tollgate_euros_total", type="output", **labels) == 0.000336
    assert value(metrics, "tollgate_charged_calls_total", endpoint=CHAT, **labels) == 1


def test_euros_do_not_drift_however_many_small_charges_there_are(metrics):
    cheap = charge((UsageType.INPUT, 1, 100_000))
    for _ in range(100_000):
        metrics.charged(CHAT, MODEL, "tier1", cheap, STANDARD)

    assert value(metrics, "tollgate_euros_total", type="input") == 0.01  # adding floats gives 0.009999999999…


def test_the_price_classes_are_kept_apart(metrics):
    metrics.charged(CHAT, MODEL, "tier1", charge((UsageType.INPUT, 10, 1)), STANDARD)
    metrics.charged(CHAT, MODEL, "tier1", charge((UsageType.INPUT, 7, 1)), TariffClass.BATCH)

    assert value(metrics, "tollgate_tokens_total", class_="standard") == 10
    assert value(metrics, "tollgate_tokens_total", class_="batch") == 7


def test_audio_is_minutes_and_not_tokens(metrics):
    route = "/v1/audio/transcriptions"
    metrics.charged(route, MODEL, "tier1", charge((UsageType.AUDIO_MINUTES, 3, 10**10)), STANDARD)

    assert value(metrics, "tollgate_audio_minutes_total", model=MODEL) == 3
    assert value(metrics, "tollgate_euros_total", type="audio_minutes") == 0.03
    assert value(metrics, "tollgate_tokens_total", type="audio_minutes") is None


def test_estimates_are_counted_beside_the_whole(metrics):
    metrics.charged(CHAT, MODEL, "tier1", charge((UsageType.OUTPUT, 40, 1)), STANDARD)
    metrics.charged(CHAT, MODEL, "tier1", charge((UsageType.OUTPUT, 2, 1), source=Source.ESTIMATED), STANDARD)

    assert value(metrics, "tollgate_tokens_total", type="output") == 42
    assert value(metrics, "tollgate_estimated_tokens_total", type="output") == 2


def test_refusals_errors_and_failures_have_their_own_counters(metrics):
    metrics.refused("output_tokens_hour", "tier1")
    metrics.error(429, "rate_limit_error")
    metrics.upstream_failed("vllm-a", "timeout")
    metrics.upstream_failed("vllm-a", "timeout")

    assert value(metrics, "tollgate_refusals_total", limit="output_tokens_hour", tier="tier1") == 1
    assert value(metrics, "tollgate_errors_total", status="429", type="rate_limit_error") == 1
    assert value(metrics, "tollgate_upstream_failures_total", upstream="vllm-a", kind="timeout") == 2


def test_what_may_happen_is_shown_at_zero_before_it_does():
    metrics = Metrics(limits=["requests"], tiers=["tier1"], upstreams=["vllm-a"], failure_kinds=["timeout"])

    assert value(metrics, "tollgate_refusals_total", limit="requests", tier="tier1") == 0
    assert value(metrics, "tollgate_upstream_failures_total", upstream="vllm-a", kind="timeout") == 0


def test_label_values_survive_quotes_backslashes_and_new_lines():
    strange = 'a"b\\c\nd'
    metrics = Metrics([strange])
    end(metrics, model=strange)

    assert value(metrics, "tollgate_calls_total", model=strange) == 1


# Labels are bounded.


def test_names_that_clients_invent_make_no_series(metrics):
    def flood(names: range) -> int:
        for number in names:
            metrics.call_began()
            metrics.call_ended(f"/v1/{number}", f"model-{number}", "tier1", 404, "refused", 0.001, 0.001, 0.001)
            metrics.charged(f"/v1/{number}", f"model-{number}", "tier1", charge((UsageType.INPUT, 1, 1)), STANDARD)
        return len(samples(metrics.render()))

    assert flood(range(1)) == flood(range(1, 5_000))
    assert value(metrics, "tollgate_calls_total", model="unknown", endpoint="unknown", status="404") == 5_000


def test_nothing_is_kept_for_a_name_that_makes_no_series(metrics):
    for number in range(1_000):
        end(metrics, model=f"model-{number}")

    assert len(metrics._calls) == 1


def test_vocabularies_that_are_open_stop_learning(metrics):
    for number in range(1_000):
        metrics.refused(f"limit-{number}", f"tier-{number}")
        metrics.error(400, f"type-{number}")
        metrics.upstream_failed(f"upstream-{number}", "timeout")
        metrics.call_ended(CHAT, MODEL, "tier1", number, "finished", 0.1)

    by_name: dict[str, int] = {}
    for sample in samples(metrics.render()):
        by_name[sample.name] = by_name.get(sample.name, 0) + 1
    assert max(by_name.values()) < 200
    assert value(metrics, "tollgate_refusals_total", limit="other", tier="other") == 1_000 - 64


def test_only_the_accounts_that_spent_most_become_series():
    metrics = Metrics([MODEL], accounts_top=3)
    for number in range(500):
        metrics.charged(CHAT, MODEL, "tier1", charge((UsageType.INPUT, number, 10**9)), STANDARD, f"account-{number}")

    shown = {
        sample.labels["account"]: sample.value
        for sample in samples(metrics.render())
        if sample.name == "tollgate_account_euros_total"
    }
    assert shown == {"account-499": 0.499, "account-498": 0.498, "account-497": 0.497}


def test_with_a_list_only_the_listed_accounts_become_series():
    metrics = Metrics([MODEL], accounts=["acme"])
    for account in ("acme", "globex", "acme"):
        metrics.charged(CHAT, MODEL, "tier1", charge((UsageType.INPUT, 1, 10**12)), STANDARD, account)

    assert value(metrics, "tollgate_account_euros_total", account="acme") == 2
    assert value(metrics, "tollgate_account_euros_total", account="globex") is None


def test_the_sums_kept_for_accounts_are_bounded_and_the_largest_stay(monkeypatch):
    monkeypatch.setattr(accounts, "ACCOUNTS_KEPT_MAX", 100)
    sums = accounts.AccountSums(None, 1)
    sums.add("large", 10**15)
    for number in range(10_000):
        sums.add(f"account-{number}", 1)
    sums.add("large", 1)

    assert len(sums._pico) <= 100
    assert list(sums.shown()) == [("large", 10**15 + 1)]


def test_a_model_of_reloaded_settings_becomes_a_label(metrics):
    metrics.learn_models(["new:1b"])
    end(metrics, model="new:1b")

    assert value(metrics, "tollgate_calls_total", model="new:1b") == 1


# Watched values.


def test_a_watched_value_is_read_on_scrape(metrics):
    depth = [3]
    metrics.watch("tollgate_outbox_entries", "", lambda: depth[0])
    depth[0] = 5

    assert value(metrics, "tollgate_outbox_entries") == 5


def test_a_watched_total_is_a_counter_with_labels(metrics):
    metrics.watch("tollgate_settings_reloads_total", "", lambda: 4, {"result": "taken"})
    metrics.watch("tollgate_settings_reloads_total", "", lambda: 1, {"result": "refused"})

    assert value(metrics, "tollgate_settings_reloads_total", result="taken") == 4
    assert b"# TYPE tollgate_settings_reloads_total counter\n" in metrics.render()


def test_what_is_not_known_is_left_out_and_not_zero(metrics):
    metrics.watch("tollgate_outbox_oldest_age_seconds", "", lambda: None)

    assert value(metrics, "tollgate_outbox_oldest_age_seconds") is None


def test_a_reading_that_fails_hides_no_other_and_is_counted(metrics):
    metrics.watch("tollgate_outbox_entries", "", lambda: 1 / 0)
    metrics.watch("tollgate_limiter_degraded", "", lambda: True)
    metrics.watch_each("tollgate_upstream_suspect", "", "upstream", lambda: 1 / 0)

    text = metrics.render()
    assert value(text, "tollgate_outbox_entries") is None
    assert value(text, "tollgate_limiter_degraded") == 1
    assert value(text, "tollgate_watch_failures_total") == 2


def test_a_value_of_each_upstream_is_shown_up_to_a_bound(metrics):
    metrics.watch_each(
        "tollgate_upstream_in_flight_calls", "", "upstream", lambda: {str(number): number for number in range(1_000)}
    )

    shown = [sample for sample in samples(metrics.render()) if sample.name == "tollgate_upstream_in_flight_calls"]
    assert len(shown) == 256
    assert shown[7].value == 7


@pytest.mark.parametrize("second", [{"result": "taken"}, {"outcome": "ok"}, {}])
def test_a_name_is_watched_once_with_the_same_labels_and_never_with_others(metrics, second):
    metrics.watch("tollgate_settings_reloads_total", "", lambda: 1, {"result": "taken"})

    with pytest.raises(ValueError, match="watched already"):
        metrics.watch("tollgate_settings_reloads_total", "", lambda: 1, second)


def test_a_foreign_name_is_refused(metrics):
    with pytest.raises(ValueError, match="tollgate_"):
        metrics.watch("outbox_depth", "", lambda: 1)


def test_process_and_build_are_shown(metrics):
    text = metrics.render()

    assert (value(text, "process_resident_memory_bytes") or 0) > 1_000_000
    assert value(text, "tollgate_build_info") == 1


# Event-loop lag.


async def test_the_lag_is_what_a_sleep_took_too_long():
    now_s, lag = [100.0], LoopLag()
    oversleeps = iter([0.0, 0.25, 0.01])

    async def sleep(seconds: float) -> None:
        now_s[0] += seconds + next(oversleeps)

    # A StopIteration of the script cannot leave a coroutine: it ends the sampler as a RuntimeError.
    with pytest.raises(RuntimeError):
        await sample_loop_lag(lag, clock=lambda: now_s[0], sleep=sleep)

    assert lag.longest_s() == pytest.approx(0.25)
    for _ in range(int(30 / SAMPLE_INTERVAL_S)):
        lag.note(0.001)
    assert lag.longest_s() == 0.001
