"""The catalogue: tiers, models and the upstreams that serve them, as the hot path reads them.

What belongs here: frozen values. They are made from ``config/*.yaml`` by ``proxy.settings``.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec


class Engine(StrEnum):
    """Which server software answers: it decides how usage is read (see meters.py) and what may be asked for."""

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMA_CPP = "llama.cpp"
    LLAMA_CPP_PYTHON = "llama-cpp-python"
    OLLAMA = "ollama"
    TRANSFORMERS = "transformers"
    TGI = "tgi"
    TEI = "tei"
    INFINITY = "infinity"
    OPENAI = "openai"
    COHERE = "cohere"


class TokenIds(StrEnum):
    """What is done with an input that is token ids instead of text (docs/decisions/0013).

    Attributes:
        CL100K_BASE: they are tiktoken's, and are made text again before the model sees them.
        UPSTREAM: they are the model's own, and pass untouched.
        REFUSE: the call is refused.
    """

    CL100K_BASE = "cl100k_base"
    UPSTREAM = "upstream"
    REFUSE = "refuse"


class Tokenizer(Protocol):
    """Counts tokens as one model does; safe to be used by several threads at once."""

    @property
    def pair_tokens(self) -> int:
        """Special tokens that are put around a pair of texts."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special ones left out: at some megabytes a second, so not on an event loop.

        Raises:
            TokenizerError: it gave up.
        """


class TokenizerError(Exception):
    """A tokenizer could not count a text."""


class OwnLimits(msgspec.Struct, frozen=True):
    """Limits of a key, or of an account with one model, inside those of the account; None: there is no such limit.

    Args:
        scope: what tells them from others of the account in the stores: the key's id, or ``scope_of_model``.
        output_tokens_hour: output tokens in any 3,600 s.
        output_tokens_day: output tokens in any 86,400 s.
        requests: requests in any ``requests_window_s``.
        requests_window_s: length of the requests window in seconds.
        monthly_limit_pico: pico-euros in a month of the account; of keys only.
        calls_in_flight: calls at once.
        shadow: those that count and refuse nothing, called as in models.yaml.
    """

    scope: str
    output_tokens_hour: int | None = None
    output_tokens_day: int | None = None
    requests: int | None = None
    requests_window_s: int = 60
    monthly_limit_pico: int | None = None
    calls_in_flight: int | None = None
    shadow: tuple[str, ...] = ()


class Guarantee(StrEnum):
    """What becomes of a stream that its output windows have no room for (docs/decisions/0017).

    Attributes:
        STRICT: it is ended, as if ``max_tokens`` had been reached: no window ever delivers more than its limit.
        SOFT: it goes on, and what it exceeds a window by is waited for by the next calls.
    """

    STRICT = "strict"
    SOFT = "soft"


class Tier(msgspec.Struct, frozen=True):
    """The package that an account holds.

    Args:
        id: ``tier1`` … ``tier4``, ``monthly``.
        title: as the documentation names it.
        purchase_credit_pico: upfront credit in pico-euros; None: none is sold.
        purchase_required: whether calls are refused until it has been paid.
        monthly_limit_pico: monthly cap in pico-euros; None: unlimited.
        output_tokens_hour: output tokens in any 3,600 s; None: no such window.
        output_tokens_day: output tokens in any 86,400 s; None: no such window.
        requests: requests in any ``requests_window_s``.
        requests_window_s: length of the requests window in seconds.
        bill_failed_upstream: whether what a failing upstream had produced is billed.
        priority: whose calls go first where calls wait for an upstream: the higher one's.
        calls_in_flight: calls at once; None: any number.
        shadow: the limits that count and refuse nothing, called as in tiers.yaml.
        guarantee: what becomes of streams that turn out longer than the output windows have room for.
        batch_enqueued_tokens: what all unfinished batches together can use at most, input and output; None: any number.
    """

    id: str
    title: str
    purchase_credit_pico: int | None
    monthly_limit_pico: int | None
    output_tokens_hour: int | None
    output_tokens_day: int | None
    requests: int = 1000
    requests_window_s: int = 60
    bill_failed_upstream: bool = False
    priority: int = 0
    calls_in_flight: int | None = None
    shadow: tuple[str, ...] = ()
    purchase_required: bool = False
    guarantee: Guarantee = Guarantee.STRICT
    batch_enqueued_tokens: int | None = None


class Upstream(msgspec.Struct, frozen=True):
    """An inference server.

    Args:
        name: unique, a metric label.
        url: base URL, ``http(s)://host[:port][/prefix]``, without ``/v1``.
        engine: the server software.
        api_key: sent as its bearer token in place of the customer's; None: no Authorization header is sent.
        in_flight_max: most calls at once; a call beyond it goes elsewhere, or waits.
        priority_field: whether its engine is told the priority of each call.
    """

    name: str
    url: str
    engine: Engine = Engine.VLLM
    api_key: str | None = None
    in_flight_max: int = 4096
    priority_field: bool = False

    def __repr__(self) -> str:
        """Leave the key out: a repr ends up in logs."""
        return f"Upstream(name={self.name!r}, url={self.url!r}, engine={self.engine.value!r})"


class Model(msgspec.Struct, frozen=True):
    """A model that customers can name.

    Args:
        id: canonical id, also a metric label.
        aliases: other names that it answers to.
        endpoints: documented routes that it serves, for example ``/v1/chat/completions``.
        max_model_len: context length in tokens, prompt and output together.
        upstreams: the servers, in order of preference.
        upstream_model: its name there.
        owned_by: for ``GET /v1/models``.
        created: Unix seconds, for ``GET /v1/models``.
        tokenizer: counts what an upstream does not tell; None: that is estimated.
        token_ids: what ``/v1/embeddings`` does with token ids.
        limits: of each account with this model; None: there are none.
    """

    id: str
    endpoints: tuple[str, ...]
    max_model_len: int
    upstreams: tuple[Upstream, ...]
    upstream_model: str
    aliases: tuple[str, ...] = ()
    owned_by: str = "CloudTemple"
    created: int = 1749110897
    tokenizer: Tokenizer | None = None
    token_ids: TokenIds = TokenIds.CL100K_BASE
    limits: OwnLimits | None = None
