#!/usr/bin/env bash
# What `--features cuda` needs to build, where CUDA is not installed: NVIDIA's compiler, headers and libraries from PyPI,
# and a stand-in for the driver's library. No GPU is needed to build; to run, NVIDIA's driver (580 or later) is.
#
#   docker/cuda-toolkit.sh DEST       (needs python3 with pip, cargo and a C compiler; takes 1.2 GB)
#   source DEST/env.sh
#   cargo build --release --features cuda
set -euo pipefail

# CUDA 13.0. cuBLAS, cuRAND and NVRTC are candle's: they are linked, and loaded when galley starts.
packages=(
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 'nvidia-cuda-runtime==13.0.*'
    nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35
)
[ $# -eq 1 ] || { echo "usage: docker/cuda-toolkit.sh DEST" >&2; exit 2; }
mkdir -p "$1"
dest=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

# The packages share one folder, laid out as a toolkit is but for the names that linkers look for.
rm -rf "$dest/packages"
python3 -m pip install --quiet --no-deps --no-warn-script-location --target "$dest/packages" "${packages[@]}"
home=$dest/packages/nvidia/cu13
ln -s lib "$home/lib64"
for library in "$home"/lib/*.so.*; do
    name=$(basename "$library")
    ln -sf "$name" "$home/lib/${name%%.so.*}.so"
done
chmod +x "$home"/bin/* "$home"/nvvm/bin/*

# The driver's library belongs to a machine's driver. In its place comes one with the same names, each of which answers as
# NVIDIA's own stub does (CUDA_ERROR_STUB_LIBRARY). The names are those that cudarc, candle's binding, calls.
cargo metadata --quiet --locked --all-features --format-version 1 > "$dest/metadata.json"
cudarc=$(python3 - "$dest/metadata.json" <<'PYTHON'
import json, os, sys

packages = json.load(open(sys.argv[1]))["packages"]
print(next(os.path.dirname(p["manifest_path"]) for p in packages if p["name"] == "cudarc"))
PYTHON
)
rm "$dest/metadata.json"
mkdir -p "$home/lib/stubs"
grep -ohE 'fn cu[A-Z][A-Za-z0-9_]*' "$cudarc/src/driver/sys/mod.rs" | sort -u |
    sed 's/^fn \(.*\)/int \1(void) { return 34; }/' > "$dest/driver.c"
cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$home/lib/stubs/libcuda.so" "$dest/driver.c"
ln -sf libcuda.so "$home/lib/stubs/libcuda.so.1"

cat > "$dest/env.sh" <<ENV
export CUDA_HOME='$home' CUDA_PATH='$home' NVCC='$home/bin/nvcc' PATH='$home/bin':"\$PATH"
export LD_LIBRARY_PATH='$home/lib'\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
# The card to build for: 90 is an H100. There may be none in this machine to ask.
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90}
ENV
echo "now: source $dest/env.sh && cargo build --release --features cuda"
