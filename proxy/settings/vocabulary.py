"""The vocabulary of cl100k_base: which bytes each token id stands for.

What belongs here: reading the file that comes with the proxy (``vocabularies/README.md`` says where it is from). What
does not: when it is needed (proxy.core.calls.embeddings).

The file is gzip of one byte a token, its length, and then all tokens' bytes, both in the order of the ids.
"""

import gzip
from collections.abc import Mapping
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

from proxy.core.calls.token_ids import Vocabulary

CL100K_TOKENS: Final = 100_256

CL100K_SPECIAL: Final[Mapping[int, bytes]] = {
    100_257: b"<|endoftext|>",
    100_258: b"<|fim_prefix|>",
    100_259: b"<|fim_middle|>",
    100_260: b"<|fim_suffix|>",
    100_276: b"<|endofprompt|>",
}
"""Tokens beside the vocabulary proper; the ids between them belong to none (tiktoken, openai_public.py)."""


@cache
def cl100k_base() -> Vocabulary:
    """Return the vocabulary. It is read when it is first asked for: that takes some 15 ms and 6 MB, once a process."""
    data = gzip.decompress((Path(__file__).parent / "vocabularies" / "cl100k_base.gz").read_bytes())
    ends = accumulate(data[:CL100K_TOKENS], initial=CL100K_TOKENS)
    tokens: list[bytes | None] = [data[start:end] for start, end in pairwise(ends)]
    tokens += [CL100K_SPECIAL.get(id_) for id_ in range(CL100K_TOKENS, max(CL100K_SPECIAL) + 1)]
    return tuple(tokens)
