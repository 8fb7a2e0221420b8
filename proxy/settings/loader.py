"""Loading: ``config/*.yaml`` and the environment become ``Settings``, or the list of every mistake.

What belongs here: the order of reading, and the steps from the files' shapes to the values that the proxy
uses. What does not: types (walker.py), checks between settings (checks.py), the variables (environment.py).
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from proxy.clock import unix_ms
from proxy.core.calls import Terms
from proxy.core.catalogue import Engine, Model, OwnLimits, Tier, Upstream
from proxy.core.limit_names import scope_of_model
from proxy.core.pricing import PriceBook, PriceVersion
from proxy.core.usage import TariffClass, UsageType
from proxy.core.webhooks import Webhook, parse_secret
from proxy.settings import checks
from proxy.settings.document import Document
from proxy.settings.environment import VARIABLES, Environment, checked_api_key, secret_from_file
from proxy.settings.files import ModelLimits, ModelsFile, PricesFile, Rates, TiersFile, UpstreamEntry
from proxy.settings.forms import holds_password
from proxy.settings.mistakes import Mistake, SettingsError
from proxy.settings.object_store import read_object_store
from proxy.settings.seller_file import SellerFile, invoicing_terms, seller_of
from proxy.settings.types import ProxySettings, Settings, WebhookSettings
from proxy.settings.vocabulary import cl100k_base
from proxy.settings.walker import read
from proxy.tokenizers import FILES_MAX, FileTokenizer, read_tokenizer

FILES: Final[Mapping[str, type[msgspec.Struct]]] = {
    "proxy.yaml": ProxySettings,
    "tiers.yaml": TiersFile,
    "prices.yaml": PricesFile,
    "models.yaml": ModelsFile,
    "seller.yaml": SellerFile,
}
"""Every file of the configuration and its shape."""

OPTIONAL: Final = frozenset({"proxy.yaml", "seller.yaml"})
"""Those that may be left out."""

ONE_UPSTREAM: Final = "upstream"
"""Name of the upstream that TOLLGATE_UPSTREAM makes."""

_NEAR: Final = 0.85  # likeness from which on a file's name counts as misspelt
T = TypeVar("T")


def load_settings(
    config_dir: Path,
    environ: Mapping[str, str],
    *,
    now_ms: int | None = None,
    previous: PriceBook | None = None,
    instead: Mapping[str, Path] | None = None,
) -> Settings:
    """Read and check the whole configuration.

    Args:
        config_dir: the folder of the files.
        environ: environment variables; those of ``environment.VARIABLES`` win over proxy.yaml.
        now_ms: Unix milliseconds, to tell which prices are in force; None: now.
        previous: the prices that were used until now: versions that have been in force must be unchanged.
        instead: files that are read in the place of some of the folder's, by its name for them.

    Raises:
        SettingsError: it holds mistakes; the error carries all of them.
    """
    return _Loading(config_dir, environ, unix_ms() if now_ms is None else now_ms, instead or {}).run(previous)


class _Loading:
    """One load: the documents being read, and what is known so far."""

    def __init__(self, config_dir: Path, environ: Mapping[str, str], now_ms: int, instead: Mapping[str, Path]) -> None:
        self._folder: Final = config_dir
        self._environment: Final = Environment(environ)
        self._now_ms: Final = now_ms
        self._tokenizer_files: Final[set[str]] = set()
        paths = {name: instead.get(name, config_dir / name) for name in FILES}
        self._documents: Final = {name: Document(path, str(path)) for name, path in paths.items()}

    def run(self, previous: PriceBook | None) -> Settings:
        if not self._folder.is_dir():
            raise SettingsError([Mistake(str(self._folder), None, "", "there is no such folder")])
        proxy = self._proxy()
        tiers = self._read("tiers.yaml", TiersFile) or TiersFile({})
        checks.check_tiers(self._documents["tiers.yaml"], tiers)
        prices = self._read("prices.yaml", PricesFile)
        models = self._read("models.yaml", ModelsFile) or ModelsFile({}, {})
        checks.check_models(self._documents["models.yaml"], models)
        book = PriceBook(())
        if prices is not None:
            document = self._documents["prices.yaml"]
            checks.check_prices(document, prices, models.models, self._now_ms)
            book = price_book(prices)
            if previous is not None and document.is_sound(("versions",)):
                checks.check_append_only(document, book, previous, self._now_ms)
        catalogue, upstreams = self._catalogue(models)
        webhook = self._webhook(proxy.webhooks)
        store = read_object_store(self._documents["proxy.yaml"], self._environment, proxy.batch, self._folder)
        sale = self._read("seller.yaml", SellerFile)
        if sale is not None:
            checks.check_seller(self._documents["seller.yaml"], sale)
        mistakes = [*self._environment.mistakes, *self._misnamed_files()]
        mistakes += [mistake for document in self._documents.values() for mistake in document.mistakes]
        if mistakes:
            raise SettingsError(mistakes)
        terms = Terms(catalogue, proxy.limiter.default_max_tokens, cl100k_base)
        settings = Settings(proxy, tiers_by_id(tiers), book, catalogue, upstreams, terms, webhook, object_store=store)
        if sale is None:
            return settings
        return msgspec.structs.replace(settings, seller=seller_of(sale), invoicing=invoicing_terms(sale))

    def _read(self, name: str, shape: type[T]) -> T | None:
        document = self._documents[name]
        node = document.compose(required=name not in OPTIONAL)
        return None if node is None else read(document, node, shape)

    def _misnamed_files(self) -> list[Mistake]:
        """Report files such as proxy.yml or tier.yaml, which would be overlooked in silence."""
        stems = {name.removesuffix(".yaml"): name for name in FILES}
        strays = [path for path in sorted(self._folder.iterdir()) if path.name not in FILES]
        return [
            Mistake(str(path), None, "", f"not a file that is read: its name is nearly {stems[near[0]]}")
            for path in strays
            if path.suffix in {".yaml", ".yml"} and (near := difflib.get_close_matches(path.stem, stems, 1, _NEAR))
        ]

    def _proxy(self) -> ProxySettings:
        """Read proxy.yaml, lay the environment over it, and make paths and secrets whole."""
        document = self._documents["proxy.yaml"]
        proxy = self._read("proxy.yaml", ProxySettings) or ProxySettings()
        checks.check_proxy(document, proxy, self._folder)
        changes: dict[str, str | None] = {
            name: str(self._folder / path)
            for name, path in (("tls_certificate", proxy.tls_certificate), ("tls_key", proxy.tls_key))
            if path is not None
        }
        for name in ("listen", "admin_listen", "state_dir"):
            value = self._environment.value(f"TOLLGATE_{name.upper()}")
            if value is not None:
                changes[name] = value
        for name in ("redis_url", "database_url"):
            changes[name] = self._environment.value_or_file(f"TOLLGATE_{name.upper()}") or self._store_url(proxy, name)
        proxy = msgspec.structs.replace(proxy, **changes)
        if not document.mistakes and not self._environment.mistakes:
            checks.check_listeners(document, proxy)
        return proxy

    def _store_url(self, proxy: ProxySettings, name: str) -> str | None:
        """Return a store's URL as proxy.yaml gives it: written there without a password, or in a file."""
        document = self._documents["proxy.yaml"]
        url: str | None = getattr(proxy, name)
        file: str | None = getattr(proxy, f"{name}_file")
        if url is not None and holds_password(url):
            variable = f"TOLLGATE_{name.upper()}"
            document.add((name,), f"a password is not written here: use {variable} or {name}_file")
        if file is None:
            return url
        if url is not None:
            document.add((f"{name}_file",), f"give one of {name} and {name}_file")
            return url
        try:
            return secret_from_file(self._folder / file, VARIABLES[f"TOLLGATE_{name.upper()}"].form)
        except ValueError as exc:
            document.add((f"{name}_file",), str(exc))
            return None

    def _webhook(self, webhooks: WebhookSettings) -> Webhook | None:
        """Return where events are sent, with the key that signs them: no receiver is told anything unsigned."""
        document = self._documents["proxy.yaml"]
        variable, setting = "TOLLGATE_WEBHOOK_SECRET", ("webhooks", "secret_file")
        secret = self._environment.value_or_file(variable)
        from_environment = secret is not None
        url = self._environment.value("TOLLGATE_WEBHOOK_URL") or webhooks.url
        try:
            if secret is None and webhooks.secret_file is not None:
                secret = secret_from_file(self._folder / webhooks.secret_file)
            key = None if secret is None else parse_secret(secret)
        except ValueError as exc:
            if from_environment:
                self._environment.add(variable, f"expected {exc}")
            else:
                document.add(setting, str(exc))
            return None
        if url is None:
            return None
        if key is None:
            document.add(("webhooks",), f"a receiver needs a key: give {variable} or secret_file")
            return None
        return Webhook(url, key, webhooks.timeout_s, webhooks.give_up_after_s * 1000)

    def _catalogue(self, models: ModelsFile) -> tuple[dict[str, Model], dict[str, Upstream]]:
        """Return the models by every name of theirs, and the upstreams by name."""
        one_key = self._one_api_key()
        one_url = self._environment.value("TOLLGATE_UPSTREAM")
        by_name: dict[str, Upstream] = {}
        if self._environment.raw("TOLLGATE_UPSTREAM") is None:
            by_name = {name: self._upstream(name, entry) for name, entry in models.upstreams.items()}
        catalogue: dict[str, Model] = {}
        for model_id, entry in models.models.items():
            servers = tuple(by_name[name] for name in entry.upstreams if name in by_name)
            if one_url is not None:
                first = models.upstreams.get(entry.upstreams[0]) if entry.upstreams else None
                engine = first.engine if first is not None else Engine.VLLM
                servers = (Upstream(ONE_UPSTREAM, one_url, engine, one_key),)
                by_name.setdefault(ONE_UPSTREAM, servers[0])
            model = Model(
                id=model_id,
                endpoints=entry.endpoints,
                max_model_len=entry.max_model_len,
                upstreams=servers,
                upstream_model=entry.upstream_model or model_id,
                aliases=entry.aliases,
                owned_by=entry.owned_by,
                created=entry.created,
                token_ids=entry.token_ids,
                tokenizer=self._tokenizer(model_id, entry.tokenizer),
                limits=own_limits(model_id, entry.limits),
            )
            catalogue |= dict.fromkeys((model_id, *entry.aliases), model)
        return catalogue, by_name

    def _tokenizer(self, model_id: str, file: str | None) -> FileTokenizer | None:
        if file is None:
            return None
        document, setting = self._documents["models.yaml"], ("models", model_id, "tokenizer")
        self._tokenizer_files.add(file)
        if len(self._tokenizer_files) > FILES_MAX:
            document.add(setting, f"no more than {FILES_MAX} different files may be named")
            return None
        try:
            return read_tokenizer(self._folder / file)
        except ValueError as exc:
            document.add(setting, str(exc))
            return None

    def _one_api_key(self) -> str | None:
        name = "TOLLGATE_UPSTREAM_API_KEY"
        key = self._environment.value_or_file(name)
        if key is None:
            return None
        if self._environment.raw("TOLLGATE_UPSTREAM") is None:
            self._environment.add(name, "set without TOLLGATE_UPSTREAM: it would be sent to nobody")
        try:
            return checked_api_key(key)
        except ValueError as exc:
            self._environment.add(name, str(exc))
            return None

    def _upstream(self, name: str, entry: UpstreamEntry) -> Upstream:
        document = self._documents["models.yaml"]
        key: str | None = None
        source = "api_key_file" if entry.api_key_file is not None else "api_key_env"
        try:
            if entry.api_key_file is not None and entry.api_key_env is not None:
                document.add(("upstreams", name, source), "give one of api_key_env and api_key_file")
            elif entry.api_key_file is not None:
                key = checked_api_key(secret_from_file(self._folder / entry.api_key_file))
            elif entry.api_key_env is not None:
                key = checked_api_key(self._environment.secret(entry.api_key_env))
        except ValueError as exc:
            document.add(("upstreams", name, source), str(exc))
        return Upstream(name, entry.url, entry.engine, key, entry.in_flight_max, entry.priority_field)


