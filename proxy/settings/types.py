"""Every setting, in one file: the typed, frozen values that ``config/*.yaml`` and the environment become.

What belongs here: the values and their documented meaning (``Annotated[..., Meta(description=...)]``: the reference in
docs/configuration.md is generated from it). What does not: reading and checking files (loader.py).
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from proxy.core.catalogue import Model, Tier, Upstream
from proxy.core.pricing import PriceBook


class Timeouts(msgspec.Struct, frozen=True):
    """How long the proxy waits, in seconds."""

    connect_s: Annotated[float, Meta(gt=0, description="To open a connection to an upstream.")] = 5.0
    first_byte_s: Annotated[float, Meta(gt=0, description="From the request to the first byte of the answer.")] = 600.0
    idle_s: Annotated[float, Meta(gt=0, description="Between two bytes of an answer.")] = 120.0
    client_body_s: Annotated[float, Meta(gt=0, description="For a client to send the whole of its request body.")] = 120.0
    client_stall_s: Annotated[
        float, Meta(gt=0, description="For a client that has stopped reading a stream, before it counts as gone.")
    ] = 120.0
    keepalive_s: Annotated[float, Meta(gt=0, description="Idle time after which connections are closed.")] = 75.0
    drain_s: Annotated[float, Meta(gt=0, description="For calls in flight to end after SIGTERM.")] = 30.0


class Sizes(msgspec.Struct, frozen=True):
    """Upper bounds, in bytes."""

    body_bytes_max: Annotated[int, Meta(gt=0, description="Largest JSON request body; beyond it the answer is 413.")] = 33_554_432
    answer_bytes_max: Annotated[int, Meta(gt=0, description="Largest answer that is kept in memory whole.")] = 67_108_864
    write_buffer_bytes: Annotated[
        int, Meta(gt=0, description="What may wait for a slow reader before the sender is paused, a connection.")
    ] = 262_144


class LimiterSettings(msgspec.Struct, frozen=True):
    """How limits are kept."""

    hold_ttl_s: Annotated[int, Meta(gt=0, description="Life of a hold without a heartbeat.")] = 60
    heartbeat_s: Annotated[int, Meta(gt=0, description="Interval of heartbeats and of checkpoints of long streams.")] = 5
    redis_timeout_ms: Annotated[int, Meta(gt=0, description="For one answer of Redis.")] = 1000
    degraded_share_percent: Annotated[
        int, Meta(ge=0, le=100, description="Share of each limit that a replica admits by itself while Redis is away; 0: answer 503.")
    ] = 25
    degraded_max_s: Annotated[int, Meta(ge=0, description="How long calls go on without Redis; then the answer is 503.")] = 600
    default_max_tokens: Annotated[int, Meta(gt=0, description="Applied and forwarded when a call sets no max_tokens.")] = 1024


class ProxySettings(msgspec.Struct, frozen=True):
    """``config/proxy.yaml``, overridden by TOLLGATE_* environment variables."""

    listen: Annotated[str, Meta(description="Customer listener, host:port. TOLLGATE_LISTEN.")] = "127.0.0.1:8080"
    admin_listen: Annotated[
        str, Meta(description="/metrics, /healthz, /readyz, host:port. TOLLGATE_ADMIN_LISTEN.")
    ] = "127.0.0.1:9090"
    tls_certificate: Annotated[str | None, Meta(description="PEM file; with tls_key, the customer listener speaks TLS.")] = None
    tls_key: Annotated[str | None, Meta(description="PEM file of the private key.")] = None
    state_dir: Annotated[str, Meta(description="Outbox, and the SQLite ledger. TOLLGATE_STATE_DIR.")] = "./var"
    redis_url: Annotated[
        str | None, Meta(description="redis:// or rediss:// URL; absent: limits in memory. TOLLGATE_REDIS_URL.")
    ] = None
    database_url: Annotated[
        str | None, Meta(description="postgresql:// URL; absent: SQLite in the state folder. TOLLGATE_DATABASE_URL.")
    ] = None
    timeouts: Timeouts = Timeouts()
    sizes: Sizes = Sizes()
    limiter: LimiterSettings = LimiterSettings()


class Settings(msgspec.Struct, frozen=True):
    """Everything that the proxy was told, checked.

    Args:
        proxy: listeners, stores, timeouts, sizes.
        tiers: by tier id.
        prices: every price version.
        models: by every name that a customer may use (id and aliases).
        upstreams: by name.
    """

    proxy: ProxySettings
    tiers: dict[str, Tier]
    prices: PriceBook
    models: dict[str, Model]
    upstreams: dict[str, Upstream]
