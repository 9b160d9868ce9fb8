"""tune beside PyTorch + PEFT: tokens a second, peak memory and start-up on a 60M-parameter Llama, 4 rows of 512 tokens.

Opponents: the loop as users run it ("peft"), and the same with glibc kept from giving memory back between steps
("peft, memory kept"). The programs take turns within each round, so that a busy machine slows all of them;
ratios are medians over the rounds, with their smallest and largest. Never a test.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "judges"))
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}
WARMUP, STEPS, BATCH, TOKENS = 5, 15, 4, 512


def make_model(folder, **changes):
    import tiny_models

    shape = dict(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, intermediate_size=1408)
    shape.update(changes)
    tiny_models.make("llama-gqa", folder, seed=1, max_position_embeddings=4096, **shape)


def write_rows(path):
    """Rows of more than TOKENS tokens, which the recipe cuts to as many: documents of the peer's length."""
    rng = random.Random(1)
    words = Path(__file__).read_text().split()
    with open(path, "w") as file:
        for _ in range((WARMUP + STEPS) * BATCH):
            file.write(json.dumps({"text": " ".join(rng.choice(words) for _ in range(TOKENS + 8))}) + "\n")


def recipe(model, rows, output, mode, precision):
    adapter = "{type: lora, lora_r: 16, lora_alpha: 32}" if mode == "lora" else "{type: none}"
    return f"""
model: {{base_model: {model}}}
stage: pretrain
adapter: {adapter}
data: {{chat_template: none, max_length: {TOKENS}, packing: false, overflow: truncate, datasets: [{{path: {rows}, type: text}}]}}
train: {{max_steps: {WARMUP + STEPS}, global_batch_size: {BATCH}, per_device_train_batch_size: {BATCH}, learning_rate: 2.0e-4,
  precision: {precision}, device: cpu}}
save: {{save_steps: 0}}
logging: {{report_to: [jsonl]}}
output_dir: {output}
"""


def run_tune(binary, folder, mode, precision):
    output, path = folder / f"{mode}-{precision}", folder / f"{mode}-{precision}.yaml"
    path.write_text(recipe(folder / "model", folder / "rows.jsonl", output, mode, precision))
    begin, start, said = time.time(), None, ""
    process = subprocess.Popen([binary, "run", "--recipe", path, "--resume", "never"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        said += line
        if start is None and " steps, " in line:  # said when the model is loaded and the first step comes next
            start = time.time() - begin
    if process.wait() != 0:
        sys.exit(said)
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["tokens"] == (WARMUP + STEPS) * BATCH * TOKENS, "not the peer's work"
    return {
        "tokens_per_s": statistics.median(step["tokens_per_s"] for step in steps[WARMUP:]),
        "peak_bytes": max(step["peak_memory"] for step in steps),
        "start_s": start,
    }


def run_peft(folder, mode, precision, **environment):
    command = [sys.executable, ROOT / "tests" / "bench" / "peft_loop.py", "--model", folder / "model", "--mode", mode]
    command += ["--precision", precision, "--warmup", str(WARMUP), "--steps", str(STEPS)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def start_up(binary, times=11):
    """Seconds from the command to its end and resident MiB of the program that does nothing: LibTorch's share."""
    seconds, memory = [], []
    for _ in range(times):
        begin = time.time()
        process = subprocess.Popen([binary, "--version"], stdout=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        seconds.append(time.time() - begin)
        memory.append(usage.ru_maxrss / 1024)
    print(f"tune --version: {statistics.median(seconds):.2f} s ({min(seconds):.2f} ... {max(seconds):.2f}), {max(memory):.0f} MiB")


def row(name, ours, theirs, key, better):
    ratios = sorted(a[key] / b[key] if better == "higher" else b[key] / a[key] for a, b in zip(ours, theirs))
    return f"{name:<26}{statistics.median(ratios):>8.2f} x   {ratios[0]:.2f} ... {ratios[-1]:.2f}"


def arguments_of(description, cases):
    """rounds, cases and binary, as the command line says; `cases` where it names none."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", dest="cases", type=lambda case: [case], default=cases, help="one of lora-bf16, lora-fp32, full-fp32, full-bf16")
    parser.add_argument("--binary", type=Path, default=ROOT / "build" / "tune")
    return parser.parse_args()


@contextlib.contextmanager
def model_and_rows(**changes):
    """A folder with both, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "model", **changes)
        write_rows(folder / "rows.jsonl")
        yield folder


def main():
    arguments = arguments_of(__doc__, ["lora-bf16", "lora-fp32", "full-fp32", "full-bf16"])
    start_up(arguments.binary)
    with model_and_rows() as folder:
        for case in arguments.cases:
            mode, precision = case.split("-")
            ours, users, kept = [], [], []
            for _ in range(arguments.rounds):
                ours.append(run_tune(arguments.binary, folder, mode, precision))
                users.append(run_peft(folder, mode, precision))
                kept.append(run_peft(folder, mode, precision, **KEEP_MEMORY))
            print(f"\n{case}: median of {arguments.rounds} rounds")
            for name, results in (("tune", ours), ("peft", users), ("peft, memory kept", kept)):
                speed = statistics.median(r["tokens_per_s"] for r in results)
                peak = statistics.median(r["peak_bytes"] for r in results) / 2**30
                start = statistics.median(r["start_s"] for r in results)
                print(f"  {name:<20}{speed:>8.0f} tokens/s  {peak:>6.2f} GiB  {start:>6.2f} s to the first step")
            print("  " + row("speed over peft", ours, users, "tokens_per_s", "higher"))
            print("  " + row("speed over memory kept", ours, kept, "tokens_per_s", "higher"))
            print("  " + row("peft's memory over ours", ours, users, "peak_bytes", "lower"))
            print("  " + row("peft's start over ours", ours, users, "start_s", "lower"), flush=True)


if __name__ == "__main__":
    main()
