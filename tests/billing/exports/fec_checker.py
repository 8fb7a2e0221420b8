"""Checks a *fichier des écritures comptables* as the tax administration's rules want it, from the rules alone.

Article A47 A-1 of the Livre des procédures fiscales, VII-1: eighteen fields, named in the first record, in this order,
separated by a tab; records ended by CR LF; dates AAAAMMJJ; amounts with a decimal comma, no separator of thousands;
fields 1 to 6, 9 to 13 and 16 are never blank; entries numbered without a gap, in chronological order, each in balance.
"""

import re
from decimal import Decimal
from itertools import pairwise

FIELDS = [
    "JournalCode",
    "JournalLib",
    "EcritureNum",
    "EcritureDate",
    "CompteNum",
    "CompteLib",
    "CompAuxNum",
    "CompAuxLib",
    "PieceRef",
    "PieceDate",
    "EcritureLib",
    "Debit",
    "Credit",
    "EcritureLet",
    "DateLet",
    "ValidDate",
    "Montantdevise",
    "Idevise",
]
MANDATORY = [*FIELDS[:6], *FIELDS[8:13], FIELDS[15]]
DATE = re.compile(r"(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])")
AMOUNT = re.compile(r"[0-9]+,[0-9]{2}")
ACCOUNT = re.compile(r"[1-7][0-9]{2,}[0-9A-Z]*")

Record = dict[str, str]


class FecError(AssertionError):
    """The file breaks a rule."""


def need(holds: object, what: str) -> None:
    if not holds:
        raise FecError(what)


def checked(content: bytes, first_number: int = 1) -> list[Record]:
    """Return the records of a file that breaks no rule. Raises ``FecError``."""
    text = content.decode("utf-8")
    need(not text.startswith("\ufeff"), "a byte order mark")
    need(text.endswith("\r\n"), "the last record does not end")
    lines = text[:-2].split("\r\n")
    need(lines[0].split("\t") == FIELDS, "the first record does not name the fields")
    records = [_record(line) for line in lines[1:]]
    need(records, "no entry")
    _entries(records, first_number)
    return records


def _record(line: str) -> Record:
    need(all(char.isprintable() for char in line.replace("\t", "")), f"a character that cannot be printed: {line!r}")
    values = line.split("\t")
    need(len(values) == len(FIELDS), f"{len(values)} fields: {line!r}")
    record = dict(zip(FIELDS, values, strict=True))
    for field in MANDATORY:
        need(record[field].strip(), f"{field} is blank: {line!r}")
    need(all(value == value.strip() for value in values), f"blanks around a value: {line!r}")
    for field in ("EcritureDate", "PieceDate", "ValidDate"):
        need(DATE.fullmatch(record[field]), f"{field} is no date: {line!r}")
    need(record["EcritureDate"] <= record["ValidDate"], f"validated before it was: {line!r}")
    need(ACCOUNT.fullmatch(record["CompteNum"]), f"no account of the chart: {line!r}")
    need(bool(record["CompAuxNum"]) == bool(record["CompAuxLib"]), f"half an auxiliary account: {line!r}")
    for field in ("Debit", "Credit"):
        need(AMOUNT.fullmatch(record[field]), f"{field} is no amount: {line!r}")
    need((amount(record["Debit"]) > 0) != (amount(record["Credit"]) > 0), f"not one side: {line!r}")
    return record


def _entries(records: list[Record], first_number: int) -> None:
    numbers = [int(record["EcritureNum"]) for record in records]
    need(numbers[0] == first_number, f"begins with {numbers[0]}")
    need(all(after - before in (0, 1) for before, after in pairwise(numbers)), "a gap in numbers")
    dates = [record["EcritureDate"] for record in records]
    need(dates == sorted(dates), "not in chronological order")
    titles: dict[str, str] = {}
    for record in records:
        title = titles.setdefault(record["CompteNum"], record["CompteLib"])
        need(title == record["CompteLib"], f"two titles for {record['CompteNum']}")
    for number in set(numbers):
        lines = [record for record in records if int(record["EcritureNum"]) == number]
        for field in ("JournalCode", "EcritureDate", "PieceRef", "PieceDate", "ValidDate"):
            need(len({line[field] for line in lines}) == 1, f"entry {number} has two of {field}")
        need(debits(lines) == credits_of(lines), f"entry {number} is not in balance")


def amount(text: str) -> Decimal:
    return Decimal(text.replace(",", "."))


def debits(records: list[Record]) -> Decimal:
    return sum((amount(record["Debit"]) for record in records), Decimal())


def credits_of(records: list[Record]) -> Decimal:
    return sum((amount(record["Credit"]) for record in records), Decimal())
