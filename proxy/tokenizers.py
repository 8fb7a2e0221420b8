"""Tokenizers: a model's own vocabulary, from its ``tokenizer.json``, for counting what an upstream does not tell.

What belongs here: the one place that knows the library. It is imported when the first file is read, so a proxy whose
models name none never loads it. What does not: when something is counted (gateway.py), and what a count means
(core/meters/).
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.core.catalogue import TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Vocabulary

FILES_MAX: Final = 16
"""Most files that are kept in memory: a vocabulary of 250,000 words takes some hundred megabytes."""

FILE_BYTES_MAX: Final = 1 << 27


class FileTokenizer:
    """A tokenizer of a file (``proxy.core.catalogue.Tokenizer``).

    A text is counted whole, whatever truncation and padding the file asks for: how much of it a model reads is known
    to whoever asks.
    """

    __slots__ = ("_vocabulary", "pair_tokens")

    def __init__(self, vocabulary: "Vocabulary") -> None:
        vocabulary.no_truncation()
        vocabulary.no_padding()
        self._vocabulary: Final = vocabulary
        self.pair_tokens: Final = int(vocabulary.num_special_tokens_to_add(is_pair=True))

    def count(self, texts: Sequence[str]) -> list[int]:
        """See ``Tokenizer``. The GIL is released while the library works."""
        try:
            return [len(found) for found in self._vocabulary.encode_batch_fast(list(texts), add_special_tokens=False)]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # a panic of the library is no Exception
            raise TokenizerError(f"the tokenizer gave up: {type(exc).__name__}") from exc


def read_tokenizer(path: Path) -> FileTokenizer:
    """Return the tokenizer of a file; one that is read again and has not changed is the same object.

    Reading takes up to a second for a large vocabulary.

    Raises:
        ValueError: it cannot be read, or is no tokenizer; the message does not name the file.
    """
    try:
        found = path.stat()
    except OSError as exc:
        raise ValueError(f"the file that it names cannot be read: {exc.strerror}") from exc
    if found.st_size > FILE_BYTES_MAX:
        raise ValueError(f"the file that it names is larger than {FILE_BYTES_MAX} bytes")
    return _read(path.resolve(), found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=FILES_MAX)
def _read(path: Path, mtime_ns: int, size: int) -> FileTokenizer:  # noqa: ARG001 - they tell one version from another
    # The library would else spread each batch over all cores, at the cost of the calls that are being relayed.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer as Vocabulary  # noqa: PLC0415 - only who names a file pays for it

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ValueError(f"the file that it names cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ValueError("the file that it names is no UTF-8 text") from exc
    try:
        return FileTokenizer(Vocabulary.from_str(text))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # the library raises bare Exceptions, and panics
        raise ValueError("the file that it names is no tokenizer.json of the tokenizers library") from exc
