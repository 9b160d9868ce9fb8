#!/usr/bin/env bash
# cpu_links_test.sh PROGRAM: a program without CUDA needs torch_cpu and c10 of LibTorch, loads nothing of its CUDA half,
# and starts.
set -euo pipefail
program=$1
needed=$(readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
ours=$(grep -E 'torch|c10|cuda|cublas|cudnn|nccl' <<<"$needed" | sort | tr '\n' ' ')
if [ "$ours" != 'libc10.so libtorch_cpu.so ' ]; then
  echo "$program needs $ours" >&2
  exit 1
fi
# libtorch_cpu of a CUDA wheel brings the CUDA runtime and CUPTI along; neither opens a device
loaded=$(ldd "$program")
if grep -E 'libtorch_cuda|libc10_cuda|libtorch\.so|libtorch_python|libcublas|libcudnn|libnccl|not found' <<<"$loaded" >&2; then
  exit 1
fi
"$program" --version
