"""Checks between settings: what no single value can tell.

What belongs here: one function a subject; each reports what it finds to the document that holds the setting.
What does not: types and forms (walker.py), and making the values that the proxy uses (loader.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Final

from proxy.core.batches.lines import BATCH_ENDPOINTS
from proxy.core.calls.priority import PRIORITY_SIGNS
from proxy.core.endpoints import ROUTE_USAGE_TYPES
from proxy.core.pricing import STANDARD_IN_BATCH, PriceBook, PriceVersion
from proxy.core.usage import TariffClass, UsageType
from proxy.settings.document import Document
from proxy.settings.files import (
    ModelEntry,
    ModelLimits,
    ModelsFile,
    PricesFile,
    PriceVersionEntry,
    Rates,
    TierEntry,
    TiersFile,
)
from proxy.settings.mistakes import KeyPath, did_you_mean, shown
from proxy.settings.seller_file import SellerFile
from proxy.settings.types import ProxySettings

_IN_BATCHES: Final = {kind for endpoint in BATCH_ENDPOINTS.values() for kind in endpoint.usage_types}
PRICED: Final[Mapping[TariffClass, tuple[UsageType, ...]]] = {
    TariffClass.STANDARD: tuple(UsageType),
    TariffClass.BATCH: tuple(kind for kind in UsageType if kind in _IN_BATCHES - STANDARD_IN_BATCH),
}
"""What every price version must price: everything, and of batches what their lines can use."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def check_proxy(document: Document, proxy: ProxySettings, folder: Path) -> None:
    """Check proxy.yaml: what must hold between its settings, and that the files that it names can be read."""
    limiter = proxy.limiter
    if limiter.heartbeat_s >= limiter.hold_ttl_s and document.is_sound(("limiter",)):
        message = f"must be shorter than hold_ttl_s ({limiter.hold_ttl_s})"
        document.add(("limiter", "heartbeat_s"), message, document.places.get(("limiter", "hold_ttl_s")))
    if "*" in proxy.cors_origins and len(proxy.cors_origins) > 1:
        document.add(("cors_origins",), "'*' is every origin: it stands alone")
    for given, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        path = getattr(proxy, given)
        if path is None:
            continue
        if getattr(proxy, other) is None:
            document.add((given,), f"needs {other} beside it")
        try:
            with (folder / path).open("rb"):
                pass
        except OSError as exc:
            document.add((given,), f"the file cannot be read: {exc.strerror}")


def check_listeners(document: Document, proxy: ProxySettings) -> None:
    """Check that the two listeners differ (the system chooses ports 0, so they do)."""
    if proxy.listen == proxy.admin_listen and not proxy.listen.endswith(":0"):
        document.add(("admin_listen",), f"the same address as listen: {proxy.listen}")


def check_tiers(document: Document, tiers: TiersFile) -> None:
    """Check tiers.yaml: what stands in shadow is a limit that there is."""
    for tier_id, tier in tiers.tiers.items():
        _check_shadow(document, ("tiers", tier_id), tier, tier.shadow)


def _check_shadow(
    document: Document, path: KeyPath, limits: TierEntry | ModelLimits, shadow: Sequence[StrEnum]
) -> None:
    """Report what is written twice, or is not limited (wrong items are not in the list)."""
    for place, (at, name) in enumerate(zip(document.kept.get((*path, "shadow"), ()), shadow, strict=False)):
        if name in shadow[:place]:
            document.add((*path, "shadow", at), f"{name.value!r} is written twice")
        elif getattr(limits, name) is None and document.is_sound((*path, name)):
            document.add((*path, "shadow", at), f"there is no limit {name.value!r} here to stand in shadow")


def check_models(document: Document, models: ModelsFile) -> None:
    """Check models.yaml: routes and upstreams exist, no name belongs to two models, engines can be told priorities."""
    known = document.children(("upstreams",))
    for name, upstream in models.upstreams.items():
        if upstream.priority_field and upstream.engine not in PRIORITY_SIGNS:
            message = f"{upstream.engine.value} takes no priority: {' and '.join(PRIORITY_SIGNS)} do"
            document.add(("upstreams", name, "priority_field"), message)
    owners = dict.fromkeys(document.children(("models",)), "")
    for model_id, model in models.models.items():
        _check_names(document, (model_id, "endpoints"), model.endpoints, ROUTE_USAGE_TYPES, "documented route")
        _check_shadow(document, ("models", model_id, "limits"), model.limits, model.limits.shadow)
        _check_names(document, (model_id, "upstreams"), model.upstreams, known, "upstream")
        for at, alias in _placed(document, (model_id, "aliases"), model.aliases):
            owner = owners.setdefault(alias, model_id) or alias
            if owner != model_id:
                document.add(("models", model_id, "aliases", at), f"{alias!r} already names the model {owner!r}")


