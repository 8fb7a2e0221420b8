"""Counters of processes and of inference servers, as their metrics tell them, beside sums of entries."""

from collections.abc import Mapping, Sequence

import pytest

from proxy.core.catalogue import Engine, Model, Upstream
from proxy.core.entries import Charge, ChargeLine
from proxy.core.usage import Source as From
from proxy.core.usage import TariffClass, UsageType
from proxy.ledger.totals import Served
from proxy.ledger.totals import Source as ServedBy
from proxy.reconciling.engines import EngineCounts, Server, compare_engine, read_engine, servers_of
from proxy.reconciling.findings import Finding, Status, Threshold
from proxy.reconciling.metrics import Process, compare_metrics, read_process
from proxy.reconciling.scraping import Scrape, UnreachableError, metrics_url
from proxy.telemetry.metrics import Metrics, merge

EXACT = Threshold()
URL = "http://proxy:9090/metrics"
SINCE_MS = 1_000_000
TYPES = tuple(UsageType)


def charged(metrics: Metrics, usage_type: UsageType, amount: int, cost_pico: int) -> None:
    """Let a process count a call."""
    charge = Charge((ChargeLine(usage_type, amount, From.REPORTED, 0, cost_pico),), cost_pico, "v")
    metrics.charged("/v1/chat/completions", "m", "t", charge, TariffClass.STANDARD)


def served(calls: int = 1, *, model: str = "m", upstream: str = "gpu", **amounts: int) -> dict[ServedBy, Served]:
    """Return what the ledger says: units, pico-euros (``…_pico``) and estimates (``…_estimated``) by type."""
    quantities = [amounts.get(each.value, 0) for each in TYPES]
    costs = [amounts.get(f"{each.value}_pico", 0) for each in TYPES]
    estimated = [amounts.get(f"{each.value}_estimated", 0) for each in TYPES]
    unfinished, unbilled = amounts.get("unfinished", 0), amounts.get("unbilled", 0)
    sums = Served(calls, unfinished, unbilled, quantities, costs, estimated)
    return {ServedBy(upstream, model, TariffClass.STANDARD): sums}


def process_of(text: bytes, since_ms: int = SINCE_MS) -> Process:
    read = read_process(URL, Scrape(text.decode()))
    return Process(read.url, since_ms, read.restarts, read.numbers)


async def compared(
    before: Sequence[Process],
    entries: Mapping[int, Mapping[ServedBy, Served]],
    after: Sequence[Process] | None = None,
    *,
    all_given: bool = True,
) -> Finding:
    looks = [before, after or before]

    async def look() -> Sequence[Process]:
        return looks.pop(0)

    async def served_since(_: object) -> Mapping[int, Mapping[ServedBy, Served]]:
        return entries

    return await compare_metrics(look, served_since, EXACT, all_given=all_given)


def drifts(finding: Finding) -> dict[str, int]:
    return {each.unit.value: each.drift for each in finding.drifts}


async def test_a_process_and_its_entries_agree_to_the_pico_euro():
    metrics = Metrics(["m"], tiers=["t"])
    charged(metrics, UsageType.OUTPUT, 333, 2_664_000_001)
    charged(metrics, UsageType.AUDIO_MINUTES, 2, 20_000_000_000)
    entries = served(2, output=333, output_pico=2_664_000_001, audio_minutes=2, audio_minutes_pico=20_000_000_000)

    finding = await compared([process_of(metrics.render())], {SINCE_MS: entries})
    assert (finding.status, finding.rows) == (Status.AGREES, 5)

    off = served(2, output=333, output_pico=2_664_000_002, audio_minutes=2, audio_minutes_pico=20_000_000_000)
    assert drifts(await compared([process_of(metrics.render())], {SINCE_MS: off})) == {"euros": -1}


async def test_workers_that_are_shown_as_one_are_one():
    workers = [Metrics(["m"], tiers=["t"]) for _ in range(3)]
    for number, worker in enumerate(workers):
        charged(worker, UsageType.INPUT, 10 + number, 1_000_000_000_001)
    shown = merge([worker.render() for worker in workers])

    finding = await compared([process_of(shown)], {SINCE_MS: served(3, input=33, input_pico=3_000_000_000_003)})

    assert finding.status is Status.AGREES


async def test_what_the_ledger_lacks_is_drift_whoever_else_serves():
    metrics = Metrics(["m"], tiers=["t"])
    charged(metrics, UsageType.OUTPUT, 5, 40)

    finding = await compared([process_of(metrics.render())], {SINCE_MS: {}}, all_given=False)

    assert finding.status is Status.DRIFTS
    assert drifts(finding) == {"calls": 1, "units": 5, "euros": 40}


