"""Fifty steps of `tune run` against a plain PyTorch loop (and PEFT) that starts from the same weights and sees the same rows.

A step sees the whole data set, so the order of the rows has no say.
"""

import contextlib
import json
import math
import os
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import tiny_models
from bf16 import bf16_autocast, fp16_autocast
from tune_program import eval_losses, recipe_for, relative, shown_rows, steps, tune, write_chats, write_recipe

STEPS = 50
# Each shape's logits and gradients are judge_model's business; tools/test-long.sh follows all of them for fifty steps.
FEW = ["llama-mha-wide", "llama-gqa-tied", "mistral-window", "tinyllama"]
MODELS = tiny_models.MODELS if os.environ.get("TUNE_TEST_LONG") else FEW
ROWS = 8
# A random model hardly moves under adapters as small as these unless they learn fast. All weights at that rate would leave
# the rows behind after ten steps, where Adam's g / |g| makes a large difference of every rounding.
LORA_LEARNING_RATE = 4e-3
FULL_LEARNING_RATE = 5e-4


class Schedule:
    """Of step 0 ... STEPS - 1, as transformers' schedules define them."""

    def __init__(self, peak, name="constant", warmup=0):
        self.peak, self.name, self.warmup = peak, name, warmup

    def __call__(self, step):
        if step < self.warmup:
            return self.peak * step / self.warmup
        done = (step - self.warmup) / (STEPS - self.warmup)
        if self.name == "cosine":
            return self.peak * 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * ((1 - done) if self.name == "linear" else 1)

    def recipe(self):
        return {"learning_rate": self.peak, "lr_scheduler_type": self.name, "warmup_steps": self.warmup}


