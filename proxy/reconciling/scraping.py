"""What a ``/metrics`` says at one moment: of our own processes, and of inference servers.

What belongs here: asking, and reading the text exposition format exactly. What does not: what the numbers mean
(metrics.py, engines.py).
"""

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Final
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout
from prometheus_client.parser import text_string_to_metric_families

ASK_S: Final = 10.0
"""For one answer."""
BYTES_MAX: Final = 64 * 1024 * 1024
_OK: Final = 200


class UnreachableError(Exception):
    """There is no answer, or none that can be read; the message says which."""


class Scrape:
    """Samples by name.

    Args:
        text: in the text exposition format.

    Raises:
        ValueError: it is not.
    """

    def __init__(self, text: str) -> None:
        self._samples: defaultdict[str, list[tuple[dict[str, str], Decimal]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                # The shortest decimal that names the float: what its writer meant, and exact from here on.
                self._samples[sample.name].append((dict(sample.labels), Decimal(repr(sample.value))))

    def has(self, name: str) -> bool:
        """Whether there is a sample of this name."""
        return bool(self._samples.get(name))

    def rows(self, name: str) -> Iterator[tuple[dict[str, str], Decimal]]:
        """Yield labels and value of every sample of a name."""
        yield from self._samples.get(name, ())

    def counted(self, name: str) -> Iterator[tuple[dict[str, str], int]]:
        """Yield the same of what is counted in whole units."""
        for labels, value in self.rows(name):
            yield labels, int(value)

    def least_ms(self, name: str) -> int | None:
        """Return the earliest of some times in Unix seconds, in milliseconds; None: there is none."""
        return min((int(value * 1000) for _, value in self.rows(name)), default=None)

    def total(self, name: str) -> int:
        """Return the sum of the samples of a name; 0 when there is none."""
        return sum(value for _, value in self.counted(name))


def metrics_url(url: str) -> str:
    """Return the URL to ask: ``/metrics`` where a URL has no path.

    Raises:
        ValueError: it is no http:// or https:// URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http:// or https:// URL: {url!r}")
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/metrics"


async def scrape(session: ClientSession, url: str) -> Scrape:
    """Ask once.

    Raises:
        UnreachableError: see there.
    """
    try:
        headers = {"Accept": "text/plain;version=0.0.4"}
        async with session.get(url, headers=headers, timeout=ClientTimeout(total=ASK_S)) as answer:
            if answer.status != _OK:
                raise UnreachableError(f"{url} answers {answer.status}")
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > BYTES_MAX:
                    raise UnreachableError(f"{url} answers more than {BYTES_MAX >> 20} MiB")
            return Scrape(body.decode())
    except (ClientError, OSError, TimeoutError) as exc:
        raise UnreachableError(f"{url} does not answer: {type(exc).__name__}") from exc
    except ValueError as exc:
        raise UnreachableError(f"{url} answers something else than metrics") from exc
