"""Variants of adapters and optimizers beside PEFT's and bitsandbytes' own; the end of a run that stops when it is best."""

import json
import shutil

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from transformers import Adafactor, AutoModelForCausalLM, AutoTokenizer

from judge_training import FULL_LEARNING_RATE, LORA_LEARNING_RATE, STEPS, Schedule, Setting, compare, fresh_adapter, loss_of, plain_loop
from tune_program import eval_losses, metrics, recipe_for, relative, shown_rows, steps, tune, write_chats, write_recipe


def loop_with(optimizer, model, rows):
    history = []
    for _ in range(STEPS):
        loss = loss_of(model, rows)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        history.append((loss.item(), norm.item()))
    return history


def test_rslora_is_pefts(tiny, rng, tmp_path):
    schedule = Schedule(1e-3)  # a rank of 16 learns faster than one of 4
    adapter = {"init_adapter": str(tmp_path / "init"), "lora_r": 16, "use_rslora": True}
    setting = Setting(tiny("llama-gqa"), rng, tmp_path, schedule, adapter=adapter)
    model = fresh_adapter(setting.model(), tmp_path / "init", r=16, use_rslora=True)
    lines = setting.train()
    compare(lines, plain_loop(model, setting.rows, schedule), schedule)
    assert json.loads((setting.output / "final" / "adapter_config.json").read_text())["use_rslora"] is True
    tuned = PeftModel.from_pretrained(setting.model(), setting.output / "final")
    with torch.no_grad():
        assert relative(eval_losses(setting.output)[-1], loss_of(tuned, setting.evaluation_rows).item()) <= 1e-5


def test_an_adapter_with_another_scale_is_refused(tiny, rng, tmp_path):
    adapter = {"init_adapter": str(tmp_path / "init")}
    setting = Setting(tiny("llama-mha"), rng, tmp_path, Schedule(LORA_LEARNING_RATE), adapter=adapter)
    fresh_adapter(setting.model(), tmp_path / "init", use_rslora=True)
    said = tune("run", "--recipe", setting.recipe, expect=3).stderr
    assert "scaled by 4" in said and "use_rslora: true" in said


def test_loraplus_is_pefts(tiny, rng, tmp_path):
    schedule = Schedule(5e-4)
    adapter = {"init_adapter": str(tmp_path / "init"), "loraplus_lr_ratio": 16}
    setting = Setting(tiny("llama-gqa"), rng, tmp_path, schedule, adapter=adapter)
    model = fresh_adapter(setting.model(), tmp_path / "init")
    lines = setting.train()
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=5e-4, loraplus_lr_ratio=16)
    compare(lines, loop_with(optimizer, model, setting.rows), schedule)


def judged(setting, evaluation_rows):
    """The loss of what was handed over, in PEFT and merged."""
    tuned = PeftModel.from_pretrained(setting.model(), setting.output / "final")
    merged = AutoModelForCausalLM.from_pretrained(setting.output / "export" / "hf", dtype=torch.float32)
    with torch.no_grad():
        return loss_of(tuned, evaluation_rows).item(), loss_of(merged, evaluation_rows).item()


@pytest.mark.parametrize("variant", ["dora", "patterns"])
def test_dora_and_patterns_are_pefts(tiny, rng, tmp_path, variant):
    schedule = Schedule(1e-3)
    options = {"rank_pattern": {"v_proj": 2, "layers.1.mlp.up_proj": 8, "up_proj": 3}, "alpha_pattern": {"down_proj": 3, "q_proj": 17}}
    if variant == "dora":
        options = {"use_dora": True}
    exports = [{"format": "hf", "quant": "f32"}] + ([] if variant == "dora" else [{"format": "gguf-lora"}])
    setting = Setting(tiny("llama-gqa"), rng, tmp_path, schedule, adapter={"init_adapter": str(tmp_path / "init"), **options}, export=exports)
    model = fresh_adapter(setting.model(), tmp_path / "init", **options)
    lines = setting.train()
    compare(lines, plain_loop(model, setting.rows, schedule), schedule)
    expected = eval_losses(setting.output)[-1]
    assert all(relative(loss, expected) <= 1e-5 for loss in judged(setting, setting.evaluation_rows))


