"""Fifty steps of `tune run` against a plain PyTorch loop (and PEFT) that starts from the same weights and sees the same rows.

A step sees the whole data set, so the order of the rows has no say.
"""

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from bf16 import bf16_autocast
from tiny_models import MODELS
from tune_program import eval_losses, recipe_for, relative, shown_rows, steps, tune, write_chats, write_recipe

STEPS = 50
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


def plain_loop(model, rows, schedule, weight_decay=0.0, autocast=False):
    """[(loss, gradient norm)] a step: the loop that anybody would write."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices, norms = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}])
    history = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        with bf16_autocast(enabled=autocast):
            loss = loss_of(model, rows)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
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
    plain_loop(model, setting.rows, schedule, autocast=True)
    with torch.no_grad(), bf16_autocast():
        want = loss_of(model, setting.evaluation_rows).item()
    assert relative(eval_losses(setting.output)[-1], want) <= 0.01


def test_bf16_full_ends_where_a_plain_loop_does(tiny, rng, tmp_path):
    schedule = Schedule(FULL_LEARNING_RATE)
    setting = Setting(tiny("llama-gqa"), rng, tmp_path, schedule, adapter={"type": "none"}, train={"precision": "bf16"})
    setting.train()
    model = setting.model()
    plain_loop(model, setting.rows, schedule, autocast=True)
    with torch.no_grad(), bf16_autocast():
        want = loss_of(model, setting.evaluation_rows).item()
    assert relative(eval_losses(setting.output)[-1], want) <= 0.01


def test_evaluation_equals_transformers(tiny, rng, tmp_path):
    setting = Setting(tiny("mistral-window-deep"), rng, tmp_path, Schedule(LORA_LEARNING_RATE))
    answer = json.loads(tune("eval", "--recipe", setting.recipe, "--adapter", "none", "--json").stdout)
    with torch.no_grad():
        want = loss_of(setting.model(), setting.evaluation_rows).item()
    assert relative(answer["loss"], want) <= 1e-5
    assert relative(answer["perplexity"], math.exp(want)) <= 1e-4
    assert answer["tokens"] == sum(sum(row["trained"][1:]) for row in setting.evaluation_rows)
