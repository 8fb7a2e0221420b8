"""Forms: texts of the configuration that mean something (an amount, an instant, an address).

What belongs here: pure functions from the text as written to the value, by the name that
``Meta(extra={"form": …})`` gives in types.py and files.py. What does not: plain numbers and texts
(walker.py).

Every parser raises ValueError with a message that completes "expected …" and holds no part of the text.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import SplitResult, urlsplit

from proxy.core.money import PICO_PER_EURO, pico_from_euros, unit_price_pico_from_euros_per_million
from proxy.settings import identifiers

EUROS_MAX: Final = 9_000_000
"""Largest amount: in nano-euros it must stay below 2**53, where the limiter's store stops being exact."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2})?(Z|z|[+-]\d{2}:\d{2})")
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_LISTEN: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_SERIES: Final = re.compile(r"[A-Z0-9]{1,8}")
_JOURNAL: Final = re.compile(r"[A-Z0-9]{1,8}")
_ACCOUNT_NUMBER: Final = re.compile(r"[0-9]{3}[0-9A-Z]{0,17}")
_PHONE: Final = re.compile(r"\+?[0-9][0-9 ().-]{3,28}[0-9]")
_OBJECT_STORE: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,8}")
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LINE_CHARS_MAX: Final = 200
_PORT_MAX: Final = 65535
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def euros(text: str) -> int:
    """Return pico-euros for an amount in euros, exactly."""
    try:
        amount = pico_from_euros(text)
    except ValueError as exc:
        raise ValueError("an amount of euros such as 1000 or 12.50") from exc
    if not 0 <= amount <= EUROS_MAX * PICO_PER_EURO:
        raise ValueError(f"an amount between 0 and {EUROS_MAX} euros")
    return amount


def euros_per_million(text: str) -> int:
    """Return pico-euros per unit for a price in euros per million units, exactly."""
    try:
        price = unit_price_pico_from_euros_per_million(text)
    except ValueError as exc:
        raise ValueError("a price in euros per million, such as 1.80, of at most 6 decimals") from exc
    if not 0 <= price <= EUROS_MAX * PICO_PER_EURO:
        raise ValueError("a price that is not negative")
    return price


def instant(text: str) -> int:
    """Return Unix milliseconds for a date and time of day with its offset from UTC."""
    expected = "a date and time with its offset from UTC such as 2026-01-01T00:00:00+01:00"
    if _INSTANT.fullmatch(text) is None:
        raise ValueError(expected)
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as exc:
        raise ValueError(expected) from exc
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def listen(text: str) -> str:
    """Check ``host:port`` (IPv6 in brackets; port 0 lets the system choose)."""
    match = _LISTEN.fullmatch(text)
    if match is None:
        raise ValueError("host:port such as 127.0.0.1:8080 or [::1]:8080")
    if int(match.group(2)) > _PORT_MAX:
        raise ValueError(f"a port of at most {_PORT_MAX}")
    return text


def base_url(text: str) -> str:
    """Return an upstream's base URL without a closing slash or ``/v1`` (routes bring their own)."""
    parts = _split_url(text, ("http", "https"), "a URL such as http://10.0.0.5:8000")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL without user and password (a key has a setting of its own)")
    if parts.query or parts.fragment:
        raise ValueError("a URL without query and fragment")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def webhook_url(text: str) -> str:
    """Check the URL of a receiver of events; a query may be a part of it."""
    parts = _split_url(text, ("http", "https"), "a URL such as https://billing.example/tollgate")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("a URL without user, password and fragment")
    return text


def endpoint(text: str) -> str:
    """Return the URL of an object store without a closing slash."""
    parts = _split_url(text, ("http", "https"), "a URL such as https://s3.example:9000")
    if text.rstrip("/") != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        raise ValueError("a URL of scheme, host and port alone")
    return f"{parts.scheme}://{parts.netloc}"


def website(text: str) -> str:
    """Check the address of a company's pages."""
    expected = "an address such as https://company.example"
    parts = _split_url(text, ("http", "https"), expected)
    if parts.username is not None or parts.password is not None:
        raise ValueError(expected)
    return text


def line(text: str) -> str:
    """Check a text that is printed as it is: one line, with nothing around it."""
    if not text or not text.isprintable() or text != text.strip() or len(text) > _LINE_CHARS_MAX:
        raise ValueError(f"a text of one line and at most {_LINE_CHARS_MAX} characters")
    return text


