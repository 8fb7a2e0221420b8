"""The settings: the typed, frozen values that ``config/*.yaml`` and the environment become.

What belongs here: the values, and for proxy.yaml the documented meaning of every key (``Annotated[...,
Meta(...)]``: the reference in docs/configuration.md is generated from it; ``extra={"restart": True}`` marks
what a reload does not change). What does not: the shapes of the other files (files.py), reading and checking
(loader.py).
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from proxy.core.batches.storage import ObjectStore
from proxy.core.calls import Terms
from proxy.core.catalogue import Model, Tier, Upstream
from proxy.core.invoicing.terms import InvoicingTerms
from proxy.core.parties import Seller
from proxy.core.pricing import PriceBook
from proxy.core.webhooks import Webhook
from proxy.settings.batch import BatchSettings
from proxy.settings.mistakes import masked

RESTART: Final = {"restart": True}


class Timeouts(msgspec.Struct, frozen=True):
    """How long the proxy waits, in seconds."""

    connect_s: Annotated[float, Meta(gt=0, description="To open a connection to an upstream.")] = 5.0
    first_byte_s: Annotated[
        float, Meta(gt=0, description="From the end of the request to the first byte of the answer.")
    ] = 600.0
    idle_s: Annotated[
        float, Meta(gt=0, description="Between two bytes of an answer, or of an upload to an upstream.")
    ] = 120.0
    client_body_s: Annotated[
        float,
        Meta(gt=0, description="For a client to send the whole of its request body; of an upload, each started 8 MiB."),
    ] = 120.0
    client_stall_s: Annotated[
        float,
        Meta(gt=0, description="For a client that has stopped reading its answer, before it counts as gone."),
    ] = 120.0
    keepalive_s: Annotated[
        float, Meta(gt=0, description="Idle time after which connections are closed.", extra=RESTART)
    ] = 75.0
    drain_s: Annotated[float, Meta(gt=0, description="For calls in flight to end after SIGTERM.")] = 30.0


class Sizes(msgspec.Struct, frozen=True):
    """Upper bounds, in bytes."""

    body_bytes_max: Annotated[
        int, Meta(gt=0, description="Largest JSON request body; beyond it the answer is 413.")
    ] = 33_554_432
    upload_bytes_max: Annotated[
        int, Meta(gt=0, description="Largest form (an audio upload); beyond it the answer is 413.")
    ] = 209_715_200
    spool_bytes_max: Annotated[
        int,
        Meta(gt=0, description="What all uploads of a process may take on disk; beyond it the answer is 503."),
    ] = 4_294_967_296
    answer_bytes_max: Annotated[int, Meta(gt=0, description="Largest answer that is kept in memory whole.")] = (
        67_108_864
    )
    collect_bytes_max: Annotated[
        int,
        Meta(
            gt=0,
            description="Answers above this size are relayed as they come where their usage can be read on the way.",
        ),
    ] = 1_048_576
    write_buffer_bytes: Annotated[
        int,
        Meta(
            gt=0,
            description="What may wait for a slow reader before the sender is paused, a connection.",
            extra=RESTART,
        ),
    ] = 262_144


class LimiterSettings(msgspec.Struct, frozen=True):
    """How limits are kept."""

    hold_ttl_s: Annotated[int, Meta(gt=0, description="Life of a hold without a heartbeat.", extra=RESTART)] = 60
    heartbeat_s: Annotated[
        int,
        Meta(
            gt=0,
            description="Between heartbeats, and checkpoints, of long streams; less than `hold_ttl_s`.",
            extra=RESTART,
        ),
    ] = 5
    hold_quantile_percent: Annotated[
        int,
        Meta(
            ge=50,
            le=100,
            description="Calls hold so many output tokens that this share of calls like them stayed within; 100: all "
            "that they can produce. Money is always held in full.",
            extra=RESTART,
        ),
    ] = 90
    hold_step_tokens: Annotated[
        int,
        Meta(ge=16, description="Least output tokens that a stream asks for when its hold runs out.", extra=RESTART),
    ] = 256
    hold_patience_s: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="How long a stream waits for room, nothing passing, before a `strict` limit ends it.",
            extra=RESTART,
        ),
    ] = 10.0
    redis_timeout_ms: Annotated[int, Meta(gt=0, description="For one answer of Redis.", extra=RESTART)] = 1000
    degraded_share_percent: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="Share of each limit that a replica admits while Redis is away; 0: it answers 503.",
            extra=RESTART,
        ),
    ] = 25
    degraded_max_s: Annotated[
        int,
        Meta(ge=0, description="How long calls go on without Redis; then the answer is 503.", extra=RESTART),
    ] = 600
    default_max_tokens: Annotated[
        int, Meta(gt=0, description="Applied and forwarded when a call sets no max_tokens.")
    ] = 1024
    fit_tokens_min: Annotated[
        int,
        Meta(gt=0, description="A call with `X-RateLimit-Fit: true` is lowered to no less than so many tokens a text."),
    ] = 16


class QueueSettings(msgspec.Struct, frozen=True):
    """How calls wait when every upstream of their model is full, in each process."""

    wait_s: Annotated[
        float,
        Meta(ge=0, le=600, description="Longest that a call waits, in seconds; then it is 503. 0: no call waits."),
    ] = 10.0
    calls_max: Annotated[int, Meta(ge=1, le=100_000, description="Most calls that wait for the same upstreams.")] = 1024
    account_calls_max: Annotated[int, Meta(ge=1, le=100_000, description="Most of them that are one account's.")] = 256


class WebhookSettings(msgspec.Struct, frozen=True):
    """Where operators are told of budgets, credit and tiers of their accounts (docs/credit.md)."""

    url: Annotated[
        str | None,
        Meta(
            description="Receiver of signed events, http:// or https://; left out: events are recorded only.",
            extra={"form": "webhook_url", "secret": True},
        ),
    ] = None
    secret_file: Annotated[
        str | None,
        Meta(
            description="File that holds the key of the signatures: `whsec_` and 24 to 64 bytes in base64.",
            extra={"secret": True},
        ),
    ] = None
    timeout_s: Annotated[float, Meta(gt=0, le=20, description="For one attempt.")] = 10.0
    give_up_after_s: Annotated[
        int, Meta(gt=0, le=2_592_000, description="Age of an event from which on nothing more is tried.")
    ] = 259_200


class ProxySettings(msgspec.Struct, frozen=True):
    """The proxy itself: where it listens, which stores it uses, how long it waits. Every key may be left out.

    ``redis_url`` and ``database_url`` hold the URL that is used, wherever it came from.
    """

    listen: Annotated[str, Meta(description="Customer listener, host:port.", extra={"form": "listen", **RESTART})] = (
        "127.0.0.1:8080"
    )
    admin_listen: Annotated[
        str,
        Meta(
            description="Listener of /metrics, /healthz and /readyz, host:port.",
            extra={"form": "listen", **RESTART},
        ),
    ] = "127.0.0.1:9090"
    tls_certificate: Annotated[
        str | None,
        Meta(
            description="PEM file; with `tls_key`, the customer listener speaks TLS.",
            extra=RESTART,
        ),
    ] = None
    tls_key: Annotated[
        str | None,
        Meta(description="PEM file of the private key.", extra=RESTART),
    ] = None
    state_dir: Annotated[
        str,
        Meta(
            min_length=1,
            description="Folder of the outbox, of the SQLite ledger and of uploads under way.",
            extra=RESTART,
        ),
    ] = "./var"
    redis_url: Annotated[
        str | None,
        Meta(
            description="redis:// or rediss:// URL without a password, of a cluster one node or several"
            " (`redis://one:6379,two:6379`); left out: limits are kept in memory.",
            extra={"form": "redis_url", "secret": True, **RESTART},
        ),
    ] = None
    redis_url_file: Annotated[
        str | None,
        Meta(
            description="File that holds `redis_url`, which may hold a password there.",
            extra={"secret": True, **RESTART},
        ),
    ] = None
    database_url: Annotated[
        str | None,
        Meta(
            description="postgresql:// URL without a password; left out: SQLite in the state folder.",
            extra={"form": "database_url", "secret": True, **RESTART},
        ),
    ] = None
    database_url_file: Annotated[
        str | None,
        Meta(
            description="File that holds `database_url`, which may hold a password there.",
            extra={"secret": True, **RESTART},
        ),
    ] = None
    cors_origins: Annotated[
        tuple[Annotated[str, Meta(extra={"form": "origin"})], ...],
        Meta(
            description='Web pages of these origins may call from a browser; `"*"`: of every origin; `[]`: of none.',
        ),
    ] = ("*",)
    timeouts: Annotated[Timeouts, Meta(description="How long the proxy waits.")] = Timeouts()
    sizes: Annotated[Sizes, Meta(description="Upper bounds.")] = Sizes()
    limiter: Annotated[LimiterSettings, Meta(description="How limits are kept.")] = LimiterSettings()
    queue: Annotated[QueueSettings, Meta(description="How calls wait for an upstream.")] = QueueSettings()
    batch: Annotated[BatchSettings, Meta(description="Async batches and their files.")] = BatchSettings()
    webhooks: Annotated[WebhookSettings, Meta(description="Where events are sent.")] = WebhookSettings()

    def __repr__(self) -> str:
        """Mask the passwords of the stores: a repr ends up in logs."""
        values = ", ".join(
            f"{name}={masked(value) if isinstance(value, str) else value!r}"
            for name, value in ((name, getattr(self, name)) for name in self.__struct_fields__)
        )
        return f"ProxySettings({values})"


class Settings(msgspec.Struct, frozen=True):
    """Everything that the proxy was told, checked.

    Args:
        proxy: listeners, stores, timeouts, sizes.
        tiers: by tier id.
        prices: every price version.
        models: by every name that a customer may use (id and aliases).
        upstreams: by name.
        terms: what of this preparing a call needs.
        webhook: where events are sent; None: nowhere.
        seller: who issues invoices; None: there is no seller.yaml.
        invoicing: the seller's terms.
        object_store: where the files of batches are kept; None: in a folder of the state folder.
    """

    proxy: ProxySettings
    tiers: dict[str, Tier]
    prices: PriceBook
    models: dict[str, Model]
    upstreams: dict[str, Upstream]
    terms: Terms
    webhook: Webhook | None = None
    seller: Seller | None = None
    invoicing: InvoicingTerms = InvoicingTerms()
    object_store: ObjectStore | None = None
