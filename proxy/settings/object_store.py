"""The object store that files are kept in: from ``batch:`` of proxy.yaml and the environment.

What belongs here: making it whole with its credentials, which come from the environment or from files, never from
proxy.yaml. What does not: the settings themselves (batch.py).
"""

from pathlib import Path

from proxy.core.batches.storage import ObjectStore
from proxy.settings.batch import BatchSettings
from proxy.settings.document import Document
from proxy.settings.environment import Environment, checked_api_key, secret_from_file

_STORE_ONLY = ("s3_endpoint", "s3_access_key_id_file", "s3_secret_access_key_file")


def read_object_store(
    document: Document, environment: Environment, batch: BatchSettings, folder: Path
) -> ObjectStore | None:
    """Return the object store; None: files are kept in a folder, or it is wrong and so reported.

    Args:
        document: proxy.yaml.
        environment: wins over it.
        batch: its section.
        folder: from which its files are looked for.
    """
    if batch.store is None:
        for name in _STORE_ONLY:
            if getattr(batch, name) is not None:
                document.add(("batch", name), "there is no object store that it would be used for: give store")
        return None
    access_key_id = _credential(document, environment, batch, folder, "access_key_id")
    secret_access_key = _credential(document, environment, batch, folder, "secret_access_key")
    if access_key_id is None or secret_access_key is None:
        return None
    bucket, _, prefix = batch.store.removeprefix("s3://").partition("/")
    return ObjectStore(bucket, prefix, batch.s3_endpoint, batch.s3_region, access_key_id, secret_access_key)


def _credential(
    document: Document, environment: Environment, batch: BatchSettings, folder: Path, name: str
) -> str | None:
    setting, variable = f"s3_{name}_file", f"TOLLGATE_S3_{name.upper()}"
    reported = len(environment.mistakes)
    value = environment.value_or_file(variable)
    file: str | None = getattr(batch, setting)
    if value is None and len(environment.mistakes) > reported:
        return None
    if value is None and file is None:
        document.add(("batch", "store"), f"an object store needs credentials: give {variable} or {setting}")
        return None
    try:
        return checked_api_key(value if value is not None else secret_from_file(folder / (file or "")))
    except ValueError as exc:
        if value is not None:
            environment.add(variable, str(exc))
        else:
            document.add(("batch", setting), str(exc))
        return None
