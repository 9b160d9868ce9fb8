"""The program under judgement: its command line, its probe, its files."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"  # data sets that are not part of the project; tests skip where they are absent
BUILD = Path(os.environ.get("TUNE_BUILD", ROOT / "build"))
BINARY = Path(os.environ.get("TUNE_BINARY", BUILD / "tune"))
QUICKSTART = Path(os.environ.get("TUNE_QUICKSTART", ROOT / "build" / "quickstart"))


def tune(*arguments, expect=0, timeout=600, **environment):
    """Runs the program, insists on its exit code (None: on a code at all, not a signal), gives back what it said."""
    command = [str(BINARY), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=timeout, env={**os.environ, **environment})
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()  # text=True would turn \r of an answer into \n
    as_expected = done.returncode >= 0 if expect is None else done.returncode == expect
    assert as_expected, f"{' '.join(command)}\nexit code {done.returncode}, expected {expect}\n{done.stdout}\n{done.stderr}"
    return done


def peak_memory(*arguments):
    """Bytes that the program held at most, by the kernel's count."""
    # A process inherits the peak of the one that starts it, which is large here: a small one stands between.
    between = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=2, check=True); "
    between += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", between, str(BINARY), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


def probe(request, output):
    """Logits, losses and gradients of tests/judges/model_probe.cpp as a dictionary of tensors."""
    request = {"dtype": "fp32", **request, "output": str(output)}
    done = subprocess.run([BUILD / "tests" / "model_probe"], input=json.dumps(request), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_file(output)


def write_recipe(path, recipe):
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def recipe_for(model, rows, output, evaluation=None, **sections):
    """A recipe as a dictionary; sections are merged over these defaults: recipe_for(..., train={"max_steps": 3})."""
    recipe = {
        "model": {"base_model": str(model)},
        "adapter": {"type": "lora", "lora_r": 4, "lora_alpha": 8},
        "data": {"chat_template": "zephyr", "max_length": 512, "packing": False, "datasets": [{"path": str(rows), "type": "chat"}]},
        "train": {"max_steps": 4, "global_batch_size": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
                  "lr_scheduler_type": "constant", "precision": "fp32", "device": "cpu"},
        "output_dir": str(output),
    }  # fmt: skip
    if evaluation:
        recipe["data"]["eval_datasets"] = [{"path": str(evaluation), "type": "chat"}]
    for name, values in sections.items():
        if isinstance(values, dict):
            recipe.setdefault(name, {}).update(values)
        else:
            recipe[name] = values
    if recipe["adapter"].get("type") == "none":
        recipe["adapter"] = {"type": "none"}
    return recipe


def metrics(output):
    return [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]


def steps(output):
    """The lines of metrics.jsonl that report a training step."""
    return [line for line in metrics(output) if "loss" in line]


def eval_losses(output):
    return [line["eval_loss"] for line in metrics(output) if "eval_loss" in line]


def shown_rows(recipe, *arguments):
    """What the model is trained on: [{"ids": [...], "trained": [...]}]."""
    return [json.loads(line) for line in tune("data", "show", "--recipe", recipe, "--json", *arguments).stdout.splitlines()]


# ---- rows ----

TOPICS = ["order", "refund", "invoice", "password", "delivery", "account", "permit", "fence", "roof", "window", "contract"]
WORDS = (
    "please check whether the number that we sent you last week still holds and tell them how to change it before the end of "
    "this month because it was paid twice by card and nobody answered when I called about naïve questions in Malmö or 東京 🙂"
).split()


def sentence(rng, longest):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, longest)))


def write_chats(path, rng, count, longest=25):
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            messages = [{"role": "system", "content": sentence(rng, 8)}] if rng.random() < 0.3 else []
            for _ in range(rng.choice([1, 1, 2])):
                messages.append({"role": "user", "content": f"{rng.choice(TOPICS)}: {sentence(rng, longest)}?"})
                messages.append({"role": "assistant", "content": f"{sentence(rng, longest)}."})
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    return path


def relative(a, b):
    return abs(a - b) / max(abs(b), math.ulp(1.0))