@pytest.mark.parametrize("variant", ["modules_to_save", "trainable_tokens"])
def test_trained_embeddings_are_pefts(tiny, rng, tmp_path, variant):
    schedule = Schedule(1e-3)
    init = {"init_adapter": str(tmp_path / "init")}
    options, theirs = {"modules_to_save": ["embed_tokens", "lm_head"]}, {"modules_to_save": ["embed_tokens", "lm_head"]}
    if variant == "trainable_tokens":
        tokenizer = AutoTokenizer.from_pretrained(tiny("llama-gqa"))
        ids = [tokenizer.bos_token_id, *range(300, 340, 2)]
        options, theirs = {"trainable_tokens": tokenizer.convert_ids_to_tokens(ids)}, {"trainable_token_indices": ids}
    setting = Setting(tiny("llama-gqa"), rng, tmp_path, schedule, adapter={**init, **options}, export=[{"format": "hf", "quant": "f32"}])
    model = fresh_adapter(setting.model(), tmp_path / "init", **theirs)
    lines = setting.train()
    compare(lines, plain_loop(model, setting.rows, schedule), schedule)
    expected = eval_losses(setting.output)[-1]
    assert all(relative(loss, expected) <= 1e-5 for loss in judged(setting, setting.evaluation_rows))
    assert relative(json.loads(tune("eval", "--recipe", setting.recipe, "--json").stdout)["loss"], expected) <= 1e-5


def test_pissa_is_pefts(tiny, rng, tmp_path):
    """Theirs changes the base; ours takes away where it began, and is stored as a plain adapter of twice the rank."""
    schedule = Schedule(5e-4)
    adapter = {"lora_r": 4, "init_lora_weights": "pissa", "pissa_iter": 0}
    setting = Setting(tiny("llama-gqa"), rng, tmp_path, schedule, adapter=adapter, export=[{"format": "hf", "quant": "f32"}, {"format": "gguf-lora"}])
    model = fresh_adapter(setting.model(), tmp_path / "init", init_lora_weights="pissa")
    lines = setting.train()
    compare(lines, plain_loop(model, setting.rows, schedule), schedule)
    config = json.loads((setting.output / "final" / "adapter_config.json").read_text())
    assert config["r"] == 8 and config["init_lora_weights"] is True
    expected = eval_losses(setting.output)[-1]
    assert all(relative(loss, expected) <= 1e-5 for loss in judged(setting, setting.evaluation_rows))


def test_adamw_8bit_ends_where_bitsandbytes_does(tiny, rng, tmp_path):
    """Full fine-tuning; theirs keeps tensors of less than 4096 values in fp32, which are the norms here."""
    schedule = Schedule(FULL_LEARNING_RATE)
    setting = Setting(tiny("llama-mha-wide"), rng, tmp_path, schedule, adapter={"type": "none"}, train={"optim": "adamw_8bit"})
    lines = setting.train()
    model = setting.model()
    optimizer = bitsandbytes.optim.AdamW8bit(model.parameters(), lr=FULL_LEARNING_RATE, weight_decay=0.0)
    history = loop_with(optimizer, model, setting.rows)
    assert history[-1][0] < 0.7 * history[0][0]
    print([f"{relative(line['loss'], loss):.1e}" for line, (loss, _) in zip(lines, history)][::7])
    for line, (loss, _) in zip(lines, history):
        assert relative(line["loss"], loss) <= 0.02
    with torch.no_grad():
        assert relative(eval_losses(setting.output)[-1], loss_of(model, setting.evaluation_rows).item()) <= 0.01
    state = load_file(setting.output / f"checkpoint-{STEPS}" / "optimizer.safetensors")
    trained = sum(p.numel() for p in model.parameters())
    assert sum(t.numel() * t.element_size() for t in state.values()) <= 2.1 * trained


