"""The section ``batch:`` of proxy.yaml.

What belongs here: the settings of async batches and of the files that they are made of, each with its meaning, as in
types.py. What does not: how many tokens a tier may have enqueued (files.py), and credentials (object_store.py).
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

_RESTART: Final = {"restart": True}


class BatchSettings(msgspec.Struct, frozen=True):
    """Async batches: how large they may be, how many of their lines run at once, and where files are kept."""

    lines_max: Annotated[int, Meta(ge=1, le=1_000_000, description="Most lines of an input file.")] = 50_000
    file_bytes_max: Annotated[
        int, Meta(ge=1, le=5_368_709_120, description="Largest file that is taken; beyond it the answer is 413.")
    ] = 209_715_200
    account_files_max: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Most uploaded files that an account keeps at a time.")
    ] = 10_000
    account_file_bytes_max: Annotated[
        int, Meta(ge=1, le=1_125_899_906_842_624, description="How large they may be together.")
    ] = 107_374_182_400
    lines_in_flight_max: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Most lines that a process runs at once; 0: it runs none, and leaves them to others.",
        ),
    ] = 256
    account_lines_in_flight_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Most of them that are one account's.")
    ] = 128
    model_lines_in_flight_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Most of them that ask one model.")
    ] = 128
    places_kept_percent: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="Share of each upstream's `in_flight_max` that lines leave free, rounded down: calls that come "
            "take these places before they cut a line short. 100: no line is run.",
        ),
    ] = 10
    block_lines_max: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Most lines that are leased at once: a block, which one process runs. "
            "The first blocks of a file are smaller, so that processes share a small batch.",
        ),
    ] = 1024
    block_bytes_max: Annotated[
        int, Meta(ge=1, le=67_108_864, description="Size from which on a block takes no further line.")
    ] = 4_194_304
    lease_s: Annotated[
        int,
        Meta(
            ge=5,
            le=3600,
            description="Life of a lease without a sign of its process; then another one takes its lines over.",
        ),
    ] = 30
    commit_interval_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="How long a line that has ended waits for others of its block, to be recorded together: so "
            "much work is done again when its process is killed.",
        ),
    ] = 1000
    poll_s: Annotated[float, Meta(gt=0, le=60, description="Between two looks for work that others have left.")] = 1.0
    input_days: Annotated[
        int, Meta(ge=0, le=3650, description="Days until an uploaded file is deleted; 0: when its owner does it.")
    ] = 30
    result_days: Annotated[
        int, Meta(ge=0, le=3650, description="Days until a file of results is deleted; 0: when its owner does it.")
    ] = 30
    store: Annotated[
        str | None,
        Meta(
            description="Where files are kept: `s3://bucket` or `s3://bucket/prefix` of an S3-compatible object store, "
            "which replicas share; left out: the folder `files` of the state folder, for one machine.",
            extra={"form": "object_store", **_RESTART},
        ),
    ] = None
    s3_endpoint: Annotated[
        str | None,
        Meta(
            description="URL of the object store, `http(s)://host[:port]`; left out: that of AWS in `s3_region`.",
            extra={"form": "endpoint", **_RESTART},
        ),
    ] = None
    s3_region: Annotated[
        str, Meta(description="Region that requests are signed for.", extra={"form": "region", **_RESTART})
    ] = "us-east-1"
    s3_access_key_id_file: Annotated[
        str | None, Meta(description="File that holds the id of the access key.", extra={"secret": True, **_RESTART})
    ] = None
    s3_secret_access_key_file: Annotated[
        str | None, Meta(description="File that holds its secret.", extra={"secret": True, **_RESTART})
    ] = None
