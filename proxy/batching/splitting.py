"""Lines out of the pieces of a file.

What belongs here: finding newlines. What does not: what a line means (core/batches/lines.py).
"""

from collections.abc import AsyncGenerator, AsyncIterator


async def lines_of(pieces: AsyncIterator[bytes], line_bytes_max: int) -> AsyncGenerator[bytes | int, None]:
    """Yield the lines of a file, each with its newline; the last one may have none.

    Args:
        pieces: of the file; closed at the end, or when this is.
        line_bytes_max: of a longer line nothing is kept; in its place its size is yielded.
    """
    kept: list[bytes] = []
    size = 0  # of the line that has begun
    try:
        async for piece in pieces:
            start = 0
            while start < len(piece):
                newline = piece.find(b"\n", start)
                end = len(piece) if newline < 0 else newline + 1
                size += end - start
                if size <= line_bytes_max:
                    kept.append(piece[start:end])
                if newline >= 0:
                    yield b"".join(kept) if size <= line_bytes_max else size
                    kept.clear()
                    size = 0
                start = end
        if size:
            yield b"".join(kept) if size <= line_bytes_max else size
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
