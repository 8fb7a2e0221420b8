"""A file store in an S3-compatible object store, which replicas share.

What belongs here: requests of S3's API, and what their failures mean. What does not: credentials (they are given), and
what is in the files.

A file goes up in parts, one at a time, and is there when the last request has been answered: until then nobody sees it,
and a writer that fails takes its parts back. It comes down in pieces, each a request of its own: a reader who is slow
holds no connection, and a piece that breaks off is asked for again. So neither way holds more than a part in memory.

Requests are tried again by the library, a few times and only where that does no harm. Each part is sent with its MD5,
so that the store refuses what came to it otherwise than it left.
"""

import asyncio
import base64
import contextlib
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import datetime
from typing import Any, Final, Self, TypeVar

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from proxy.core.batches.storage import ObjectStore
from proxy.files.contract import FileMissingError, FileStoreError, Stored, Written, checked_name, checked_prefix

PART_BYTES: Final = 8_388_608
"""Of an upload; S3 takes at most 10,000 of them, and none but the last below 5 MiB."""
PIECE_BYTES: Final = 4_194_304
"""What is asked for at a time."""
CONNECT_S: Final = 5
SILENCE_S: Final = 30
"""How long the store may say nothing."""
REQUEST_S: Final = 120
"""How long a request may take with all its attempts."""
ABORT_S: Final = 10
ATTEMPTS: Final = 4
CONNECTIONS_MAX: Final = 64

_MARK: Final = "upload"
"""What an object was uploaded as tells an upload from another of the same name."""
_MISSING: Final = frozenset({"NoSuchKey", "404"})

# What it says below is of requests with their signatures, and of bodies: neither is for a log.
logging.getLogger("botocore").setLevel(logging.INFO)
logging.getLogger("aiobotocore").setLevel(logging.INFO)

T = TypeVar("T")


