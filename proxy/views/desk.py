"""Views: answers that use nothing.

What belongs here: who asks, how often they may, which view it is, and what is told of it. What does not: the shapes
(models.py, usage.py, receipt.py), and calls (gateway.py).

A view is no call: it counts in no limit and leaves no entry. What looks into the ledger is paced for each account, and
bounded for all of them together: looking must never make a call wait.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec
from uuid_utils import uuid7

from proxy.allowances import Allowances, limits_of_models
from proxy.clock import unix_ms
from proxy.core.accounts import Account
from proxy.core.errors import ApiError, internal, rate_limited, route_not_found, unauthorized, unavailable
from proxy.core.headers import refusal_lines
from proxy.core.limits import Admission
from proxy.incoming import Answer
from proxy.ledger.directory import Directory
from proxy.ledger.errors import LedgerError
from proxy.ledger.reading import Reader
from proxy.limiter import Limiter, LimiterUnavailableError
from proxy.months import Months
from proxy.observer import Observer, Report
from proxy.settings.types import Settings
from proxy.tasks import Tasks
from proxy.views.contract import POST, ROUTES, TRANSFERS, Asked, Caller, Content, Desk, RefusedError, View
from proxy.views.credit import ShownCredit, credit_shown
from proxy.views.models import ModelBodies
from proxy.views.pace import Pace
from proxy.views.receipt import call_not_found, receipt_of
from proxy.views.usage import usage_shown

OK: Final = 200
CLIENT_GONE: Final = 499
READS_MAX: Final = 16
"""Looks into the ledger at once, of all accounts together; those beyond the connections that there are wait."""
READ_S: Final = 5.0
PACED: Final = "views"
"""What ``X-RateLimit-Bound`` says when an account looks too often."""
_PRIVATE: Final = b"cache-control: no-store\r\n"
_PLAIN: Final = b"x-content-type-options: nosniff\r\n"
_BYTES: Final = b"application/octet-stream"
"""Of a file, whatever is in it: a browser shows none of it."""

T = TypeVar("T")


class Views:
    """Answers views.

    Args:
        settings: returns the settings in force.
        directory: knows the keys.
        limiter: knows what has room.
        reader: knows what has been settled.
        observer: is told of every view.
        tasks: where a look into the ledger ends whose client has left: one that is cut would keep its snapshot.
        clock: monotonic seconds.
        is_degraded: whether limits are kept without the store that replicas share; answers then say so.
        desks: who answers the views that are not answered here.
        read_s: how long a look into the ledger may take.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        directory: Directory,
        limiter: Limiter,
        reader: Reader,
        observer: Observer,
        tasks: Tasks,
        clock: Callable[[], float],
        is_degraded: Callable[[], bool] = lambda: False,
        *,
        desks: Mapping[View, Desk] = MappingProxyType({}),
        read_s: float = READ_S,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._limiter = limiter
        self._reader = reader
        self._observer = observer
        self._tasks = tasks
        self._clock = clock
        self._is_degraded = is_degraded
        self._desks = desks
        self._read_s = read_s
        self._months = Months()
        self._allowances = Allowances()
        self._models = ModelBodies()
        self._pace = Pace(clock)
        self._reading = 0

    async def serve(self, asked: Asked) -> Answer:
        """Answer. Raises only CancelledError: the client has left."""
        report = Report(str(uuid7()), ROUTES[asked.view], asked.started_s, asked.client_request_id)
        lines = b""
        try:
            shown = await self._view(asked, report)
            report.status = OK
            if isinstance(shown, Content):
                return self._content(shown, report)
            body = shown
            if asked.view not in {View.MODELS, View.MODEL}:
                lines = _PRIVATE
        except RefusedError as error:
            body, lines = _refused(error.error, report), error.lines
        except ApiError as error:
            body = _refused(error, report)
        except asyncio.CancelledError:
            report.status = CLIENT_GONE
            raise
        except Exception as exc:  # noqa: BLE001 - the last line: a bug must not leave a client without an answer
            self._observer.failed("view", exc)
            body = _refused(internal(), report)
        finally:
            self._observer.viewed(report, asked.view.value, self._clock())
        return Answer(report.status, self._lines(report) + lines, body)

    def _content(self, content: Content, report: Report) -> Answer:
        lines = self._lines(report) + _PRIVATE + _PLAIN
        return Answer(OK, lines, b"", _BYTES, content.pieces, content.size_bytes)

    async def _view(self, asked: Asked, report: Report) -> bytes | Content:
        caller = self._identify(asked.token, report)
        with contextlib.suppress(LimiterUnavailableError):  # then without limit headers
            assert report.allowance is not None
            report.admission = await self._limiter.peek(caller.account.id, report.allowance.limits)
        models = caller.settings.models
        if asked.view is View.MODELS:
            return self._models.all(models)
        if asked.view is View.MODEL:
            return self._models.one(models, asked.name)
        self._keep_pace(caller.account)
        if asked.view is View.USAGE:
            return await self._usage(caller, report)
        if asked.view is View.RECEIPT:
            return await self._receipt(caller, asked.name)
        desk = self._desks.get(asked.view)
        if desk is None:
            raise route_not_found()
        if (asked.view, asked.method) in TRANSFERS:
            return await desk.answer(asked, caller, b"")
        posted = await asked.body() if asked.method == POST else b""
        return await self._read(desk.answer(asked, caller, posted))

    def _identify(self, token: str | None, report: Report) -> Caller:
        settings, now_ms = self._settings(), unix_ms()
        principal = self._directory.authenticate(token, now_ms) if token is not None else None
        if principal is None:
            raise unauthorized()
        account = principal.account
        tier = settings.tiers.get(account.tier)
        if tier is None:  # a reload took away a tier that an account still holds
            raise unavailable()
        month = self._months.at(now_ms, account.timezone)
        report.principal, report.tier = principal, tier
        report.allowance = self._allowances.of(principal, None, tier, month, now_ms)
        return Caller(settings, principal, tier, month, now_ms)

    def _keep_pace(self, account: Account) -> None:
        wait_ms = self._pace.take(account.id)
        if wait_ms:
            bound = Admission(admitted=False, now_ms=0, states=(), bound=PACED, retry_after_ms=wait_ms)
            raise RefusedError(rate_limited(), refusal_lines(bound))

    async def _usage(self, caller: Caller, report: Report) -> bytes:
        admission, allowance = report.admission, report.allowance
        if admission is None or allowance is None:  # what is used is not known, and unknown is not zero
            raise unavailable()
        account, month = caller.account, caller.month
        used = await self._read(self._reader.sums(account.id, month.day, month.name))
        limits = list(zip(allowance.limits, admission.states, strict=True))
        if with_models := limits_of_models(caller.settings.models.values()):
            try:
                looked = await self._limiter.peek(account.id, with_models)
            except LimiterUnavailableError:
                raise unavailable() from None
            limits += zip(with_models, looked.states, strict=True)
        shown = usage_shown(
            account,
            caller.tier,
            month,
            limits,
            used,
            caller.now_ms,
            credit=await self._credit(caller),
            is_degraded=self._is_degraded(),
        )
        return msgspec.json.encode(shown)

    async def _credit(self, caller: Caller) -> ShownCredit | None:
        account = caller.account
        if not account.credit_paid_pico and not account.prepaid_only:
            return None
        facts = await self._read(self._reader.credit(account.id))
        return credit_shown(account, caller.tier, facts, caller.now_ms)

    async def _receipt(self, caller: Caller, call_id: str) -> bytes:
        entry = await self._read(self._reader.entry(caller.account.id, call_id))
        if entry is None:
            raise call_not_found()
        return msgspec.json.encode(receipt_of(entry, caller.settings))

    async def _read(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a look into the ledger. Raises ApiError (503) when there are too many, or it takes too long."""
        if self._reading >= READS_MAX:
            work.close()
            raise unavailable()
        self._reading += 1
        task = self._tasks.spawn(self._to_its_end(work), "view")
        try:
            async with asyncio.timeout(self._read_s):
                found: T | ApiError | RefusedError = await asyncio.shield(task)
        except TimeoutError:
            raise unavailable() from None
        if isinstance(found, ApiError | RefusedError):
            raise found
        return found

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T | ApiError | RefusedError:
        """Do it; a ledger that is away is an answer, not a failure to be logged: others have said so already."""
        try:
            return await work
        except (ApiError, RefusedError) as refusal:
            return refusal
        except LedgerError:
            return unavailable()
        finally:
            self._reading -= 1

    def _lines(self, report: Report) -> bytes:
        """Return the headers that every answer carries, as those to calls do."""
        lines = b"x-request-id: %b\r\n" % report.call_id.encode()
        if report.admission is not None and report.allowance is not None:
            lines += report.allowance.headers.lines(report.admission)
        return lines + b"X-RateLimit-Degraded: true\r\n" if self._is_degraded() else lines


def _refused(error: ApiError, report: Report) -> bytes:
    report.status, report.error_type = error.status, error.type
    return error.body
