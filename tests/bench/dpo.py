"""DPO beside TRL's DPOTrainer on the same pairs, most of whose tokens are prompt: speed and memory, interleaved.

LoRA in fp32 on bench.py's model; both begin with a fresh adapter, whose reference is the base without it. Ratios of pairs
a second are medians over the rounds, with their smallest and largest. Never a test.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import arguments_of, make_model

PAIRS, STEPS, WARMUP = 2, 8, 2
PROMPT_WORDS, ANSWER_WORDS = 150, 90


def write_pairs(path):
    rng = random.Random(2)
    words = Path(__file__).read_text().split()
    with open(path, "w") as file:
        for _ in range(PAIRS * (STEPS + WARMUP)):
            text = lambda count: " ".join(rng.choice(words) for _ in range(count))  # noqa: E731
            file.write(json.dumps({"prompt": text(PROMPT_WORDS), "chosen": text(ANSWER_WORDS), "rejected": text(ANSWER_WORDS)}) + "\n")


def run_tune(binary, folder):
    recipe = f"""
model: {{base_model: {folder}/model}}
stage: dpo
adapter: {{type: lora, lora_r: 16, lora_alpha: 32}}
data: {{chat_template: llama2, max_length: 4096, packing: false, datasets: [{{path: {folder}/pairs.jsonl, type: preference}}]}}
train: {{max_steps: {STEPS + WARMUP}, global_batch_size: {PAIRS}, per_device_train_batch_size: {PAIRS}, learning_rate: 1.0e-4,
  precision: fp32, device: cpu}}
save: {{save_steps: 0}}
logging: {{report_to: [jsonl]}}
output_dir: {folder}/run
"""
    (folder / "dpo.yaml").write_text(recipe)
    done = subprocess.run([binary, "run", "--recipe", folder / "dpo.yaml", "--resume", "never"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    tokens = [b["tokens"] - a["tokens"] for a, b in zip(lines, lines[1:])]
    seconds = [count / line["tokens_per_s"] for count, line in zip(tokens, lines[1:])]
    return PAIRS / statistics.median(seconds[WARMUP:]), max(line["peak_memory"] for line in lines)


def run_trl(binary, folder):
    shown = subprocess.run([binary, "data", "show", "--recipe", folder / "dpo.yaml", "--json"], capture_output=True, text=True, check=True)
    (folder / "pairs.ids").write_text(shown.stdout)
    done = subprocess.run([sys.executable, __file__, "--peer", folder], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def peer(folder):
    import resource

    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rows, prompts, all_tokens = [], 0, 0
    for row in map(json.loads, (folder / "pairs.ids").read_text().splitlines()):
        ids, chosen, rejected = row["ids"], row["chosen"], row["rejected"]
        rows.append({"prompt_ids": ids[:chosen], "chosen_ids": ids[chosen:rejected], "rejected_ids": ids[rejected:]})
        prompts, all_tokens = prompts + 2 * chosen, all_tokens + len(ids) + chosen

    class Peer(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

        def training_step(self, *arguments, **named):
            begin = time.perf_counter()
            loss = super().training_step(*arguments, **named)
            seconds.append(time.perf_counter() - begin)
            return loss

    seconds = []
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.pad_token = tokenizer.eos_token
    config = DPOConfig(output_dir=str(folder / "trl"), max_steps=STEPS + WARMUP, per_device_train_batch_size=PAIRS, learning_rate=1e-4,
                       use_cpu=True, bf16=False, report_to=[], save_strategy="no", gradient_checkpointing=False, disable_tqdm=True,
                       max_length=None)  # fmt: skip
    Peer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([PAIRS / statistics.median(seconds[WARMUP:]), peak, prompts / all_tokens]))


def main():
    if sys.argv[1:2] == ["--peer"]:
        return peer(Path(sys.argv[2]))
    arguments = arguments_of(__doc__, [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_model(folder / "model")
        write_pairs(folder / "pairs.jsonl")
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            ours.append(run_tune(arguments.binary, folder))
            theirs.append(run_trl(arguments.binary, folder))
        speed = sorted(a[0] / b[0] for a, b in zip(ours, theirs))
        memory = sorted(b[1] / a[1] for a, b in zip(ours, theirs))
        print(f"DPO, {theirs[0][2]:.0%} prompt, {os.cpu_count()} cores: {statistics.median(speed):.2f} x TRL's pairs a second "
              f"({speed[0]:.2f} ... {speed[-1]:.2f}); TRL takes {statistics.median(memory):.2f} x the memory, "
              f"{ours[0][1] / 2**30:.2f} GiB here")  # fmt: skip


if __name__ == "__main__":
    main()
