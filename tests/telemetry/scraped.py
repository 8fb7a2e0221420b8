"""Reads a scrape the way Prometheus does, with prometheus_client's own parser."""

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from proxy.core.entries import Charge, ChargeLine
from proxy.core.usage import Source, UsageType
from proxy.telemetry.metrics import Metrics

CHAT = "/v1/chat/completions"


def samples(text: bytes) -> list[Sample]:
    """Every sample of an exposition."""
    return [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]


def value(source: Metrics | bytes, name: str, **labels: str) -> float | None:
    """The value of the one sample with this name and these labels (``class_`` for ``class``); None: there is none."""
    wanted = {label.rstrip("_"): text for label, text in labels.items()}
    text = source.render() if isinstance(source, Metrics) else source
    found = [
        sample.value for sample in samples(text) if sample.name == name and wanted.items() <= sample.labels.items()
    ]
    assert len(found) <= 1, f"{name} with {wanted} names {len(found)} samples"
    return found[0] if found else None


def charge(*lines: tuple[UsageType, int, int], source: Source = Source.REPORTED) -> Charge:
    """A charge of (type, amount, pico-euros a unit)."""
    made = tuple(ChargeLine(kind, amount, source, unit, amount * unit) for kind, amount, unit in lines)
    return Charge(made, sum(line.cost_pico for line in made), "2026-01")