def loss_of(model, rows):
    """Mean over the trained tokens of all rows."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor(row["ids"])[None]
        targets = torch.where(torch.tensor(row["trained"]) == 1, ids[0], -100)[1:]
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total = total + torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
        count += int((targets != -100).sum())
    return total / count


def plain_loop(model, rows, schedule, count=STEPS, weight_decay=0.0, autocast=contextlib.nullcontext, scaled=False):
    """[(loss, gradient norm)] a step: the loop that anybody would write."""
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices, norms = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}])
    history = []
    for step in range(count):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        with autocast():
            loss = loss_of(model, rows)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        history.append((loss.item(), norm.item()))
    return history


class Setting:
    """One model, its rows, and the recipe that trains it for fifty steps."""

    def __init__(self, folder, rng, tmp_path, schedule, train=None, **sections):
        self.folder, self.output = folder, tmp_path / "run"
        batches = dict(max_steps=STEPS, global_batch_size=ROWS, per_device_train_batch_size=ROWS)
        sections["train"] = {**batches, **schedule.recipe(), **(train or {})}
        rows = write_chats(tmp_path / "train.jsonl", rng, ROWS)
        evaluation = write_chats(tmp_path / "eval.jsonl", rng, ROWS)
        self.recipe = write_recipe(tmp_path / "recipe.yaml", recipe_for(folder, rows, self.output, evaluation, **sections))
        self.rows = shown_rows(self.recipe)
        self.evaluation_rows = shown_rows(self.recipe, "--eval")
        assert len(self.rows) == ROWS

    def model(self, dtype=torch.float32):
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=dtype, attn_implementation="eager")

    def train(self):
        tune("run", "--recipe", self.recipe)
        return steps(self.output)


def fresh_adapter(model, folder, **config):
    torch.manual_seed(11)
    model = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}))
    model.save_pretrained(folder)
    return model


def compare(lines, history, schedule, learned=0.7):
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert history[-1][0] < learned * history[0][0], "nothing was learned, so nothing is judged"
    for step, (line, (loss, norm)) in enumerate(zip(lines, history)):
        assert relative(line["loss"], loss) <= 1e-5, f"step {step + 1}: loss {line['loss']}, judge {loss}"
        assert relative(line["grad_norm"], norm) <= 1e-3, f"step {step + 1}: gradient norm {line['grad_norm']}, judge {norm}"
        assert line["learning_rate"] == pytest.approx(schedule(step), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_fifty_lora_steps_equal_peft(name, tiny, rng, tmp_path):
    folder = tiny(name)
    adapter = {"init_adapter": str(tmp_path / "init")}
    schedule = Schedule(LORA_LEARNING_RATE, "cosine", warmup=5)
    setting = Setting(folder, rng, tmp_path, schedule, adapter=adapter)
    model = fresh_adapter(setting.model(), tmp_path / "init")
    lines = setting.train()
    compare(lines, plain_loop(model, setting.rows, schedule), schedule)
    # and what was written is what was trained
    tuned = PeftModel.from_pretrained(setting.model(), setting.output / "final")
    with torch.no_grad():
        assert relative(eval_losses(setting.output)[-1], loss_of(tuned, setting.evaluation_rows).item()) <= 1e-5
        assert relative(eval_losses(setting.output)[-1], loss_of(model, setting.evaluation_rows).item()) <= 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_fifty_full_steps_equal_a_plain_loop(name, tiny, rng, tmp_path):
    schedule = Schedule(FULL_LEARNING_RATE, "linear")
    setting = Setting(tiny(name), rng, tmp_path, schedule, adapter={"type": "none"}, train={"weight_decay": 0.1})
    lines = setting.train()
    model = setting.model()
    compare(lines, plain_loop(model, setting.rows, schedule, weight_decay=0.1), schedule)
    tuned = AutoModelForCausalLM.from_pretrained(setting.output / "final", dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        assert relative(eval_losses(setting.output)[-1], loss_of(tuned, setting.evaluation_rows).item()) <= 1e-5


@pytest.mark.parametrize("name", ["llama-gqa", "mistral-window"])
def test_bf16_lora_ends_where_peft_does(name, tiny, rng, tmp_path):
    schedule = Schedule(LORA_LEARNING_RATE)
    adapter = {"init_adapter": str(tmp_path / "init")}
    setting = Setting(tiny(name), rng, tmp_path, schedule, adapter=adapter, train={"precision": "bf16"})
    model = fresh_adapter(setting.model(torch.bfloat16), tmp_path / "init")
    setting.train()
    plain_loop(model, setting.rows, schedule, autocast=bf16_autocast)
    with torch.no_grad(), bf16_autocast():
        want = loss_of(model, setting.evaluation_rows).item()
    assert relative(eval_losses(setting.output)[-1], want) <= 0.01


def test_bf16_full_ends_where_a_plain_loop_does(tiny, rng, tmp_path):
    schedule = Schedule(FULL_LEARNING_RATE)
    setting = Setting(tiny("llama-gqa"), rng, tmp_path, schedule, adapter={"type": "none"}, train={"precision": "bf16"})
    setting.train()
    model = setting.model()
    plain_loop(model, setting.rows, schedule, autocast=bf16_autocast)
    with torch.no_grad(), bf16_autocast():
        want = loss_of(model, setting.evaluation_rows).item()
    assert relative(eval_losses(setting.output)[-1], want) <= 0.01


FP16_STEPS = 8


@pytest.mark.parametrize("method", ["lora", "none"])
def test_fp16_is_pytorchs_with_its_grad_scaler(method, tiny, rng, tmp_path):
    """They round at other places, eight times as finely as in bf16."""
    schedule = Schedule(LORA_LEARNING_RATE if method == "lora" else FULL_LEARNING_RATE)
    adapter = {"init_adapter": str(tmp_path / "init")} if method == "lora" else {"type": "none"}
    setting = Setting(tiny("llama-mha"), rng, tmp_path, schedule, adapter=adapter, train={"precision": "fp16", "max_steps": FP16_STEPS})
    model = fresh_adapter(setting.model(torch.float16), tmp_path / "init") if method == "lora" else setting.model()
    lines = setting.train()
    history = plain_loop(model, setting.rows, schedule, FP16_STEPS, autocast=fp16_autocast, scaled=True)
    worst = [max(relative(line[key], judge[i]) for line, judge in zip(lines, history)) for i, key in enumerate(("loss", "grad_norm"))]
    print(f"{method}: losses off by {worst[0]:.1e}, gradient norms by {worst[1]:.1e}")
    assert history[-1][0] < 0.95 * history[0][0]
    assert worst[0] <= 0.002 and worst[1] <= 0.02
    assert {line["loss_scale"] for line in lines} == {65536}
    assert json.loads((setting.output / "run.json").read_text())["totals"]["skipped_steps"] == 0
    with torch.no_grad(), fp16_autocast():
        assert relative(eval_losses(setting.output)[-1], loss_of(model, setting.evaluation_rows).item()) <= 0.002


def test_steps_whose_gradients_overflow_are_skipped(tiny, rng, tmp_path):
    """Gradients through a head of large weights overflow until the scale is low enough, in PyTorch's loop as well."""
    folder, schedule = tmp_path / "model", Schedule(LORA_LEARNING_RATE)
    shutil.copytree(tiny("llama-mha"), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] *= 64
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    setting = Setting(folder, rng, tmp_path, schedule, adapter={"init_adapter": str(tmp_path / "init")},
                      train={"precision": "fp16", "max_steps": FP16_STEPS}, save={"save_steps": 1, "save_total_limit": 99})  # fmt: skip
    model = fresh_adapter(setting.model(torch.float16), tmp_path / "init")
    lines = setting.train()
    skipped = sum("grad_norm" not in line for line in lines)
    history = plain_loop(model, setting.rows, schedule, FP16_STEPS, autocast=fp16_autocast, scaled=True)
    theirs = sum(not math.isfinite(norm) for _, norm in history)
    print(f"{skipped} steps skipped, by PyTorch {theirs}")
    assert 2 <= skipped <= 5 and abs(skipped - theirs) <= 1
    assert [line["loss_scale"] for line in lines] == [65536 / 2 ** min(i, skipped) for i in range(FP16_STEPS)]
    assert all("grad_norm" in line for line in lines[skipped:])
    assert json.loads((setting.output / "run.json").read_text())["totals"]["skipped_steps"] == skipped
    start = load_file(tmp_path / "init" / "adapter_model.safetensors")
    for name, values in load_file(setting.output / f"checkpoint-{skipped}" / "adapter_model.safetensors").items():
        assert torch.equal(values, start[name]), name
    # from a step on that is skipped, and from one after it, it goes the same way
    last = f"checkpoint-{FP16_STEPS}"
    for step in (1, skipped + 1):
        output = tmp_path / f"from-{step}"
        shutil.copytree(setting.output, output)
        tune("run", "--recipe", setting.recipe, "--set", f"output_dir={output}", "--resume", output / f"checkpoint-{step}")
        for key in ("loss", "loss_scale"):
            assert [line[key] for line in steps(output)] == [line[key] for line in lines]
        for name in ("adapter_model.safetensors", "optimizer.safetensors"):
            assert (output / last / name).read_bytes() == (setting.output / last / name).read_bytes()


def test_evaluation_equals_transformers(tiny, rng, tmp_path):
    setting = Setting(tiny("mistral-window-deep"), rng, tmp_path, Schedule(LORA_LEARNING_RATE))
    answer = json.loads(tune("eval", "--recipe", setting.recipe, "--adapter", "none", "--json").stdout)
    with torch.no_grad():
        want = loss_of(setting.model(), setting.evaluation_rows).item()
    assert relative(answer["loss"], want) <= 1e-5
    assert relative(answer["perplexity"], math.exp(want)) <= 1e-4
    assert answer["tokens"] == sum(sum(row["trained"][1:]) for row in setting.evaluation_rows)