def without_decay_of_norms(model, decay):
    matrices, norms = [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() == 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": norms, "weight_decay": 0.0}]


def test_adafactor_is_transformers(tiny, rng, tmp_path):
    schedule = Schedule(2e-4)  # at 5e-4 the loss is a twelfth by step 35, and roundings have grown to 1e-5 of it
    train = {"optim": "adafactor", "weight_decay": 0.1}
    setting = Setting(tiny("llama-gqa"), rng, tmp_path, schedule, adapter={"type": "none"}, train=train)
    model = setting.model()
    lines = setting.train()
    optimizer = Adafactor(without_decay_of_norms(model, 0.1), lr=2e-4, relative_step=False, scale_parameter=False)
    compare(lines, loop_with(optimizer, model, setting.rows), schedule)
    state = load_file(setting.output / f"checkpoint-{STEPS}" / "optimizer.safetensors")
    assert sum(t.numel() for t in state.values()) <= 0.02 * sum(p.numel() for p in model.parameters())


# ---- full fine-tuning in less memory ----

FEW_STEPS = 6
SMALLEST = {"precision": "bf16", "optim": "adafactor", "bf16_stochastic_round": True}


@pytest.mark.parametrize("train", [{"weight_decay": 0.1}, {"precision": "bf16", "optim": "adamw_8bit"}, SMALLEST])
def test_updates_in_the_backward_pass_are_those_after_it(train, tiny, rng, tmp_path):
    """To the last bit, also when it goes on from a checkpoint."""
    model, rows = tiny("llama-gqa-tied"), write_chats(tmp_path / "rows.jsonl", rng, 12)
    settings = {"max_steps": FEW_STEPS, "max_grad_norm": 0, "learning_rate": FULL_LEARNING_RATE, **train}
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_for(
        model, rows, tmp_path / "after", adapter={"type": "none"}, train=settings, save={"save_steps": FEW_STEPS // 2}
    ))  # fmt: skip
    tune("run", "--recipe", recipe)
    during = ["run", "--recipe", recipe, "--set", f"output_dir={tmp_path / 'during'}", "--set", "train.optimizer_in_backward=true"]
    tune(*during)

    def expect_the_same():
        one, other = steps(tmp_path / "after"), steps(tmp_path / "during")
        assert [line["loss"] for line in one] == [line["loss"] for line in other]
        assert all(relative(a["grad_norm"], b["grad_norm"]) <= 1e-9 for a, b in zip(one, other, strict=True))
        for name in ("model.safetensors", "optimizer.safetensors"):
            one, other = (load_file(tmp_path / run / f"checkpoint-{FEW_STEPS}" / name) for run in ("after", "during"))
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

    expect_the_same()
    shutil.rmtree(tmp_path / "during" / f"checkpoint-{FEW_STEPS}")
    shutil.rmtree(tmp_path / "during" / "final")
    assert f"going on from {tmp_path / 'during' / f'checkpoint-{FEW_STEPS // 2}'}" in tune(*during).stderr
    expect_the_same()


IN_BACKWARD = {"adapter": {"type": "none"}, "train": {"precision": "bf16", "bf16_stochastic_round": True, "optimizer_in_backward": True, "max_grad_norm": 0}}
OFFLOADED = {
    "lora": {"train": {"weight_decay": 0.1}},
    "full": {"adapter": {"type": "none"}, "train": {"precision": "bf16", "optim": "adamw_8bit", "weight_decay": 0.1}},
    "in-backward": IN_BACKWARD,
    "shard": {"adapter": {"type": "none"}, "train": {"optim": "adamw_8bit", "per_device_train_batch_size": 2}, "distributed": {"strategy": "shard"}},
}


@pytest.mark.parametrize("case", OFFLOADED)
def test_an_offloaded_optimizer_does_the_same(case, tiny, rng, tmp_path):
    """To the last bit, also where the one goes on from the other's checkpoint."""
    model, rows = tiny("llama-gqa-tied"), write_chats(tmp_path / "rows.jsonl", rng, 12)
    sections = OFFLOADED[case]
    train = {"max_steps": FEW_STEPS, "learning_rate": FULL_LEARNING_RATE, **sections["train"]}
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_for(
        model, rows, tmp_path / "plain", **{**sections, "train": train}, save={"save_steps": FEW_STEPS // 2}
    ))  # fmt: skip
    ranks = ["--nproc=2"] if case == "shard" else []

    def run(output, offloaded):
        changes = ["--set", f"output_dir={tmp_path / output}", "--set", f"train.offload_optimizer={offloaded}"]
        return tune("run", "--recipe", recipe, *changes, *ranks).stderr

    def result(output):
        folder = tmp_path / output / f"checkpoint-{FEW_STEPS}"
        files = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
        assert len(files) >= 2
        return files, [(line["loss"], line["grad_norm"]) for line in steps(tmp_path / output)]

    run("plain", "false")
    run("offloaded", "true")
    assert result("offloaded") == result("plain")
    for output, now in (("plain", "true"), ("offloaded", "false")):
        shutil.rmtree(tmp_path / output / f"checkpoint-{FEW_STEPS}")
        shutil.rmtree(tmp_path / output / "final", ignore_errors=True)
        assert f"going on from {tmp_path / output / f'checkpoint-{FEW_STEPS // 2}'}" in run(output, now)
    assert result("offloaded") == result("plain")


def test_rounded_at_random_bf16_weights_learn_as_with_masters(tiny, rng, tmp_path):
    """At a rate whose updates are mostly smaller than half a step of bf16: rounded to the nearest they are lost."""
    schedule = Schedule(1e-4)
    losses = {}
    for name, train in (("masters", {}), ("random", {"bf16_stochastic_round": True})):
        (tmp_path / name).mkdir()
        rng.seed(5)
        train = {"precision": "bf16", **train}
        setting = Setting(tiny("llama-gqa"), rng, tmp_path / name, schedule, adapter={"type": "none"}, train=train)
        first = setting.train()[0]["loss"]
        losses[name] = eval_losses(setting.output)[-1]
    weights = load_file(setting.output / f"checkpoint-{STEPS}" / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.bfloat16}
    final = AutoModelForCausalLM.from_pretrained(setting.output / "final", dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(final[key], weights[key]) for key in weights)
    model = setting.model(torch.bfloat16)
    loop_with(torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0), model, setting.rows)
    with torch.no_grad():
        nearest = loss_of(model, setting.evaluation_rows).item()
    print(f"first {first:.4f}, {losses}, nearest {nearest:.4f}")
    assert relative(losses["random"], losses["masters"]) <= 0.01
    assert relative(nearest, losses["masters"]) > 2 * relative(losses["random"], losses["masters"])


