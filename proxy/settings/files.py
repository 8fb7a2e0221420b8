"""The shapes of tiers.yaml, prices.yaml and models.yaml as they are written, in friendly units.

What belongs here: the shapes and the meaning of every key (the reference in docs/configuration.md is
generated from the descriptions). What does not: proxy.yaml (types.py: it is used as it is written), and
turning these shapes into the values that the proxy uses (loader.py).
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from proxy.core.catalogue import Engine, Guarantee, TokenIds

EXACT_MAX = 2**53 - 1
"""Largest amount that the limiter's store counts exactly."""

Euros = Annotated[int, Meta(extra={"form": "euros"})]
EurosPerMillion = Annotated[int, Meta(extra={"form": "euros_per_million"})]
Instant = Annotated[int, Meta(extra={"form": "instant"})]
Label = Annotated[str, Meta(extra={"form": "label"})]
ModelName = Annotated[str, Meta(extra={"form": "model_name"})]
Tokens = Annotated[int, Meta(ge=1, le=EXACT_MAX)]


class ModelShadow(StrEnum):
    """The limits of a model that can stand in shadow."""

    OUTPUT_TOKENS_HOUR = "output_tokens_hour"
    OUTPUT_TOKENS_DAY = "output_tokens_day"
    REQUESTS = "requests"
    CALLS_IN_FLIGHT = "calls_in_flight"


class TierShadow(StrEnum):
    """The limits of a tier that can stand in shadow."""

    MONTHLY_LIMIT = "monthly_limit"
    OUTPUT_TOKENS_HOUR = "output_tokens_hour"
    OUTPUT_TOKENS_DAY = "output_tokens_day"
    REQUESTS = "requests"
    CALLS_IN_FLIGHT = "calls_in_flight"


class TierEntry(msgspec.Struct, frozen=True):
    """The package that an account holds."""

    title: Annotated[str, Meta(min_length=1, description="Its name on invoices and in reports.")]
    purchase_credit: Annotated[
        Euros | None,
        Meta(description="Credit that is bought up front, in euros.", extra={"none": "none"}),
    ]
    monthly_limit: Annotated[
        Euros | None,
        Meta(
            description="Most that an account can spend in a month of its time zone, in euros.",
            extra={"none": "unlimited"},
        ),
    ]
    output_tokens_hour: Annotated[
        Tokens | None,
        Meta(description="Output tokens (reasoning included) in any 3,600 s.", extra={"none": "unlimited"}),
    ]
    output_tokens_day: Annotated[
        Tokens | None,
        Meta(description="Output tokens (reasoning included) in any 86,400 s.", extra={"none": "unlimited"}),
    ]
    purchase_required: Annotated[
        bool,
        Meta(
            description="Whether calls are refused until `purchase_credit` has been paid: all credit that an account "
            "ever bought counts, spent or expired too."
        ),
    ] = False
    requests: Annotated[int, Meta(ge=1, le=EXACT_MAX, description="Requests in any `requests_window_s`.")] = 1000
    requests_window_s: Annotated[
        int, Meta(ge=1, le=86_400, description="Length of the window for requests, in seconds.")
    ] = 60
    bill_failed_upstream: Annotated[
        bool, Meta(description="Whether what a failing upstream had produced is billed.")
    ] = False
    calls_in_flight: Annotated[
        Tokens | None, Meta(description="Calls that an account can have running at once.", extra={"none": "unlimited"})
    ] = None
    shadow: Annotated[
        tuple[TierShadow, ...],
        Meta(
            description="Limits that count and report what they would have refused, and refuse nothing: to be tried "
            "before they bind. Taken off this list, a limit binds at once, with all that it has counted."
        ),
    ] = ()
    priority: Annotated[
        int,
        Meta(ge=0, le=1000, description="Where calls wait for an upstream, those of the highest priority go first."),
    ] = 0
    guarantee: Annotated[
        Guarantee,
        Meta(
            description="What becomes of a stream that an output window has no room for: `strict` ends it as if "
            "`max_tokens` had been reached, `soft` lets it finish, and the next calls wait for what it went beyond."
        ),
    ] = Guarantee.STRICT
    batch_enqueued_tokens: Annotated[
        Annotated[int, Meta(ge=0, le=EXACT_MAX)] | None,
        Meta(
            description="Most tokens, input and output together, that all unfinished batches of an account can use; "
            "0: it may have none. A line counts what it can use at most: a token a byte of its body (and 1,024 for a "
            "chat's template), no more than the model's context, and its `max_tokens` a choice.",
            extra={"none": "unlimited"},
        ),
    ] = 200_000_000


class TiersFile(msgspec.Struct, frozen=True):
    """The tiers: what an account may use, and what it pays up front."""

    tiers: Annotated[dict[Label, TierEntry], Meta(min_length=1, description="Every tier by its id.")]


class Rates(msgspec.Struct, frozen=True):
    """A price by usage type."""

    input: Annotated[EurosPerMillion | None, Meta(description="Euros per million input tokens.")] = None
    cached_input: Annotated[
        EurosPerMillion | None, Meta(description="Euros per million input tokens found in a cache.")
    ] = None
    output: Annotated[EurosPerMillion | None, Meta(description="Euros per million output tokens.")] = None
    reasoning: Annotated[EurosPerMillion | None, Meta(description="Euros per million reasoning tokens.")] = None
    rerank: Annotated[EurosPerMillion | None, Meta(description="Euros per million reranked tokens.")] = None
    audio_minutes: Annotated[
        Euros | None, Meta(description="Euros per started minute of audio (a minute, not a million).")
    ] = None