def tiers_by_id(file: TiersFile) -> dict[str, Tier]:
    """Return the tiers of tiers.yaml as the hot path reads them."""
    return {
        tier_id: Tier(
            id=tier_id,
            title=entry.title,
            purchase_credit_pico=entry.purchase_credit,
            monthly_limit_pico=entry.monthly_limit,
            output_tokens_hour=entry.output_tokens_hour,
            output_tokens_day=entry.output_tokens_day,
            requests=entry.requests,
            requests_window_s=entry.requests_window_s,
            bill_failed_upstream=entry.bill_failed_upstream,
            calls_in_flight=entry.calls_in_flight,
            shadow=tuple(name.value for name in entry.shadow),
            priority=entry.priority,
            purchase_required=entry.purchase_required,
            guarantee=entry.guarantee,
            batch_enqueued_tokens=entry.batch_enqueued_tokens,
        )
        for tier_id, entry in file.tiers.items()
    }


def own_limits(model_id: str, entry: ModelLimits) -> OwnLimits | None:
    """Return the limits of a model as the hot path reads them; None: it has none."""
    numbers = {
        "output_tokens_hour": entry.output_tokens_hour,
        "output_tokens_day": entry.output_tokens_day,
        "requests": entry.requests,
        "calls_in_flight": entry.calls_in_flight,
    }
    if all(number is None for number in numbers.values()):
        return None
    shadow = tuple(name.value for name in entry.shadow)
    window_s = entry.requests_window_s
    return OwnLimits(scope_of_model(model_id), requests_window_s=window_s, shadow=shadow, **numbers)


def price_book(file: PricesFile) -> PriceBook:
    """Return the price versions of prices.yaml as pricing reads them."""
    versions = []
    for entry in file.versions:
        general = ((TariffClass.STANDARD, entry.standard), (TariffClass.BATCH, entry.batch))
        units = {(kind, tariff): price for tariff, rates in general for kind, price in _prices(rates).items()}
        single = {
            (model, kind, tariff): price
            for model, own in entry.models.items()
            for tariff, rates in ((TariffClass.STANDARD, own.standard), (TariffClass.BATCH, own.batch))
            for kind, price in _prices(rates).items()
        }
        versions.append(PriceVersion(entry.id, entry.effective_from, units, single))
    return PriceBook(tuple(versions))


def _prices(rates: Rates) -> dict[UsageType, int]:
    """Return the prices that are written, in pico-euros per unit."""
    prices = {kind: getattr(rates, kind.value) for kind in UsageType}
    return {kind: price for kind, price in prices.items() if price is not None}
