"""Token ids: turning the numbers of a client's own tokenizer back into the text that it had.

What belongs here: decoding. What does not: the vocabulary (it comes with ``Terms``) and which models want it.

Clients made for OpenAI's embedding models cut texts with tiktoken and send the ids (LangChain's ``OpenAIEmbeddings``
does so by default, and takes cl100k_base for a model name that it does not know). To any other tokenizer those numbers
mean other words: vectors would come back, and be wrong. So the ids are made text again (docs/decisions/0013).
"""

from collections.abc import Iterable, Sequence

Vocabulary = Sequence[bytes | None]
"""The bytes of each token by its id; None: no token has this id."""


class UnknownTokenError(ValueError):
    """An id that the vocabulary does not have."""


def text_of(ids: Iterable[int], vocabulary: Vocabulary) -> str:
    """Return the text of token ids (none of them negative), as tiktoken's own ``decode`` does.

    A special token gives its name. A character that is not whole, as at the edge of a text that was cut by tokens, is
    replaced by U+FFFD.

    Raises:
        UnknownTokenError: an id is not in the vocabulary.
    """
    try:
        return b"".join([vocabulary[token_id] for token_id in ids]).decode("utf-8", "replace")  # type: ignore[misc]
    except (IndexError, TypeError):
        raise UnknownTokenError from None
