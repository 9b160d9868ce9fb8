"""Steps of two Gloo ranks of one core each beside what tools/scaling predicts of them: docs/scaling.md.

The prediction is given what one such rank computes by itself and what `tune doctor --distributed` says of the wire.
"""

import json
import re
import subprocess
import sys

from bench import BATCH, ROOT, TOKENS, arguments_of, model_and_rows
from ranks import CORES, run

RANKS = 2


def wire(binary):
    """(bytes a second of a large sum, seconds of a small one)."""
    table = subprocess.run([binary, "doctor", "--distributed", "--device=cpu", f"--nproc={RANKS}"], capture_output=True, text=True, check=True)
    rows = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) +([\d.]+)$", table.stdout, re.M)
    return float(rows[-1][3]) * 1e9, float(rows[0][1]) / 1e3


def main():
    arguments = arguments_of(__doc__, ["lora-fp32", "full-fp32"])
    bandwidth, latency = wire(arguments.binary)
    cases = []
    with model_and_rows() as folder:
        config = json.loads((folder / "model" / "config.json").read_text())
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
        for case in arguments.cases:
            alone = run(arguments.binary, folder, case, 1, BATCH // RANKS, CORES[:1])
            for strategy in ("ddp", "shard"):
                shared = run(arguments.binary, folder, case, RANKS, strategy=strategy)
                cases.append({
                    "name": f"{strategy}, {case}", "strategy": strategy, "mode": case.split("-")[0], "ranks": RANKS,
                    "model": {key: config[key] for key in sizes}, "tokens_per_rank": BATCH // RANKS * TOKENS, "sequence": TOKENS,
                    "alone_tokens_per_second": alone["tokens_per_s"], "bandwidth_bytes_per_second": bandwidth,
                    "latency_seconds": latency, "wire_bytes": shared["bytes"] / RANKS,
                    "step_seconds": BATCH * TOKENS / shared["tokens_per_s"],
                })  # fmt: skip
        measured = folder / "measured.json"
        measured.write_text(json.dumps(cases, indent=1))
        subprocess.run([sys.executable, ROOT / "tools" / "scaling" / "simulate.py", "--check", measured], check=True)


if __name__ == "__main__":
    main()
