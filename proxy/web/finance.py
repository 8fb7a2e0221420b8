"""What finance asks of the admin listener, put together.

What belongs here: which routes there are. What does not: what they do (downloads.py, invoices.py).
"""

from collections.abc import Callable

from aiohttp import web

from proxy.ledger.database import Database
from proxy.ledger.location import Location
from proxy.settings.types import Settings
from proxy.web.downloads import Downloads
from proxy.web.invoices import DocumentRoutes


def finance_routes(
    place: Location, database: Database, settings: Callable[[], Settings], worker: int
) -> list[web.RouteDef]:
    """Return the routes.

    Args:
        place: where the ledger and the outboxes are.
        database: the ledger; none of the connections that calls need.
        settings: those in use.
        worker: number of this process among those that share the state folder.
    """
    return [*Downloads(place, settings, worker).routes(), *DocumentRoutes(database).routes()]
