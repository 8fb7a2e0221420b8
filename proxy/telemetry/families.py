"""Families: counted values as lines of the text exposition format 0.0.4.

What belongs here: how one family is written. What does not: which families there are (metrics.py), merging
(exposition.py).

prometheus_client would write them too, at some 7 us a sample: 20 ms on the event loop, every scrape, for three thousand
series. Here what stands before a value is written once and kept, so that a scrape costs about a millisecond.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

from proxy.telemetry.catalogue import Described
from proxy.telemetry.histogram import Histogram

Labels = tuple[str, ...]
"""Label values, in the order of the family's label names."""


def heading(described: Described) -> str:
    """Return the HELP and TYPE lines of a family."""
    help_text = described.help.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {described.name} {help_text}\n# TYPE {described.name} {described.kind.value}\n"


def values(described: Described, readings: Iterable[tuple[Labels, float]]) -> Iterator[str]:
    """Write a counter or gauge family; one without readings is still announced.

    Args:
        described: its name, kind and label names.
        readings: (label values, value); an integer is written exactly.
    """
    yield heading(described)
    for labels, value in readings:
        yield f"{_sample(described.name, described.labels, labels)}{value!r}\n"


def histograms(described: Described, readings: Iterable[tuple[Labels, Histogram]]) -> Iterator[str]:
    """Write a histogram family: cumulative buckets, count and sum."""
    yield heading(described)
    name = described.name
    for labels, histogram in readings:
        counts = histogram.cumulative()
        prefixes = _buckets(name, described.labels, labels, histogram.bounds)
        for prefix, count in zip(prefixes, counts, strict=True):
            yield f"{prefix}{count}\n"
        yield f"{_sample(f'{name}_count', described.labels, labels)}{counts[-1]}\n"
        yield f"{_sample(f'{name}_sum', described.labels, labels)}{histogram.total!r}\n"


@lru_cache(maxsize=16_384)
def _sample(name: str, names: Labels, labels: Labels) -> str:
    """Return everything of a sample that stands before its value."""
    if not names:
        return f"{name} "
    return f"{name}{{{_pairs(names, labels)}}} "


@lru_cache(maxsize=4_096)
def _buckets(name: str, names: Labels, labels: Labels, bounds: tuple[float, ...]) -> tuple[str, ...]:
    """Return the same for every bucket of a histogram."""
    limits = (*(repr(float(bound)) for bound in bounds), "+Inf")
    return tuple(f"{name}_bucket{{{_pairs((*names, 'le'), (*labels, limit))}}} " for limit in limits)


def _pairs(names: Labels, labels: Labels) -> str:
    return ",".join(f'{name}="{_escaped(label)}"' for name, label in zip(names, labels, strict=True))


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
