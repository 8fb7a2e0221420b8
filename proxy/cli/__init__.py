"""The command line: ``tollgate``. One module a command; what they share is in ``ledger_session``."""

import click

from proxy import __version__
from proxy.cli.accounts import accounts
from proxy.cli.batch import batch
from proxy.cli.check import check
from proxy.cli.credit import credit
from proxy.cli.demo import demo
from proxy.cli.events import events
from proxy.cli.export import export
from proxy.cli.invoice import invoice
from proxy.cli.keys import keys
from proxy.cli.limits import limits
from proxy.cli.reconcile import reconcile
from proxy.cli.serve import serve
from proxy.cli.simulate import simulate
from proxy.cli.usage import usage
from proxy.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tollgate")
def main() -> None:
    """Tollgate: a metering, limiting and pricing reverse proxy in front of an LLM inference cluster."""


for command in (
    serve,
    check,
    demo,
    accounts,
    keys,
    limits,
    credit,
    events,
    usage,
    batch,
    invoice,
    export,
    simulate,
    reconcile,
    verify,
):
    main.add_command(command)