def redis_url(text: str) -> str:
    """Check the URL of a Redis or Valkey server, or of several nodes of one cluster, separated by commas."""
    scheme, mark, rest = text.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, hosts = authority.rpartition("@")
    for host in hosts.split(","):
        one = f"{scheme}{mark}{login}{at}{host}{rest[len(authority) :]}"
        _split_url(one, ("redis", "rediss"), "a URL such as redis://127.0.0.1:6379/0 (rediss:// for TLS)")
    return text


def database_url(text: str) -> str:
    """Check the URL of the ledger's database."""
    if text.startswith("sqlite:///") and len(text) > len("sqlite:///"):
        return text
    expected = "a URL such as postgresql://tollgate@db.example/tollgate or sqlite:///path"
    _split_url(text, ("postgresql",), expected)
    return text


def origin(text: str) -> str:
    """Return an origin as a browser writes it (RFC 6454, section 6.2), or ``*`` for every one."""
    if text == "*":
        return text
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        raise ValueError("an origin such as https://app.example (no path, no closing slash), or '*'")
    scheme, host, port = match.groups()
    if port is None or int(port) == _DEFAULT_PORTS.get(scheme):  # which browsers leave out
        return f"{scheme}://{host}"
    if int(port) > _PORT_MAX:
        raise ValueError(f"a port of at most {_PORT_MAX}")
    return f"{scheme}://{host}:{int(port)}"


def holds_password(url: str) -> bool:
    """Whether a sound URL of a store holds a password, in front of its host or in its query."""
    parts = urlsplit(url)
    return bool(parts.password) or "password=" in parts.query.lower()


def _split_url(text: str, schemes: tuple[str, ...], expected: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        is_sound = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as exc:  # a port that is no number, an unclosed bracket
        raise ValueError(expected) from exc
    if not is_sound or not text.isascii() or re.search(r"\s", text):
        raise ValueError(expected)
    return parts


def _pattern(pattern: re.Pattern[str], expected: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise ValueError(expected)
        return text

    return check


FORMS: Final[dict[str, Callable[[str], object]]] = {
    "euros": euros,
    "euros_per_million": euros_per_million,
    "instant": instant,
    "listen": listen,
    "base_url": base_url,
    "webhook_url": webhook_url,
    "redis_url": redis_url,
    "database_url": database_url,
    "origin": origin,
    "label": _pattern(_LABEL, "a name of lower-case letters, digits, '_', '-' and '.'"),
    "model_name": _pattern(_MODEL_NAME, "a model name of letters, digits and . _ : / @ + -"),
    "variable": _pattern(_VARIABLE, "the name of an environment variable"),
    "object_store": _pattern(_OBJECT_STORE, "s3:// with a bucket and perhaps a prefix, such as s3://bucket/prefix"),
    "endpoint": endpoint,
    "region": _pattern(_REGION, "a region such as eu-west-3"),
    "line": line,
    "website": website,
    "phone": _pattern(_PHONE, "a telephone number such as +33 1 23 45 67 89"),
    "series": _pattern(_SERIES, "one to eight capitals and digits"),
    "journal": _pattern(_JOURNAL, "one to eight capitals and digits"),
    "account_number": _pattern(_ACCOUNT_NUMBER, "an account such as 411000, which begins with three digits"),
    "siren": identifiers.siren,
    "siret": identifiers.siret,
    "french_vat_number": identifiers.french_vat_number,
    "iban": identifiers.iban,
    "bic": identifiers.bic,
    "country": identifiers.country,
    "email": identifiers.email,
    "timezone": identifiers.timezone,
}
"""Every form by its name."""

FORM_NAMES: Final[dict[str, str]] = {
    "euros": "euros",
    "euros_per_million": "euros per million",
    "instant": "date and time",
    "listen": "host:port",
    "base_url": "URL",
    "webhook_url": "URL",
    "redis_url": "URL",
    "database_url": "URL",
    "origin": "origin",
    "label": "name",
    "model_name": "model name",
    "variable": "variable name",
    "object_store": "s3://bucket/prefix",
    "endpoint": "URL",
    "region": "region",
    "line": "text of one line",
    "website": "URL",
    "phone": "telephone number",
    "series": "capitals and digits",
    "journal": "capitals and digits",
    "account_number": "account number",
    "siren": "SIREN",
    "siret": "SIRET",
    "french_vat_number": "French VAT number",
    "iban": "IBAN",
    "bic": "BIC",
    "country": "country code",
    "email": "e-mail address",
    "timezone": "time zone",
}
"""How the reference calls each form."""
