"""``GET /invoices`` on the admin listener: documents as they were issued.

What belongs here: the routes. What does not: issuing, which is a command (cli/invoice.py), and how documents are kept
(ledger/invoices.py), which checks each before it leaves.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from aiohttp import web

from proxy.core.calendar import is_month
from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.errors import DamagedError, LedgerUnavailableError, UnknownAccountError
from proxy.ledger.invoices import Invoices, StoredDocument, UnknownDocumentError

_log = structlog.get_logger(__name__)

_JSON: Final = "application/json"
Handler = Callable[[web.Request], Awaitable[web.Response]]


class DocumentRoutes:
    """Hands documents out."""

    def __init__(self, database: Database) -> None:
        self._accounts = Accounts(database)
        self._invoices = Invoices(database)

    def routes(self) -> list[web.RouteDef]:
        """Return what is to be added to the admin listener."""
        return [
            web.get("/invoices", _answered(self._list)),
            web.get("/invoices/{name}", _answered(self._get)),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        month, account = request.query.get("month"), request.query.get("account")
        if month is None and account is None:
            return _error(400, "month or account: say at least one")
        if month is not None and not is_month(month):
            return _error(400, f"month: not a month (YYYY-MM): {month!r}")
        account_id = (await self._accounts.named(account)).id if account is not None else None
        return _json(await self._invoices.find(account_id=account_id, month=month))

    async def _get(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        number, _, suffix = name.partition(".")
        if suffix not in ("", "pdf", "xml"):
            return _error(404, f"there is no {name!r}")
        stored = await self._invoices.read(number)
        if suffix == "pdf":
            return _file(request, name, "application/pdf", stored.pdf, stored.pdf_sha256)
        if suffix == "xml":
            return _file(request, name, "application/xml", stored.xml, stored.xml_sha256)
        return _json(_document(stored))


def _document(stored: StoredDocument) -> dict[str, object]:
    return {
        "info": stored.info,
        "document": stored.document,
        "pdf_sha256": stored.pdf_sha256,
        "xml_sha256": stored.xml_sha256,
    }


def _file(request: web.Request, name: str, media_type: str, content: bytes, sha256: str) -> web.Response:
    headers = {
        "ETag": f'"{sha256}"',
        "Content-Disposition": f'attachment; filename="{name}"',  # a number is plain letters, digits and hyphens
    }
    if any(tag.value == sha256 for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=content, content_type=media_type, headers=headers)


def _answered(handler: Handler) -> Handler:
    """Return a handler whose errors are answers."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except (UnknownDocumentError, UnknownAccountError) as exc:
            return _error(404, str(exc))
        except LedgerUnavailableError as exc:
            return _error(503, str(exc))
        except DamagedError as exc:
            _log.error("document_damaged", why=str(exc))
            return _error(500, str(exc))

    return handle


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value) + b"\n", status=status, content_type=_JSON)


def _error(status: int, why: str) -> web.Response:
    return _json({"error": why}, status)
