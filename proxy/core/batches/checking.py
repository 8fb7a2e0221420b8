"""An input file, checked: every line by itself, and what must hold of all of them.

What belongs here: what a file is refused for, how large its calls can get, and how it is cut into blocks. What does
not: reading it (batching/validating.py), and whether its account has room (there too).

What is kept of a line is sixteen bytes of its ``custom_id``'s hash: memory does not grow with a file's size.
"""

import hashlib
from typing import Final

import msgspec

from proxy.core.batches.lines import (
    INVALID,
    INVALID_JSON,
    is_blank,
    parse_line,
    prepare_line,
    shortened,
    tokens_max,
)
from proxy.core.batches.objects import Block, LineMistake
from proxy.core.calls import PreparedCall, Terms
from proxy.core.endpoints import Endpoint
from proxy.core.pricing import PriceVersion, UnpricedError
from proxy.core.quotas import cost_bound_pico
from proxy.core.usage import TariffClass

MISTAKES_MAX: Final = 100
"""As many are told; a file with more is read no further."""

EMPTY: Final = "empty_file"
TOO_MANY: Final = "too_many_tasks"
DUPLICATE: Final = "duplicate_custom_id"
OTHER_MODEL: Final = "model_mismatch"

FIRST_BLOCK_LINES: Final = 128
"""Most lines of the first block; a later one has no more than all before it, so that processes share a small batch."""

_HASH_BYTES: Final = 16


class Bounds(msgspec.Struct, frozen=True):
    """How large a file and its blocks may get.

    Args:
        lines_max: most lines.
        line_bytes_max: longest line.
        block_lines_max: most lines of a block; the first ones have fewer (``FIRST_BLOCK_LINES``).
        block_bytes_max: size from which on a block takes no further line.
    """

    lines_max: int
    line_bytes_max: int
    block_lines_max: int
    block_bytes_max: int


class Checked(msgspec.Struct, frozen=True):
    """A file without a mistake.

    Args:
        model: canonical id of the model of every line.
        lines: how many.
        tokens_max: what all calls together can use at most, input and output.
        cost_max_pico: what they can cost at most, pico-euros.
        blocks: all lines, in order.
    """

    model: str
    lines: int
    tokens_max: int
    cost_max_pico: int
    blocks: tuple[Block, ...]


class FileCheck:
    """Checks the lines of a file, one after the other.

    Args:
        batch_id: of the batch that it is for.
        endpoint: of every line.
        terms: what the settings say about preparing a call.
        prices: at which its lines are charged.
        bounds: how large it may be.
    """

    def __init__(self, batch_id: str, endpoint: Endpoint, terms: Terms, prices: PriceVersion, bounds: Bounds) -> None:
        self._batch_id = batch_id
        self._endpoint = endpoint
        self._terms = terms
        self._prices = prices
        self._bounds = bounds
        self._mistakes: list[LineMistake] = []
        self._custom_ids: set[bytes] = set()
        self._model = ""
        self._number = 0  # of the line before, from 1
        self._lines = 0
        self._tokens_max = 0
        self._cost_max_pico = 0
        self._first_blank = 0  # of blank lines that may be the last ones; 0: none
        self._blocks: list[Block] = []
        self._end = 0  # of what was taken, bytes
        self._lines_end = 0  # of the last line that is not blank
        self._block_at = 0  # first line of the block that is being filled
        self._block_first_byte = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing that is still to come would change the answer."""
        return len(self._mistakes) >= MISTAKES_MAX or self._lines > self._bounds.lines_max

    def line(self, data: bytes) -> None:
        """Take the next line, with its newline if it has one."""
        self._number += 1
        if is_blank(data):
            self._first_blank = self._first_blank or self._number
            self._end += len(data)
            return
        self._no_blanks_between()
        if self._count_line():
            self._check(data)
        self._pass(len(data))

    def too_long(self, size_bytes: int) -> None:
        """Take note of a line that is longer than ``line_bytes_max``, of which nothing else was kept."""
        self._number += 1
        self._no_blanks_between()
        if self._count_line():
            message = f"This line is longer than {self._bounds.line_bytes_max} bytes."
            self._add(LineMistake(INVALID, message, self._number))
        self._pass(size_bytes)

    def finish(self) -> Checked | tuple[LineMistake, ...]:
        """Return what the file holds, or what is wrong with it in the order of its lines."""
        if self._lines > self._bounds.lines_max:
            message = f"The file holds more than {self._bounds.lines_max} requests."
            return (*self._mistakes[: MISTAKES_MAX - 1], LineMistake(TOO_MANY, message))
        if not self._lines:
            return (LineMistake(EMPTY, "The file holds no requests."),)
        if self._mistakes:
            return tuple(self._mistakes)
        self._cut()
        return Checked(self._model, self._lines, self._tokens_max, self._cost_max_pico, tuple(self._blocks))

    def _no_blanks_between(self) -> None:
        """Report blank lines that turn out not to be the last ones: where they stand, no request would have a line."""
        if self._first_blank:
            for number in range(self._first_blank, self._number):
                self._add(LineMistake(INVALID_JSON, "This line is blank.", number))
            self._first_blank = 0

    def _count_line(self) -> bool:
        self._lines += 1
        return not self.is_over

    def _check(self, data: bytes) -> None:
        request = parse_line(data, self._number, self._endpoint.route)
        if isinstance(request, LineMistake):
            self._add(request)
            return
        digest = hashlib.blake2b(request.custom_id.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()
        if digest in self._custom_ids:
            message = f"The custom_id '{shortened(request.custom_id)}' is that of an earlier line too."
            self._add(LineMistake(DUPLICATE, message, self._number, "custom_id"))
            return
        self._custom_ids.add(digest)
        call = prepare_line(request, self._number, self._endpoint, self._terms)
        if isinstance(call, LineMistake):
            self._add(call)
        else:
            self._sum(call)

    def _sum(self, call: PreparedCall) -> None:
        self._model = self._model or call.model.id
        if call.model.id != self._model:
            message = f"All requests in a batch must use the same model; the first one uses '{self._model}'."
            self._add(LineMistake(OTHER_MODEL, message, self._number, "body.model"))
            return
        try:
            cost_pico = cost_bound_pico(call, self._prices, TariffClass.BATCH)
        except UnpricedError:
            message = f"The model '{call.model.id}' has no batch price for this endpoint."
            self._add(LineMistake(INVALID, message, self._number, "body.model"))
            return
        self._tokens_max += tokens_max(call)
        self._cost_max_pico += cost_pico

    def _add(self, mistake: LineMistake) -> None:
        if len(self._mistakes) < MISTAKES_MAX:
            self._mistakes.append(mistake)

    def _pass(self, size_bytes: int) -> None:
        self._end += size_bytes
        self._lines_end = self._end
        if (
            self._lines - self._block_at >= min(max(FIRST_BLOCK_LINES, self._block_at), self._bounds.block_lines_max)
            or self._end - self._block_first_byte >= self._bounds.block_bytes_max
        ):
            self._cut()

    def _cut(self) -> None:
        """End the block that is being filled; blank lines at the end of the file are in none."""
        lines = self._lines - self._block_at
        if lines and not self._mistakes:
            first_byte, number = self._block_first_byte, len(self._blocks)
            size_bytes = self._lines_end - first_byte
            self._blocks.append(Block(self._batch_id, number, self._block_at, lines, first_byte, size_bytes))
        self._block_at, self._block_first_byte = self._lines, self._lines_end