class ModelRates(msgspec.Struct, frozen=True):
    """Prices of one model that differ from the general ones; what is left out costs what it does there."""

    standard: Annotated[Rates, Meta(description="Its standard prices.")] = Rates()
    batch: Annotated[Rates, Meta(description="Its batch prices.")] = Rates()


class PriceVersionEntry(msgspec.Struct, frozen=True):
    """The prices from one instant on, until the next version begins."""

    id: Annotated[Label, Meta(description="Name that every ledger entry carries: unique, and never used again.")]
    effective_from: Annotated[Instant, Meta(description="From when on it holds, with the offset from UTC written out.")]
    standard: Annotated[Rates, Meta(description="Standard prices: all six usage types must be there.")]
    batch: Annotated[
        Rates,
        Meta(
            description="Batch prices: input, cached_input, output and reasoning must be there. "
            "Rerank without a batch price costs in a batch what it costs in standard. Audio cannot be in a batch."
        ),
    ]
    models: Annotated[
        dict[ModelName, ModelRates], Meta(description="Prices of single models, by model id; they win.")
    ] = {}


class PricesFile(msgspec.Struct, frozen=True):
    """The prices. A version that has been in force is never changed: a new price is a new version."""

    versions: Annotated[
        tuple[PriceVersionEntry, ...], Meta(min_length=1, description="Every price version, oldest first.")
    ]


class UpstreamEntry(msgspec.Struct, frozen=True):
    """An inference server."""

    url: Annotated[
        str,
        Meta(
            description="Base URL, `http(s)://host[:port][/prefix]`, without `/v1`.",
            extra={"form": "base_url"},
        ),
    ]
    engine: Annotated[Engine, Meta(description="The server software: it decides how usage is read off an answer.")] = (
        Engine.VLLM
    )
    api_key_env: Annotated[
        str | None,
        Meta(
            description="Environment variable with the key to send; without a key no Authorization is sent.",
            extra={"form": "variable", "secret": True},
        ),
    ] = None
    api_key_file: Annotated[
        str | None,
        Meta(
            description="File that holds the key to send, from the folder of models.yaml.",
            extra={"secret": True},
        ),
    ] = None
    in_flight_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Most calls at once, a process. A call beyond it goes to the model's next upstream; when all "
            "are full it waits (proxy.yaml, `queue`).",
        ),
    ] = 4096
    priority_field: Annotated[
        bool,
        Meta(
            description="Whether the engine is told each call's priority: vLLM with `--scheduling-policy priority`, "
            "SGLang with `--enable-priority-scheduling`. A `priority` that a client sends is replaced."
        ),
    ] = False


class ModelLimits(msgspec.Struct, frozen=True):
    """Limits of each account with this model, for a scarce one; calls to other models do not see them."""

    output_tokens_hour: Annotated[
        Tokens | None,
        Meta(description="Output tokens (reasoning included) in any 3,600 s.", extra={"none": "unlimited"}),
    ] = None
    output_tokens_day: Annotated[
        Tokens | None,
        Meta(description="Output tokens (reasoning included) in any 86,400 s.", extra={"none": "unlimited"}),
    ] = None
    requests: Annotated[
        Tokens | None, Meta(description="Requests in any `requests_window_s`.", extra={"none": "unlimited"})
    ] = None
    requests_window_s: Annotated[
        int, Meta(ge=1, le=86_400, description="Length of the window for requests, in seconds.")
    ] = 60
    calls_in_flight: Annotated[
        Tokens | None, Meta(description="Calls that an account can have running at once.", extra={"none": "unlimited"})
    ] = None
    shadow: Annotated[
        tuple[ModelShadow, ...], Meta(description="Those of them that count and report, and refuse nothing.")
    ] = ()


class ModelEntry(msgspec.Struct, frozen=True):
    """A model that customers can name."""

    endpoints: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="Documented routes that it serves, e.g. `/v1/embeddings`."),
    ]
    max_model_len: Annotated[
        int, Meta(ge=1, le=EXACT_MAX, description="Context length in tokens, prompt and output together.")
    ]
    upstreams: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="Names of the upstreams that serve it, preferred ones first."),
    ]
    upstream_model: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="Its name at the upstreams; left out: its id."),
    ] = None
    aliases: Annotated[tuple[ModelName, ...], Meta(description="Other names that it answers to.")] = ()
    owned_by: Annotated[str, Meta(min_length=1, description="Shown by `GET /v1/models`.")] = "CloudTemple"
    created: Annotated[int, Meta(ge=0, le=EXACT_MAX, description="Unix seconds, shown by `GET /v1/models`.")] = (
        1749110897
    )
    tokenizer: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="Its `tokenizer.json` (of Hugging Face's tokenizers), from the folder of models.yaml. With it, "
            "tokens (rerank, embeddings) that an upstream does not tell are counted; without it, they are estimated."
        ),
    ] = None
    token_ids: Annotated[
        TokenIds,
        Meta(
            description="What `/v1/embeddings` does with an input of token ids instead of text. `cl100k_base`: they "
            "are tiktoken's, as LangChain sends them, and are made text again; `upstream`: they are the model's own, "
            "and pass untouched; `refuse`: the call is refused."
        ),
    ] = TokenIds.CL100K_BASE
    limits: Annotated[
        ModelLimits, Meta(description="What each account can use of it, inside the limits of its tier.")
    ] = ModelLimits()


class ModelsFile(msgspec.Struct, frozen=True):
    """The models, and the inference servers behind them."""

    upstreams: Annotated[
        dict[Label, UpstreamEntry], Meta(min_length=1, description="Every inference server by its name.")
    ]
    models: Annotated[dict[ModelName, ModelEntry], Meta(min_length=1, description="Every model by its id.")]
