"""Two Gloo ranks of one core each beside one rank of two cores, and the bytes that they put on the wire.

On the model of bench.py, interleaved; ratios are medians over the rounds, with their smallest and largest. The bytes are
those of the loopback interface while nothing else uses it, against the least that a sum over N ranks takes: each rank
sends 2 (N-1)/N of its gradients. Never a test.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from bench import BATCH, STEPS, TOKENS, WARMUP, arguments_of, model_and_rows, recipe

CORES = sorted(os.sched_getaffinity(0))[:2]


def loopback_bytes():
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def run(binary, folder, case, ranks, batch=BATCH, cores=None, strategy="ddp"):
    """Of a step: tokens a second, bytes that all ranks send together, and the least that ddp's sum takes."""
    mode, precision = case.split("-")
    output, path = folder / f"{case}-{ranks}", folder / f"{case}-{ranks}.yaml"
    path.write_text(recipe(folder / "model", folder / "rows.jsonl", output, mode, precision))
    before = loopback_bytes()
    command = [binary, "run", "--recipe", path, "--resume", "never", *([f"--nproc={ranks}"] if ranks > 1 else [])]
    command += ["--set", f"train.global_batch_size={batch}", "--set", f"train.per_device_train_batch_size={batch // ranks}"]
    command += ["--set", f"distributed.strategy={strategy}"]
    bind = lambda: os.sched_setaffinity(0, cores or CORES)  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=bind)
    if done.returncode != 0:
        sys.exit(done.stderr)
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["tokens"] == (WARMUP + STEPS) * batch * TOKENS
    trained = json.loads((output / "run.json").read_text())["plan"]["trainable_parameters"]
    return {
        "tokens_per_s": statistics.median(step["tokens_per_s"] for step in steps[WARMUP:]),
        "bytes": (loopback_bytes() - before) / (WARMUP + STEPS),
        "least": 2 * (ranks - 1) * 4 * trained,
    }


def main():
    arguments = arguments_of(__doc__, ["lora-fp32", "full-fp32"])
    with model_and_rows() as folder:
        for case in arguments.cases:
            alone, shared = [], []
            for _ in range(arguments.rounds):
                alone.append(run(arguments.binary, folder, case, 1))
                shared.append(run(arguments.binary, folder, case, 2))
            ratios = sorted(b["tokens_per_s"] / a["tokens_per_s"] for a, b in zip(alone, shared))
            wire = sorted(b["bytes"] / b["least"] for b in shared)
            print(f"{case}: two ranks at {statistics.median(ratios):.2f} x the speed of one "
                  f"({ratios[0]:.2f} ... {ratios[-1]:.2f}); bytes on the wire {statistics.median(wire):.3f} x the least "
                  f"({wire[0]:.3f} ... {wire[-1]:.3f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
