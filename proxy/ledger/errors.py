"""What can go wrong with the ledger, in the words of its callers.

What belongs here: the few errors that leave this folder. None of their messages holds a secret or a
statement's parameters; the driver's own exception travels as the cause.
"""


class LedgerError(Exception):
    """The root of everything below."""


class LedgerUnavailableError(LedgerError):
    """The database does not answer, or not in time: nothing is known about what it did. Try again."""


class LedgerRefusedError(LedgerError):
    """The database can never take this: a constraint or a data type stands against it."""


class LedgerSchemaError(LedgerError):
    """The database was migrated by a newer version of this program."""


class OutboxError(LedgerError):
    """A call could not be committed to the outbox: it is not durable and must not be reported as served."""


class OutboxLockedError(OutboxError):
    """Another process owns this outbox."""


class RefusedChangeError(LedgerError):
    """A change that an operator asked for makes no sense; the message says why, for the operator."""


class UnknownAccountError(RefusedChangeError):
    """No account has this name."""


class UnknownOverrideError(RefusedChangeError):
    """No override has this id."""


class UnknownKeyError(RefusedChangeError):
    """No key has this id."""


class DuplicateAccountError(RefusedChangeError):
    """The name is taken."""


class CreditConflictError(RefusedChangeError):
    """The reference was used for another purchase."""


class PriceVersionConflictError(RefusedChangeError):
    """A price version that entries were rated with now comes with other prices."""


class DamagedError(LedgerError):
    """What is kept is not what was stored, or contradicts itself; the message says what."""
