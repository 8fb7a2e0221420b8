"""The environment: the variables that win over the files, and where secrets come from.

What belongs here: the table of variables (the reference is generated from it), reading one of them, and
reading a secret from a file. What does not: what the values are used for (loader.py).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from proxy.settings.forms import FORMS
from proxy.settings.mistakes import Mistake, shown

ENVIRONMENT: Final = "environment"
"""What mistakes call the environment, in the place of a file."""

_SECRET_BYTES_MAX: Final = 65_536
_API_KEY: Final = re.compile(r"[\x21-\x7e]+")


class Variable(msgspec.Struct, frozen=True):
    """A variable that is read.

    Args:
        name: with its prefix.
        replaces: the setting of proxy.yaml that it wins over; empty when there is none.
        description: for the reference.
        form: how its text is read, see forms.py; empty for any text.
        is_secret: whether its value may not be quoted.
    """

    name: str
    replaces: str
    description: str
    form: str = ""
    is_secret: bool = False


VARIABLES: Final = {
    variable.name: variable
    for variable in (
        Variable("TOLLGATE_LISTEN", "listen", "Customer listener, host:port.", "listen"),
        Variable("TOLLGATE_ADMIN_LISTEN", "admin_listen", "Listener of the operators' routes.", "listen"),
        Variable("TOLLGATE_STATE_DIR", "state_dir", "Folder of the outbox and of the SQLite ledger."),
        Variable("TOLLGATE_REDIS_URL", "redis_url", "May hold a password.", "redis_url", is_secret=True),
        Variable("TOLLGATE_REDIS_URL_FILE", "redis_url_file", "File that holds the URL.", is_secret=True),
        Variable("TOLLGATE_DATABASE_URL", "database_url", "May hold a password.", "database_url", is_secret=True),
        Variable("TOLLGATE_DATABASE_URL_FILE", "database_url_file", "File that holds the URL.", is_secret=True),
        Variable(
            "TOLLGATE_UPSTREAM",
            "",
            "Base URL of one server that serves every model of models.yaml, in place of its upstreams. "
            "Each model keeps the engine of its first upstream.",
            "base_url",
        ),
        Variable("TOLLGATE_WEBHOOK_URL", "webhooks.url", "Receiver of signed events.", "webhook_url", is_secret=True),
        Variable("TOLLGATE_WEBHOOK_SECRET", "webhooks.secret_file", "Key of their signatures.", is_secret=True),
        Variable("TOLLGATE_WEBHOOK_SECRET_FILE", "webhooks.secret_file", "File that holds that key.", is_secret=True),
        Variable(
            "TOLLGATE_S3_ACCESS_KEY_ID",
            "batch.s3_access_key_id_file",
            "Id of the access key of the object store.",
            is_secret=True,
        ),
        Variable(
            "TOLLGATE_S3_ACCESS_KEY_ID_FILE", "batch.s3_access_key_id_file", "File that holds that id.", is_secret=True
        ),
        Variable(
            "TOLLGATE_S3_SECRET_ACCESS_KEY", "batch.s3_secret_access_key_file", "Secret of that key.", is_secret=True
        ),
        Variable(
            "TOLLGATE_S3_SECRET_ACCESS_KEY_FILE",
            "batch.s3_secret_access_key_file",
            "File that holds that secret.",
            is_secret=True,
        ),
        Variable("TOLLGATE_UPSTREAM_API_KEY", "", "Key to send to `TOLLGATE_UPSTREAM`.", is_secret=True),
        Variable("TOLLGATE_UPSTREAM_API_KEY_FILE", "", "File that holds that key.", is_secret=True),
    )
}
"""Every variable by its name."""


class Environment:
    """The environment while it is being read; it collects mistakes. A blank value counts as absent."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ: Final = environ
        self.mistakes: Final[list[Mistake]] = []

    def raw(self, name: str) -> str | None:
        """Return the text of any variable."""
        return self._environ.get(name, "").strip() or None

    def secret(self, name: str) -> str:
        """Return the text of a variable that a file names.

        Raises:
            ValueError: it is not set.
        """
        text = self.raw(name)
        if text is None:
            raise ValueError("the environment variable that it names is not set")
        return text

    def add(self, name: str, message: str) -> None:
        """Report a mistake about a variable."""
        self.mistakes.append(Mistake(ENVIRONMENT, None, name, message))

    def value(self, name: str) -> str | None:
        """Return the value of a variable of the table; None when it is absent, or wrong and so reported."""
        text = self.raw(name)
        variable = VARIABLES[name]
        if text is None or not variable.form:
            return text
        try:
            return str(FORMS[variable.form](text))
        except ValueError as exc:
            got = "a value that is not shown here" if variable.is_secret else repr(shown(text))
            self.add(name, f"expected {exc}, got {got}")
            return None

    def value_or_file(self, name: str) -> str | None:
        """Return the value of a variable, or of the file that ``<name>_FILE`` names."""
        file_name = f"{name}_FILE"
        file = self.raw(file_name)
        if file is None:
            return self.value(name)
        if self.raw(name) is not None:
            self.add(file_name, f"give one of {name} and {file_name}")
            return None
        try:
            return secret_from_file(Path(file), VARIABLES[name].form)
        except ValueError as exc:
            self.add(file_name, str(exc))
            return None


def secret_from_file(path: Path, form: str = "") -> str:
    """Read a secret: the text of a file less the blanks around it.

    Raises: ValueError: there is no sound secret; the message holds nothing of the file nor its path (which
        may be a key
            that was written in the wrong place).
    """
    try:
        with path.open("rb") as file:
            data = file.read(_SECRET_BYTES_MAX + 1)
        text = data.decode("utf-8").strip()
    except OSError as exc:
        raise ValueError(f"the file that it names cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ValueError("the file that it names is no UTF-8 text") from exc
    if not text or len(data) > _SECRET_BYTES_MAX:
        raise ValueError("the file that it names is empty or too large")
    if not form:
        return text
    try:
        return str(FORMS[form](text))
    except ValueError as exc:
        raise ValueError(f"expected {exc}, in the file that it names") from exc


def checked_api_key(key: str) -> str:
    """Return a key that can stand in a header.

    Raises:
        ValueError: it holds blanks, control characters or anything beyond ASCII.
    """
    if _API_KEY.fullmatch(key) is None:
        raise ValueError("the key holds characters that cannot be sent in a header")
    return key
