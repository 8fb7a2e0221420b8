"""Where files are kept, when it is not a folder. Pure.

What belongs here: what must be known of an object store. What does not: speaking to it (proxy/files).
"""

import msgspec


class ObjectStore(msgspec.Struct, frozen=True):
    """An S3-compatible object store.

    Args:
        bucket: in which files are kept.
        prefix: of their names there, without slashes around it; empty: none.
        endpoint: ``http(s)://host[:port]``; None: that of AWS in the region.
        region: that requests are signed for.
        access_key_id: who signs.
        secret_access_key: with what.
    """

    bucket: str
    prefix: str
    endpoint: str | None
    region: str
    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        """Leave the key out: a repr ends up in logs."""
        return f"ObjectStore(bucket={self.bucket!r}, prefix={self.prefix!r}, endpoint={self.endpoint!r})"
