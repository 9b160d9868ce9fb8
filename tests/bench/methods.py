"""QLoRA, DoRA and PiSSA beside LoRA in bf16: speed and memory of the same rows, interleaved; 8-bit AdamW beside AdamW.

The model is bench.py's with a hidden size at which products count. Ratios are medians over the rounds, with their
smallest and largest. Never a test.
"""

import json
import statistics
import subprocess
import sys

from bench import STEPS, WARMUP, arguments_of, model_and_rows, recipe

CASES = {
    "qlora": ("lora", ["adapter.type=qlora"]),
    "dora": ("lora", ["adapter.use_dora=true"]),
    "pissa": ("lora", ["adapter.init_lora_weights=pissa", "adapter.pissa_iter=2"]),
    "adamw_8bit": ("full", ["train.optim=adamw_8bit"]),
}


def run(binary, folder, mode, changes):
    output, path = folder / "methods", folder / "methods.yaml"
    path.write_text(recipe(folder / "model", folder / "rows.jsonl", output, mode, "bf16"))
    command = [binary, "run", "--recipe", path, "--resume", "never"]
    for change in changes:
        command += ["--set", change]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    peak = json.loads((output / "run.json").read_text())["totals"]["peak_bytes"]
    return statistics.median(step["tokens_per_s"] for step in steps[WARMUP : WARMUP + STEPS]), peak


def main():
    arguments = arguments_of(__doc__, list(CASES))
    with model_and_rows(hidden_size=1024, num_attention_heads=16, intermediate_size=2816) as folder:
        for case in arguments.cases:
            mode, changes = CASES[case]
            pairs = [(run(arguments.binary, folder, mode, []), run(arguments.binary, folder, mode, changes)) for _ in range(arguments.rounds)]
            speed = sorted(b[0] / a[0] for a, b in pairs)
            memory = sorted(b[1] / a[1] for a, b in pairs)
            print(f"{case}: {statistics.median(speed):.2f} x the speed of {mode} ({speed[0]:.2f} ... {speed[-1]:.2f}), "
                  f"{statistics.median(memory):.2f} x its memory", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
