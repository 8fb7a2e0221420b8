"""The contract of a call: the values that the gateway, the endpoint table and the upstream client exchange.

What belongs here: what is known of any call, whatever its route. What does not: a family's own (beside this module).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import msgspec

from proxy.core.calls.token_ids import Vocabulary
from proxy.core.catalogue import Model


class Terms(msgspec.Struct, frozen=True):
    """What the settings say about preparing a call.

    Args:
        models: by every name that a customer may use (id and aliases).
        default_max_tokens: applied and forwarded when a call sets no ``max_tokens``.
        cl100k_base: returns the vocabulary to decode token ids with, reading it when first asked; None: there is none.
    """

    models: Mapping[str, Model]
    default_max_tokens: int
    cl100k_base: Callable[[], Vocabulary] | None = None


class Source(Protocol):
    """Bytes that are too many for memory; they can be read more than once."""

    @property
    def size(self) -> int:
        """How many there are."""

    def pieces(self) -> Iterator[bytes]:
        """Return them from the beginning, in pieces of at most 256 KiB."""


class FormFile(msgspec.Struct, frozen=True):
    """A file of a form.

    Args:
        name: file name as sent, "" when there was none.
        content_type: as sent, "" when there was none.
        content: its bytes, kept outside memory.
        duration_ms: how long it plays, measured; None: it cannot be read as audio.
    """

    name: str
    content_type: str
    content: Source
    duration_ms: int | None


class Form(msgspec.Struct, frozen=True):
    """A ``multipart/form-data`` request.

    Args:
        fields: (name, value) in the order sent; files are not among them.
        files: by field name.
        boundary: what stands between the parts where the form is sent on: a name that nobody can guess, for a file that
            held it could add parts of its own.
    """

    fields: tuple[tuple[str, str], ...]
    files: Mapping[str, FormFile]
    boundary: str = ""


class PreparedCall(msgspec.Struct, frozen=True):
    """A call that may be admitted. A family of routes adds what its own meter needs in a subclass.

    Args:
        model: what it asks for.
        upstream_route: path that the upstream is asked for.
        body: what the upstream gets: JSON (unless the endpoint's ``send`` makes something else of it).
        stream: whether the answer is streamed.
        forward_usage: whether the client asked for the usage chunk.
        strip_continuous: whether usage in content chunks is there only because we asked for it.
        choices: how many answers it asks for.
        output_tokens_max: most output tokens that it can produce, over all choices.
        input_tokens_max: most input tokens that it can be charged for.
        rerank_tokens_max: most reranked tokens that it can be charged for.
        audio_minutes_max: most started minutes of audio that it can be charged for.
        prompt_bytes: size of the request, for estimates.
        generations: how many texts it may generate, ``output_tokens_max`` being for all; 0: as many as ``choices``.
    """

    model: Model
    upstream_route: str
    body: bytes
    stream: bool = False
    forward_usage: bool = False
    strip_continuous: bool = False
    choices: int = 1
    output_tokens_max: int = 0
    input_tokens_max: int = 0
    rerank_tokens_max: int = 0
    audio_minutes_max: int = 0
    prompt_bytes: int = 0
    generations: int = 0


class Sent(msgspec.Struct, frozen=True):
    """What one upstream is sent.

    Args:
        route: path.
        body: in one piece, or as pieces in order (then any of them may be a source).
        content_type: of the body.
    """

    route: str
    body: bytes | tuple[bytes | Source, ...]
    content_type: bytes = b"application/json"


class Shown(msgspec.Struct, frozen=True):
    """A whole answer as the customer gets it."""

    body: bytes
    content_type: bytes = b"application/json"