def test_what_saves_memory_is_refused_where_it_cannot_be(tiny, rng, tmp_path):
    rows = write_chats(tmp_path / "rows.jsonl", rng, 8)
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_for(tiny("llama-gqa"), rows, tmp_path / "run", adapter={"type": "none"}))
    changes = ["train.optimizer_in_backward=true", "train.max_grad_norm=0"]
    arguments = [argument for change in changes for argument in ("--set", change)]
    said = tune("plan", "--recipe", recipe, *arguments, "--nproc=2", expect=2).stderr
    assert "optimizer_in_backward is true, but there are 2 ranks" in said and "strategy: shard" in said


# ---- when to stop ----

EVERY, PATIENCE = 3, 2


@pytest.fixture(scope="module")
def overfitting(tiny, tmp_path_factory):
    """Learns four rows by heart: the loss of others falls, then rises."""
    import random

    folder, rng = tmp_path_factory.mktemp("overfitting"), random.Random(5)
    rows, evaluation = write_chats(folder / "train.jsonl", rng, 4), write_chats(folder / "eval.jsonl", rng, 8)

    def recipe(output, **sections):
        train = dict(max_steps=60, learning_rate=2e-2)
        return write_recipe(folder / f"{output}.yaml", recipe_for(
            tiny("llama-mha"), rows, folder / output, evaluation, train=train, **{"eval": {"eval_steps": EVERY, **sections.pop("eval", {})}, **sections}
        ))  # fmt: skip

    return folder, recipe


def losses_by_step(output):
    return {line["step"]: line["eval_loss"] for line in metrics(output) if "eval_loss" in line and line["step"] > 0}