class S3Store:
    """Keeps files in a bucket (``proxy.files.contract.FileStore``).

    Args:
        client: of S3's API, open.
        bucket: that is there.
        prefix: of every name; empty, or ends with a slash.
        closing: ends the client.
    """

    def __init__(self, client: Any, bucket: str, prefix: str, closing: contextlib.AsyncExitStack) -> None:  # noqa: ANN401 - made at run time
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._closing = closing

    @classmethod
    async def open(cls, place: ObjectStore) -> Self:
        """Make the client; nothing is connected yet. Takes some tenths of a second: before anybody is served."""
        config = AioConfig(
            signature_version="s3v4",
            connect_timeout=CONNECT_S,
            read_timeout=SILENCE_S,
            max_pool_connections=CONNECTIONS_MAX,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            # The MD5 does what newer checksums do, and every store knows it. The path names the bucket wherever the
            # store is not AWS itself: there is no name in the DNS for it.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if place.endpoint else "auto", "payload_signing_enabled": False},
            ignore_configured_endpoint_urls=True,
        )
        closing = contextlib.AsyncExitStack()
        client = await closing.enter_async_context(
            get_session().create_client(
                "s3",
                endpoint_url=place.endpoint,
                region_name=place.region,
                aws_access_key_id=place.access_key_id,
                aws_secret_access_key=place.secret_access_key,
                config=config,
            )
        )
        return cls(client, place.bucket, f"{place.prefix}/" if place.prefix else "", closing)

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> Written:
        """Keep a file; see the contract."""
        upload = _Upload(self._client, {"Bucket": self._bucket, "Key": self._key(name)})
        digest = hashlib.sha256()
        try:
            part = bytearray()
            async for chunk in chunks:
                part += chunk
                while len(part) > PART_BYTES:  # the last one is kept: it ends the upload
                    await upload.add(bytes(part[:PART_BYTES]), digest)
                    del part[:PART_BYTES]
            await upload.finish(bytes(part), digest)
        except BaseException:
            await upload.abandon()
            raise
        return Written(upload.size_bytes, digest.hexdigest())

    async def read(self, name: str, first_byte: int = 0, size_bytes: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes of a file; see the contract. It is one file, even when it is replaced meanwhile."""
        key = {"Bucket": self._bucket, "Key": self._key(name)}
        end = None if size_bytes is None else first_byte + size_bytes
        if first_byte < 0 or (end is not None and end < first_byte):
            raise FileStoreError(f"{name} has no bytes {first_byte} to {end}")
        if end is None or end == first_byte:
            found = await _asked(self._client.head_object(**key), name)
            key["IfMatch"], size = found["ETag"], found["ContentLength"]
            end = size if end is None else end
            if not first_byte <= end <= size:
                raise FileStoreError(f"{name} has no bytes {first_byte} to {end}")
        while first_byte < end:
            last_byte = min(end, first_byte + PIECE_BYTES) - 1
            piece, key["IfMatch"] = await self._piece(name, key, first_byte, last_byte)
            if len(piece) != last_byte + 1 - first_byte:
                raise FileStoreError(f"{name} has no bytes {first_byte} to {end}")
            first_byte += len(piece)
            yield piece

    async def delete(self, name: str) -> None:
        """Delete a file; see the contract."""
        with contextlib.suppress(FileMissingError):
            await _asked(self._client.delete_object(Bucket=self._bucket, Key=self._key(name)), name)

    async def names(self, prefix: str) -> AsyncIterator[str]:
        """Yield names; see the contract."""
        async for each in self.stored(prefix):
            yield each.name

    async def stored(self, prefix: str) -> AsyncIterator[Stored]:
        """Yield what is there; see the contract."""
        beginning = self._prefix + checked_prefix(prefix)
        async for each in self._pages("list_objects_v2", "Contents", beginning):
            name = each["Key"].removeprefix(self._prefix)
            yield Stored(name, each["Size"], _ms(each["LastModified"]))

    async def tidy(self, before_ms: int) -> int:
        """Take back parts of uploads whose writers were killed; see the contract."""
        removed = 0
        async for each in self._pages("list_multipart_uploads", "Uploads", self._prefix):
            if _ms(each["Initiated"]) < before_ms:
                key = {"Bucket": self._bucket, "Key": each["Key"], "UploadId": each["UploadId"]}
                await _asked(self._client.abort_multipart_upload(**key), each["Key"])
                removed += 1
        return removed

    async def close(self) -> None:
        """Let go of connections."""
        await self._closing.aclose()

    def _key(self, name: str) -> str:
        return self._prefix + checked_name(name)

    async def _piece(self, name: str, key: dict[str, str], first_byte: int, last_byte: int) -> tuple[bytes, str]:
        """Return bytes of a file, and what tells it from another of the same name."""
        for attempts_left in reversed(range(ATTEMPTS)):
            answer = await _asked(self._client.get_object(**key, Range=f"bytes={first_byte}-{last_byte}"), name)
            try:
                async with asyncio.timeout(REQUEST_S), answer["Body"] as body:
                    return await body.read(), answer["ETag"]
            except (BotoCoreError, aiohttp.ClientError, OSError, TimeoutError) as exc:
                if not attempts_left:
                    raise FileStoreError(f"the object store breaks off: {type(exc).__name__}") from exc
        raise AssertionError

    async def _pages(self, operation: str, items: str, prefix: str) -> AsyncIterator[dict[str, Any]]:
        pages = self._client.get_paginator(operation).paginate(Bucket=self._bucket, Prefix=prefix).__aiter__()
        while True:
            page = await _asked(anext(pages, None), prefix)
            if page is None:
                return
            for each in page.get(items, ()):
                yield each


class _Upload:
    """A file on its way: one request when it fits into one part, else an upload in parts.

    Args:
        client: of S3's API.
        key: bucket and name.
    """

    def __init__(self, client: Any, key: dict[str, str]) -> None:  # noqa: ANN401 - made at run time
        self._client = client
        self._key = key
        self._mark = secrets.token_hex(16)
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []
        self.size_bytes = 0

    async def add(self, part: bytes, digest: Any) -> None:  # noqa: ANN401 - hashlib names no type
        """Send a part that is not the last."""
        name = self._key["Key"]
        if self._upload_id is None:
            marked = {"Metadata": {_MARK: self._mark}}
            began = await _asked(self._client.create_multipart_upload(**self._key, **marked), name)
            self._upload_id = began["UploadId"]
        number = len(self._parts) + 1
        sent = {"UploadId": self._upload_id, "PartNumber": number, **await _body(part, digest)}
        taken = await _asked(self._client.upload_part(**self._key, **sent), name)
        self._parts.append({"PartNumber": number, "ETag": taken["ETag"]})
        self.size_bytes += len(part)

    async def finish(self, part: bytes, digest: Any) -> None:  # noqa: ANN401 - hashlib names no type
        """Send the last part; then the file is there."""
        name = self._key["Key"]
        if self._upload_id is None:
            await _asked(self._client.put_object(**self._key, **await _body(part, digest)), name)
            self.size_bytes = len(part)
            return
        await self.add(part, digest)
        request = self._client.complete_multipart_upload(
            **self._key, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
        )
        try:
            await _asked(request, name)
        except FileStoreError:
            if not await self._is_there():  # the answer to an attempt before may have been lost
                raise
        self._upload_id = None

    async def _is_there(self) -> bool:
        found = await _asked(self._client.head_object(**self._key), self._key["Key"])
        return bool(found.get("Metadata", {}).get(_MARK) == self._mark)

    async def abandon(self) -> None:
        """Take the parts back; what cannot be taken back is found by tidying."""
        if self._upload_id is not None:
            with contextlib.suppress(FileStoreError, TimeoutError):
                async with asyncio.timeout(ABORT_S):
                    request = self._client.abort_multipart_upload(**self._key, UploadId=self._upload_id)
                    await _asked(request, self._key["Key"])


async def _body(part: bytes, digest: Any) -> dict[str, Any]:  # noqa: ANN401 - hashlib names no type
    """Return a part with its MD5, and count it in."""

    def hashed() -> str:
        digest.update(part)
        return base64.b64encode(hashlib.md5(part, usedforsecurity=False).digest()).decode()

    return {"Body": part, "ContentMD5": await asyncio.to_thread(hashed)}


async def _asked(request: Awaitable[T], name: str) -> T:
    """Return the answer to a request. Raises ``FileStoreError``."""
    with _translated(name):
        async with asyncio.timeout(REQUEST_S):
            return await request


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """Say what is wrong, in words that name no key and no address."""
    try:
        yield
    except ClientError as exc:
        code = exc.response.get("Error", {}).get("Code", "unknown")
        if code in _MISSING:
            raise FileMissingError(f"there is no file {name}") from exc
        raise FileStoreError(f"the object store refuses {name}: {code}") from exc
    except (BotoCoreError, aiohttp.ClientError, OSError, TimeoutError) as exc:
        raise FileStoreError(f"the object store does not answer: {type(exc).__name__}") from exc


def _ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)