async def test_what_no_counter_has_is_drift_only_where_every_process_was_given():
    nothing = process_of(Metrics(["m"], tiers=["t"]).render())
    entries = {SINCE_MS: served(1, output=5, output_pico=40)}

    assert (await compared([nothing], entries, all_given=False)).status is Status.UNCLEAR
    assert drifts(await compared([nothing], entries)) == {"calls": -1, "units": -5, "euros": -40}


async def test_a_worker_that_began_again_took_its_counters_along():
    metrics = Metrics(["m"], tiers=["t"])
    metrics.watch("tollgate_worker_restarts_total", "", lambda: 1)

    finding = await compared([process_of(metrics.render())], {SINCE_MS: served(1, output=5, output_pico=40)})

    assert finding.status is Status.UNCLEAR


async def test_what_is_settled_while_it_is_asked_is_no_drift():
    metrics = Metrics(["m"], tiers=["t"])
    charged(metrics, UsageType.OUTPUT, 5, 40)
    before = process_of(metrics.render())
    charged(metrics, UsageType.OUTPUT, 7, 56)
    after = process_of(metrics.render())

    for known in (served(1, output=5, output_pico=40), served(2, output=12, output_pico=96)):
        assert (await compared([before], {SINCE_MS: known}, [after])).status is Status.AGREES
    more = served(3, output=13, output_pico=104)
    assert drifts(await compared([before], {SINCE_MS: more}, [after])) == {"calls": -1, "units": -1, "euros": -8}


async def test_of_several_processes_the_entries_of_both_instants_are_the_bounds():
    one, other = Metrics(["m"], tiers=["t"]), Metrics(["m"], tiers=["t"])
    charged(one, UsageType.OUTPUT, 5, 0)
    charged(other, UsageType.OUTPUT, 2, 0)
    processes = [process_of(one.render()), process_of(other.render(), SINCE_MS + 500)]

    within = {SINCE_MS: served(3, output=8), SINCE_MS + 500: served(1, output=4)}
    assert (await compared(processes, within)).status is Status.AGREES
    above = {SINCE_MS: served(1, output=6), SINCE_MS + 500: served(1, output=4)}
    assert drifts(await compared(processes, above)) == {"calls": 1, "units": 1}


async def test_a_process_that_begins_again_meanwhile_says_nothing():
    metrics = Metrics(["m"], tiers=["t"])
    charged(metrics, UsageType.OUTPUT, 5, 0)
    text = metrics.render()

    finding = await compared([process_of(text)], {SINCE_MS: {}}, [process_of(text, SINCE_MS + 1)])

    assert finding.status is Status.NOT_COMPARED


def test_metrics_of_something_else_are_not_taken_for_a_process():
    with pytest.raises(UnreachableError, match="since when"):
        read_process(URL, Scrape("up 1\n"))


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("http://proxy:9090", "http://proxy:9090/metrics"),
        ("https://proxy/", "https://proxy/metrics"),
        ("http://proxy:9090/own/metrics", "http://proxy:9090/own/metrics"),
    ],
)
def test_a_url_without_a_path_means_metrics(written: str, asked: str):
    assert metrics_url(written) == asked


# Engines

VLLM = """
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7954e+09
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="served"} 0.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="served"} 100.0
vllm:prompt_tokens_total{engine="1",model_name="served"} 20.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="served"} 1000.0
vllm:generation_tokens_total{engine="1",model_name="served"} 50.0
"""
SERVER = Server("http://gpu:8000", Engine.VLLM, frozenset({"gpu"}), {"m": "served"}, frozenset())


def engine(prompt: int, generated: int, running: int = 0, label: str = "served") -> EngineCounts:
    return EngineCounts(SINCE_MS, running, {"prompt": {label: prompt}, "generation": {label: generated}})


async def held(
    before: EngineCounts,
    entries: Mapping[ServedBy, Served],
    after: EngineCounts | None = None,
    *,
    server: Server = SERVER,
    tolerance_percent: int = 0,
) -> Finding:
    looks = [before, after or before]

    async def ask() -> EngineCounts:
        return looks.pop(0)

    async def served_since(_: object) -> Mapping[int, Mapping[ServedBy, Served]]:
        return {SINCE_MS: entries}

    return await compare_engine(server, ask, served_since, EXACT, tolerance_percent)


def test_vllm_s_counters_are_read_over_all_its_engines():
    counts = read_engine(SERVER.url, Engine.VLLM, Scrape(VLLM))

    assert (counts.since_ms, counts.running) == (1_795_400_000_000, 0)
    assert counts.tokens == {"prompt": {"served": 120}, "generation": {"served": 1050}}


def test_where_the_process_does_not_say_since_when_the_counters_do():
    created = VLLM.replace("process_start_time_seconds", "vllm:prompt_tokens_created")

    assert read_engine(SERVER.url, Engine.VLLM, Scrape(created)).since_ms == 1_795_400_000_000
    with pytest.raises(UnreachableError, match="since when"):
        read_engine(SERVER.url, Engine.VLLM, Scrape(VLLM.replace("process_start_time_seconds", "other")))


