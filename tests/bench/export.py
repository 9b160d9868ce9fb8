#!/usr/bin/env python3
"""Speed and memory of exports beside the disk (dd) and, where they are given, llama.cpp's tools and optimum; interleaved.

    .venv/bin/python tests/bench/export.py --llama-cpp ~/llama.cpp --llama-quantize ~/llama.cpp/build/bin/llama-quantize \
        --optimum ~/optimum-venv/bin/optimum-cli

A line a case: seconds (median), its spread, peak memory, file size, MB/s, and the ratio to each peer in the same round
(peer's seconds / ours: above 1, ours is faster).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "judges"))
os.environ["HF_HUB_OFFLINE"] = "1"

BINARY = Path(os.environ.get("TUNE_BINARY", Path(__file__).resolve().parents[2] / "build" / "tune"))
SHAPE = dict(hidden_size=2048, num_attention_heads=32, num_key_value_heads=4, intermediate_size=5632)
CASES = ["f16", "q8_0", "q6_k", "q5_k_m", "q5_0", "q4_k_m", "q4_0", "onnx"]


def size_of(path):
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def run(command, output):
    """(seconds, peak bytes) until what was written is on the disk."""
    for old in (output,):
        shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
    os.sync()
    begun = time.monotonic()
    between = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=2, check=True); "
    between += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"  # a small process: the peak is inherited
    done = subprocess.run([sys.executable, "-c", between, *map(str, command)], capture_output=True, text=True)
    os.sync()
    assert done.returncode == 0, done.stderr[-2000:]
    return time.monotonic() - begun, int(done.stdout.splitlines()[-1]) * 1024


def commands(case, model, exact, place, peers):
    """{who: (command, output)}, ours first; dd's is made when the size is known."""
    ours = place / ("tune-onnx" if case == "onnx" else f"tune-{case}.gguf")
    form = ["--format", "onnx", "--quant", "f32"] if case == "onnx" else ["--format", "gguf", "--quant", case]
    result = {"tune": ([BINARY, "export", *form, "--model", model, "--output", ours], ours)}
    theirs = place / "peer"
    if case in ("f16", "q8_0") and peers.llama_cpp:
        converter = [sys.executable, peers.llama_cpp / "convert_hf_to_gguf.py", model, "--outtype", case, "--outfile", theirs]
        result["convert_hf_to_gguf"] = (converter, theirs)
    if case != "onnx" and case != "f16" and peers.llama_quantize:
        kind = case.upper()
        result["llama-quantize"] = ([peers.llama_quantize, exact, theirs, kind, str(os.cpu_count())], theirs)
    if case == "onnx" and peers.optimum:
        command = [peers.optimum, "export", "onnx", "--model", model, "--task", "text-generation-with-past", theirs]
        result["optimum"] = (command, theirs)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument("--layers", type=int, default=22, help="22 are TinyLlama's 1.1 B parameters; optimum needs 20 bytes for each")
    parser.add_argument("--place", type=Path, default=Path("build/export-bench"), help="folder for the model and what is written")
    parser.add_argument("--llama-cpp", type=Path, help="source tree with convert_hf_to_gguf.py")
    parser.add_argument("--llama-quantize", type=Path, help="the program")
    parser.add_argument("--optimum", type=Path, help="optimum-cli of an environment of its own")
    peers = parser.parse_args()
    peers.place.mkdir(parents=True, exist_ok=True)
    model, exact = peers.place / f"model-{peers.layers}", peers.place / f"model-{peers.layers}.gguf"
    if not model.exists():
        import tiny_models
        import torch

        tiny_models.make("llama-gqa", model, 1, dtype=torch.bfloat16, num_hidden_layers=peers.layers, **SHAPE)
    to_bf16 = [BINARY, "export", "--format", "gguf", "--quant", "bf16", "--model", model, "--output", exact]
    subprocess.run(to_bf16, check=True, stdout=subprocess.DEVNULL)
    print(f"{size_of(model) / 1e9:.2f} GB model, {os.cpu_count()} cores, {peers.rounds} rounds")
    for case in peers.only or CASES:
        seconds, peaks = {}, {}
        for _ in range(peers.rounds):
            for who, (command, output) in commands(case, model, exact, peers.place, peers).items():
                took, peak = run(command, output)
                seconds.setdefault(who, []).append(took)
                peaks[who] = max(peak, peaks.get(who, 0))
                if who == "tune":
                    size, copy = size_of(output), peers.place / "dd"
                    dd = ["dd", "if=/dev/zero", f"of={copy}", "bs=1M", f"count={size >> 20}", "conv=fsync", "status=none"]
                    seconds.setdefault("dd", []).append(run(dd, copy)[0])
                    copy.unlink()
                shutil.rmtree(output) if output.is_dir() else output.unlink()
        ours = seconds["tune"]
        ratios = {who: [theirs / mine for theirs, mine in zip(took, ours)] for who, took in seconds.items() if who != "tune"}
        said = ", ".join(f"{statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f}) x {who}" for who, r in ratios.items())
        memory = ", ".join(f"{who} {peak / 1e6:.0f} MB" for who, peak in peaks.items())
        rate = size / statistics.median(ours) / 1e6
        print(f"{case}: {statistics.median(ours):.1f} s ({min(ours):.1f}-{max(ours):.1f}), {size / 1e9:.2f} GB, {rate:.0f} MB/s; {said}; {memory}", flush=True)


main()
