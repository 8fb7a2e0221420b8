#!/bin/sh
# Make an environment of its own for the FinOps Foundation's validator of FOCUS files: the tests run it on an export, and
# its libraries are not those of the proxy. Everything comes from the package index by hash.
# usage: install-focus-validator.sh PYTHON FOLDER
#
# Release 2.2.1 asks for Python 3.12 because of one line, which nests quotes in an f-string (PEP 701). With an older
# Python that line is written otherwise; it means the same, and is of a check that FOCUS 1.2 does not have.
set -eu

python=$1
folder=$2
locks=$(dirname "$0")

"$python" -m venv --clear "$folder"
pip="$folder/bin/python -m pip --quiet --disable-pip-version-check"
echo "installing $locks/focus-validator.lock into $folder"
$pip install --no-deps --require-hashes --only-binary :all: -r "$locks/focus-validator-needs.lock"
$pip install --no-deps --require-hashes --no-build-isolation --ignore-requires-python -r "$locks/focus-validator.lock"

"$folder/bin/python" - <<'PATCH'
import pathlib
import sys
import sysconfig

if sys.version_info < (3, 12):
    line = r'''", ".join(f"'{k.replace('\"', '\"\"')}'" for k in ignore_keys)'''
    same = r'''", ".join("'" + k.replace('"', '""') + "'" for k in ignore_keys)'''
    packages = pathlib.Path(sysconfig.get_paths()["purelib"])
    file = packages / "focus_validator" / "config_objects" / "focus_to_duckdb_converter.py"
    text = file.read_text()
    if text.count(line) != 1:
        sys.exit(f"{file} is not the one of release 2.2.1")
    file.write_text(text.replace(line, same))
PATCH
"$folder/bin/python" -c 'import focus_validator.main'
touch "$folder/.ready"
