"""The exposition: metrics as text, of one worker and of several.

What belongs here: its content type (Prometheus text exposition 0.0.4) and the merging of texts that workers
wrote. What does not: writing one (families.py).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from proxy.telemetry.catalogue import Merge, merge_of

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_COMBINE: Final[dict[Merge, Callable[[float, float], float]]] = {
    Merge.SUM: lambda one, other: one + other,
    Merge.LARGEST: max,
    Merge.SMALLEST: min,
}


class _Family:
    """A family while texts are merged: its heading, and values by everything that stands before them."""

    __slots__ = ("combine", "heading", "samples")

    def __init__(self, heading: str, name: str) -> None:
        self.heading = heading
        self.combine = _COMBINE[merge_of(name)]
        self.samples: dict[str, float] = {}

    def add(self, sample: str, value: float) -> None:
        known = self.samples.get(sample)
        self.samples[sample] = value if known is None else self.combine(known, value)


def merge(expositions: Sequence[bytes]) -> bytes:
    """Return one text for several workers' texts.

    Counters, histograms and most gauges are summed; ages, lags and flags are combined as the catalogue says. A
    sample that only some workers have is taken from those that have it.

    Args:
        expositions: what ``Metrics.render`` returned in each worker. All workers run the same version, so a
            sample is the same text in each.
    """
    families: dict[str, _Family] = {}
    for exposition in expositions:
        _merge_into(families, exposition.decode().split("\n"))
    return "".join(_written(families.values())).encode()


def _merge_into(families: dict[str, _Family], lines: Iterable[str]) -> None:
    family: _Family | None = None
    heading = ""
    for line in lines:
        if line.startswith("# HELP "):
            heading = line
        elif line.startswith("# TYPE "):
            name = line.split(" ", 3)[2]
            family = families.get(name)
            if family is None:
                family = families[name] = _Family(f"{heading}\n{line}\n", name)
        elif line and family is not None:
            sample, _, value = line.rpartition(" ")
            family.add(sample, float(value))


def _written(families: Iterable[_Family]) -> Iterable[str]:
    for family in families:
        yield family.heading
        for sample, value in family.samples.items():
            yield f"{sample} {value!r}\n"