def _placed(document: Document, where: tuple[str, str], values: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield a model's list with the position of each item in the file (wrong items are not in the list)."""
    return zip(document.kept.get(("models", *where), ()), values, strict=False)


def _check_names(
    document: Document,
    where: tuple[str, str],
    names: Sequence[str],
    known: Sequence[str] | Mapping[str, object],
    what: str,
) -> None:
    for at, name in _placed(document, where, names):
        if name not in known:
            message = f"no {what} is called {shown(name)!r}{did_you_mean(name, known)}"
            document.add(("models", *where, at), message)


def check_prices(document: Document, prices: PricesFile, models: Mapping[str, ModelEntry], now_ms: int) -> None:
    """Check prices.yaml: order, unique ids, a version in force, a price for everything, models that exist."""
    placed = list(zip(document.kept[("versions",)], prices.versions, strict=True))
    _check_order(document, placed)
    if document.is_sound(("versions",)) and placed and placed[0][1].effective_from > now_ms:
        since = instant_text(placed[0][1].effective_from)
        at = ("versions", placed[0][0], "effective_from")
        document.add(at, f"no price version is in force yet: the first begins at {since}")
    for index, version in placed:
        for tariff_class in TariffClass:
            _check_complete(document, index, version, tariff_class, models)
    for index, version in _in_force_or_later(placed, now_ms):
        for name in version.models:
            if name not in models:
                message = f"no model has this id{did_you_mean(name, models)}"
                document.add(("versions", index, "models", name), message)


def _check_order(document: Document, placed: Sequence[tuple[int, PriceVersionEntry]]) -> None:
    ids: dict[str, int] = {}
    for index, version in placed:
        first = ids.setdefault(version.id, index)
        if first != index:
            message = f"{version.id!r} is the id of versions[{first}]: an id is never used again"
            document.add(("versions", index, "id"), message)
    for (before, earlier), (index, later) in pairwise(placed):
        if later.effective_from <= earlier.effective_from:
            message = f"must be later than that of versions[{before}] ({instant_text(earlier.effective_from)})"
            document.add(("versions", index, "effective_from"), message)


def _check_complete(
    document: Document,
    index: int,
    version: PriceVersionEntry,
    tariff_class: TariffClass,
    models: Mapping[str, ModelEntry],
) -> None:
    path = ("versions", index, tariff_class.value)
    rates: Rates = getattr(version, tariff_class.value)
    for usage_type in PRICED[tariff_class]:
        if getattr(rates, usage_type.value) is None and document.is_sound((*path, usage_type.value)):
            need = _need(usage_type, models)
            document.add(path, f"no {tariff_class.value} price for {usage_type.value}{need}")


def _need(usage_type: UsageType, models: Mapping[str, ModelEntry]) -> str:
    """Return who needs the price, for the first model and route that do."""
    for model_id, model in models.items():
        for route in model.endpoints:
            if usage_type in ROUTE_USAGE_TYPES.get(route, ()):
                return f", which {route} of {model_id!r} needs"
    return ""


def _in_force_or_later(
    placed: Sequence[tuple[int, PriceVersionEntry]], now_ms: int
) -> Sequence[tuple[int, PriceVersionEntry]]:
    begun = [at for at, (_, version) in enumerate(placed) if version.effective_from <= now_ms]
    return placed[begun[-1] if begun else 0 :]


def check_append_only(document: Document, book: PriceBook, previous: PriceBook, now_ms: int) -> None:
    """Check that the versions which have been in force are still there, unchanged, and that new ones lie ahead."""
    present: dict[str, tuple[int, PriceVersion]] = {
        version.id: (index, version) for index, version in zip(document.kept[("versions",)], book.versions, strict=True)
    }
    for version in previous.versions:
        if version.effective_from_ms > now_ms:
            continue
        if version.id not in present:
            document.add(("versions",), f"{version.id!r} has been in force: it may not be removed")
        elif present[version.id][1] != version:
            message = f"{version.id!r} has been in force: it may not be changed, a new price is a new version"
            document.add(("versions", present[version.id][0]), message)
    known = {version.id for version in previous.versions}
    for index, version in present.values():
        if version.id not in known and version.effective_from_ms <= now_ms:
            message = "must lie ahead: calls since then have been charged by another version"
            document.add(("versions", index, "effective_from"), message)


def check_seller(document: Document, file: SellerFile) -> None:
    """Check seller.yaml: its identifiers are one company's, and no two series or accounts are the same."""
    seller = file.seller
    if not seller.siret.startswith(seller.siren):
        document.add(("seller", "siret"), f"must begin with the SIREN {seller.siren}")
    if not seller.vat_number.endswith(seller.siren):
        document.add(("seller", "vat_number"), f"must end with the SIREN {seller.siren}")
    _check_distinct(document, ("terms",), file.terms, ("invoice_series", "credit_note_series", "deposit_series"))
    bookkeeping = file.terms.bookkeeping
    _check_distinct(document, ("terms", "bookkeeping"), bookkeeping, ("customers", "advances", "sales", "vat"))


def _check_distinct(document: Document, path: KeyPath, settings: object, names: Sequence[str]) -> None:
    """Report a value that two settings have, at the one that is written (a default stands nowhere)."""
    owners: dict[str, str] = {}
    for name in names:
        value: str = getattr(settings, name)
        owner = owners.setdefault(value, name)
        if owner != name and document.is_sound((*path, name)) and document.is_sound((*path, owner)):
            later, earlier = (name, owner) if (*path, name) in document.places else (owner, name)
            document.add((*path, later), f"{value!r} is that of {earlier} too")


def instant_text(instant_ms: int) -> str:
    """Return an instant in UTC to the second, for a reader."""
    return (_EPOCH + timedelta(milliseconds=instant_ms)).isoformat(timespec="seconds")