def test_it_stops_early_and_hands_over_the_best(overfitting):
    folder, recipe = overfitting
    path = recipe("early", eval={"early_stopping_patience": PATIENCE}, save={"load_best_model_at_end": True, "save_total_limit": 1})
    said = tune("run", "--recipe", path).stderr
    losses = losses_by_step(folder / "early")
    best, last = min(losses, key=losses.get), max(losses)
    assert last == best + PATIENCE * EVERY < 60
    assert f"stopped early, at step {last}" in said and f"step {best} had the lowest eval_loss" in said
    kept = sorted(int(p.name.split("-")[1]) for p in (folder / "early").glob("checkpoint-*"))
    assert kept == [best, last]
    best_weights = load_file(folder / "early" / f"checkpoint-{best}" / "adapter_model.safetensors")
    final = load_file(folder / "early" / "final" / "adapter_model.safetensors")
    assert all(torch.equal(value, best_weights[name]) for name, value in final.items())
    totals = json.loads((folder / "early" / "run.json").read_text())["totals"]
    assert totals["best"] == {"step": best, "eval_loss": pytest.approx(losses[best])} and totals["steps"] == last
    answer = json.loads(tune("eval", "--recipe", path, "--json").stdout)
    assert relative(answer["loss"], losses[best]) <= 1e-5
    # started again it has nothing left to do, and comes to the same end
    before = (folder / "early" / "final" / "adapter_model.safetensors").read_bytes()
    tune("run", "--recipe", path)
    assert (folder / "early" / "final" / "adapter_model.safetensors").read_bytes() == before


def test_the_best_survives_where_nobody_asked_for_it(overfitting):
    folder, recipe = overfitting
    tune("run", "--recipe", recipe("kept", save={"save_steps": EVERY, "save_total_limit": 2}))
    losses = losses_by_step(folder / "kept")
    best = min(losses, key=losses.get)
    assert best < 60 - EVERY
    assert sorted(int(p.name.split("-")[1]) for p in (folder / "kept").glob("checkpoint-*")) == [best, 60]
    last = load_file(folder / "kept" / "checkpoint-60" / "adapter_model.safetensors")
    final = load_file(folder / "kept" / "final" / "adapter_model.safetensors")
    assert all(torch.equal(value, last[name]) for name, value in final.items())


def test_ranks_and_restarts_come_to_the_same_end(overfitting):
    folder, recipe = overfitting
    sections = {"eval": {"early_stopping_patience": PATIENCE}, "save": {"load_best_model_at_end": True}}
    tune("run", "--recipe", recipe("one", **sections))
    full = {**sections, "adapter": {"type": "none"}, "distributed": {"strategy": "shard"}}
    for ranks, name, more in ((2, "two", sections), (2, "shards", full), (1, "whole", {**sections, "adapter": {"type": "none"}})):
        learn = [] if more is sections else ["--set", "train.learning_rate=2e-3"]
        arguments = ["--nproc=2", "--set", "train.per_device_train_batch_size=2"] if ranks == 2 else []
        tune("run", "--recipe", recipe(name, **more), *arguments, *learn)
    for a, b in (("one", "two"), ("whole", "shards")):
        ours, theirs = losses_by_step(folder / a), losses_by_step(folder / b)
        assert ours.keys() == theirs.keys()
        assert all(relative(ours[step], theirs[step]) <= 1e-4 for step in ours)
    best = min(ours, key=ours.get)
    model = AutoModelForCausalLM.from_pretrained(folder / "shards" / "final", dtype=torch.float32)
    rows = shown_rows(folder / "shards.yaml", "--eval")
    with torch.no_grad():
        assert relative(loss_of(model, rows).item(), ours[best]) <= 1e-4


def test_bad_combinations_are_refused_by_name(overfitting):
    folder, recipe = overfitting
    path = recipe("bad", adapter={"type": "none", "use_rslora": True}, eval={"eval_steps": 0, "early_stopping_patience": 3})
    text = path.read_text().replace("type: none", "type: none\n  use_rslora: true\n  loraplus_lr_ratio: 4")
    path.write_text(text)
    said = tune("plan", "--recipe", path, expect=2).stderr
    for part in ("use_rslora is given, but adapter.type is none", "loraplus_lr_ratio is given", "eval.eval_steps is 0"):
        assert part in said