def test_sglang_s_counters_have_names_of_their_own():
    text = VLLM.replace("vllm:num_requests_running", "sglang:num_running_reqs").replace("vllm:", "sglang:")

    assert read_engine(SERVER.url, Engine.SGLANG, Scrape(text)).tokens["prompt"] == {"served": 120}
    with pytest.raises(UnreachableError, match="sglang:prompt_tokens_total"):
        read_engine(SERVER.url, Engine.SGLANG, Scrape(VLLM))


async def test_a_server_and_its_entries_agree_to_the_token():
    entries = served(3, input=90, cached_input=30, output=1000, reasoning=50)

    assert (await held(engine(120, 1050), entries)).status is Status.AGREES


@pytest.mark.parametrize(("prompt", "generated", "kind"), [(119, 1050, "prompt"), (120, 1049, "generation")])
async def test_more_charged_than_counted_is_drift_whatever_the_tolerance(prompt: int, generated: int, kind: str):
    entries = served(3, input=120, output=1050)

    finding = await held(engine(prompt, generated), entries, tolerance_percent=50)

    assert [(each.subject.usage_type, each.drift) for each in finding.drifts] == [(kind, -1)]


async def test_more_charged_by_estimate_is_unclear():
    entries = served(3, input=120, output=1050, output_estimated=20)

    assert (await held(engine(120, 1040), entries)).status is Status.UNCLEAR
    assert (await held(engine(120, 1029), entries)).status is Status.DRIFTS


async def test_more_generated_than_charged_is_drift_beyond_what_streams_that_were_left_explain():
    assert (await held(engine(120, 1051), served(3, input=120, output=1050))).status is Status.DRIFTS
    left = served(3, input=120, output=1050, unfinished=1)
    assert (await held(engine(120, 1050 + 64), left)).status is Status.AGREES
    assert (await held(engine(120, 1050 + 65), left)).status is Status.DRIFTS
    assert (
        await held(engine(120, 1060), served(3, input=120, output=1050), tolerance_percent=1)
    ).status is Status.AGREES


async def test_more_is_unclear_while_calls_run_where_upstreams_failed_and_of_prompts():
    entries = served(3, input=120, output=1050)
    assert (await held(engine(120, 2000, running=1), entries)).status is Status.UNCLEAR
    failed = served(3, input=120, output=1050, unbilled=1, unfinished=1)
    assert (await held(engine(120, 2000), failed)).status is Status.UNCLEAR
    finding = await held(engine(240, 1050), entries)
    assert finding.status is Status.UNCLEAR
    assert "several choices" in finding.unclear[0].why


async def test_more_is_unclear_where_lines_of_batches_ran_which_give_their_place_up():
    calls = served(3, input=120, output=1050)
    (standard,) = calls
    line = ServedBy(standard.upstream, standard.model, TariffClass.BATCH)
    entries = {**calls, line: served(1, output=100)[standard]}
    assert (await held(engine(120, 1150), entries)).status is Status.AGREES
    finding = await held(engine(120, 1151), entries)
    assert finding.status is Status.UNCLEAR
    assert "run again" in finding.unclear[0].why
    assert (await held(engine(120, 1149), entries)).status is Status.DRIFTS
    elsewhere = {**calls, ServedBy("elsewhere", "m", TariffClass.BATCH): served(1, output=100)[standard]}
    assert (await held(engine(120, 1051), elsewhere)).status is Status.DRIFTS


async def test_entries_of_other_servers_are_not_counted_and_audio_is_not_compared():
    others = served(3, input=120, output=1050, upstream="elsewhere")
    assert (await held(engine(0, 0), others)).status is Status.AGREES

    hearing = Server(SERVER.url, Engine.VLLM, SERVER.upstreams, {"m": "served"}, frozenset({"served"}))
    finding = await held(engine(500, 500), served(1, audio_minutes=3), server=hearing)
    assert (finding.status, finding.rows) == (Status.AGREES, 0)


def test_upstreams_with_one_url_are_one_server():
    upstreams = [Upstream(name, "http://gpu:8000", Engine.VLLM) for name in ("a", "b")]
    upstreams.append(Upstream("c", "http://tei", Engine.TEI))
    models = [
        Model("m", ("/v1/chat/completions",), 1000, (upstreams[0],), "served-m"),
        Model("w", ("/v1/audio/transcriptions",), 1000, (upstreams[1],), "served-w"),
    ]

    gpu, tei = servers_of(upstreams, models)

    assert (gpu.upstreams, gpu.labels) == (frozenset({"a", "b"}), {"m": "served-m", "w": "served-w"})
    assert gpu.unheard == frozenset({"served-w"})
    assert tei.engine is Engine.TEI
