"""The FinOps Foundation's validator, run on a FOCUS file in an environment of its own (`make validators`)."""

import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec

FOLDER = Path(__file__).parent.parent.parent / "build" / "focus-validator"

CRITERIA = (
    "ACCOUNT_NAMING_SUPPORTED",
    "MULTIPLE_PRICING_CATEGORIES_SUPPORTED",
    "NEGOTIATED_PRICING_SUPPORTED",
    "PUBLIC_PRICE_LIST_SUPPORTED",
    "UNIT_PRICING_SUPPORTED",
    "USAGE_MEASUREMENT_SUPPORTED",
)
"""What the validator is told that the proxy supports: the rules of every conditional column that the file has."""


class Verdict(msgspec.Struct, frozen=True):
    """What became of each rule: it holds, it does not, or the validator does not look (it cannot, or need not)."""

    passed: frozenset[str]
    failed: frozenset[str]
    skipped: frozenset[str]


def validate(file: Path) -> Verdict:
    """Hold a file against FOCUS 1.2. The validator's exit code says nothing of rules: its report does."""
    python = FOLDER / "bin" / "python"
    if not (FOLDER / ".ready").exists():
        raise AssertionError(f"the FOCUS validator is not in {FOLDER}: run `make validators`")
    (packages,) = FOLDER.glob("lib/python*/site-packages")  # it finds its rules only from there
    report, logging = file.with_suffix(".report.xml"), file.with_suffix(".logging.yaml")
    report.unlink(missing_ok=True)
    logging.write_text("version: 1\n")  # its own writes a file of everything that it does
    command = [
        str(python),
        "-m",
        "focus_validator.main",
        f"--data-file={file}",
        "--block-download",
        "--validate-version=1.2",
        f"--applicability-criteria={','.join(CRITERIA)}",
        "--output-type=unittest",
        f"--output-destination={report}",
    ]
    environment = os.environ | {"LOGGING_CONFIG": str(logging)}
    done = subprocess.run(
        command, cwd=packages, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, set[str]] = {"passed": set(), "failed": set(), "skipped": set()}
    for case in ET.parse(report).iter("testcase"):
        rule = case.attrib["name"].split(" :: ")[0]
        outcome = "skipped" if case.find("skipped") is not None else "passed" if len(case) == 0 else "failed"
        found[outcome].add(rule)
    return Verdict(*(frozenset(found[outcome]) for outcome in ("passed", "failed", "skipped")))
