"""`tune plan` beside what the kernel counted: memory within a tenth of the measured peak, steps and tokens exactly."""

import json
import math
import random

import pytest
from conftest import SEED

from tiny_models import add_tokenizer
from tune_program import WORDS, recipe_for, steps, tune, write_chats, write_recipe

CASES = {
    "lora-bf16": dict(adapter={"lora_r": 16}, train={"precision": "bf16"}),
    "lora-fp32": dict(adapter={"lora_r": 16}, train={"precision": "fp32"}),
    "lora-bf16-checkpointing": dict(adapter={"lora_r": 16}, train={"precision": "bf16", "gradient_checkpointing": True}),
    "qlora-bf16": dict(adapter={"type": "qlora", "lora_r": 16}, train={"precision": "bf16"}),
    "full-fp32": dict(adapter={"type": "none"}, train={"precision": "fp32"}),
    "full-bf16": dict(adapter={"type": "none"}, train={"precision": "bf16"}),
    "full-bf16-in-backward": dict(adapter={"type": "none"}, train={"precision": "bf16", "optimizer_in_backward": True, "max_grad_norm": 0}),
    "full-fp32-offload": dict(adapter={"type": "none"}, train={"precision": "fp32", "optim": "adamw_8bit", "offload_optimizer": True}),
    "full-bf16-offload": dict(adapter={"type": "none"}, train={"precision": "bf16", "optimizer_in_backward": True, "max_grad_norm": 0,
                                                               "bf16_stochastic_round": True, "offload_optimizer": True}),
    "full-bf16-smallest": dict(adapter={"type": "none"}, train={"precision": "bf16", "optimizer_in_backward": True, "max_grad_norm": 0,
                                                                "optim": "adafactor", "bf16_stochastic_round": True}),
}


@pytest.fixture(scope="module")
def model(tiny):
    """Large enough that LibTorch itself is not all of it."""
    shape = dict(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, intermediate_size=1408)
    return tiny("llama-gqa", **shape)


@pytest.mark.parametrize("case", list(CASES))
def test_memory_is_what_was_planned(case, model, tmp_path):
    rows = write_chats(tmp_path / "rows.jsonl", random.Random(SEED), 120)
    sections = {name: dict(values) for name, values in CASES[case].items()}
    judge(case, recipe_for(model, rows, tmp_path / "run", **sections, data={"packing": True}), tmp_path)


@pytest.mark.parametrize("case", ["lora-bf16", "full-fp32"])
def test_memory_of_experts_is_what_was_planned(case, tiny, tmp_path):
    shape = dict(hidden_size=256, num_hidden_layers=6, num_attention_heads=8, intermediate_size=512, num_local_experts=8)
    rows = write_chats(tmp_path / "rows.jsonl", random.Random(SEED), 120)
    sections = {name: dict(values) for name, values in CASES[case].items()}
    judge(case, recipe_for(tiny("mixtral", **shape), rows, tmp_path / "run", **sections, data={"packing": True}), tmp_path)


@pytest.mark.parametrize("case", ["lora-bf16", "qlora-bf16", "full-fp32", "full-bf16"])
@pytest.mark.parametrize("reshard", [True, False])
def test_memory_of_a_rank_with_shards_is_what_was_planned(case, reshard, model, tmp_path):
    rows = write_chats(tmp_path / "rows.jsonl", random.Random(SEED), 120)
    sections = {name: dict(values) for name, values in CASES[case].items()}
    sections["train"].update(per_device_train_batch_size=2)
    sections["distributed"] = {"strategy": "shard", "reshard_after_forward": reshard}
    judge(case, recipe_for(model, rows, tmp_path / "run", **sections, data={"packing": True}), tmp_path, "--nproc=2")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_evaluation_is_planned_where_it_needs_more_than_training(precision, model, tmp_path):
    """A short row to learn from, long ones to be scored on, several at a time, and an answer before and after."""
    rng = random.Random(SEED)
    rows, evaluation = write_chats(tmp_path / "rows.jsonl", rng, 1, longest=4), tmp_path / "evaluation.jsonl"
    with open(evaluation, "w", encoding="utf-8") as file:
        for _ in range(24):
            text = " ".join(rng.choice(WORDS) for _ in range(480))
            messages = [{"role": "user", "content": "What was said?"}, {"role": "assistant", "content": text}]
            file.write(json.dumps({"messages": messages}) + "\n")
    sections = dict(data={"max_length": 1024}, eval={"sample_prompts": ["What was said?"], "sample_max_tokens": 64})
    train = dict(precision=precision, global_batch_size=1, per_device_train_batch_size=1)
    judge(precision, recipe_for(model, rows, tmp_path / "run", evaluation, train=train, **sections), tmp_path)


def judge(case, recipe, tmp_path, *ranks):
    recipe["train"].update(max_steps=3)
    path = write_recipe(tmp_path / "recipe.yaml", recipe)
    plan = json.loads(tune("plan", "--recipe", path, "--json", *ranks).stdout)
    tune("run", "--recipe", path, *ranks)
    totals = json.loads((tmp_path / "run" / "run.json").read_text())["totals"]
    planned, measured = plan["ranks"][0]["peak_bytes"], totals["peak_bytes"]
    print(f"{case}: planned {planned / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB")
    assert abs(planned / measured - 1) <= 0.1
    assert plan["steps"] == totals["steps"] == len(steps(tmp_path / "run"))


def plan_of_70b(model, tmp_path, adapter, ranks, card, expect, *more):
    rows = write_chats(tmp_path / "rows.jsonl", random.Random(SEED), 400)
    recipe = recipe_for(
        model, rows, tmp_path / "run", adapter=adapter, data={"packing": True, "max_length": 2048}, distributed={"strategy": "shard"},
        train={"max_steps": 3, "global_batch_size": 24, "per_device_train_batch_size": 1, "precision": "bf16", "device": "cuda",
               "gradient_checkpointing": True},
    )  # fmt: skip
    arguments = ["--recipe", write_recipe(tmp_path / "recipe.yaml", recipe), f"--nproc={ranks}", "--device-memory", card]
    return tune("plan", *arguments, *more, "--json", expect=expect)


@pytest.fixture(scope="module")
def seventy_billion(tmp_path_factory):
    """Llama 2 70B's files as a program that doesn't read its numbers sees them: 138 GB, none of them on the disk."""
    published = next(m for m in json.loads(tune("models", "--json").stdout) if m["repository"].endswith("/Llama-2-70b-chat-hf"))
    folder = tmp_path_factory.mktemp("llama-2-70b")
    add_tokenizer(folder)
    c = published["config"]
    (folder / "config.json").write_text(json.dumps(c))
    hidden, inner, kv = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"] * c["hidden_size"] // c["num_attention_heads"]
    shapes = {"model.embed_tokens": [c["vocab_size"], hidden], "model.norm": [hidden], "lm_head": [c["vocab_size"], hidden]}
    for i in range(c["num_hidden_layers"]):
        layer = {"input_layernorm": [hidden], "post_attention_layernorm": [hidden], "self_attn.q_proj": [hidden, hidden],
                 "self_attn.k_proj": [kv, hidden], "self_attn.v_proj": [kv, hidden], "self_attn.o_proj": [hidden, hidden],
                 "mlp.gate_proj": [inner, hidden], "mlp.up_proj": [inner, hidden], "mlp.down_proj": [hidden, inner]}  # fmt: skip
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder, sum(map(math.prod, shapes.values()))


# On two cards of 24 GB with shorter rows, a lower rank and an optimizer of 8 bits: adapters are whole on every rank.
SMALL = ["--set", "data.max_length=1024", "--set", "adapter.lora_r=8", "--set", "train.optim=adamw_8bit"]


@pytest.mark.parametrize("ranks, card, fits, more", [(1, "141GB", True, []), (1, "48GB", True, []), (2, "24GB", True, SMALL), (1, "24GB", False, [])])
def test_seventy_billion_parameters_in_four_bits_fit_on_two_small_cards(ranks, card, fits, more, seventy_billion, tmp_path):
    model, parameters = seventy_billion
    told = plan_of_70b(model, tmp_path, {"type": "qlora", "lora_r": 16, "lora_alpha": 32}, ranks, card, 0 if fits else 4, *more)
    rank = json.loads(told.stdout)["ranks"][0]
    print(f"qlora on {ranks}: {rank['peak_bytes'] / 1e9:.1f} GB", {name: round(size / 1e9, 1) for name, size in rank["memory"].items()})
    tables = 2 * 32000 * 8192 * 2  # stay in bf16
    assert rank["memory"]["base weights"] * ranks == pytest.approx(tables + 4.127 / 8 * parameters, rel=0.01)
    if not fits:
        assert "take more GPUs (distributed.strategy: shard" in told.stderr


@pytest.mark.parametrize("case, ranks, fits", [("lora", 1, False), ("lora", 4, True), ("lora", 8, True), ("full", 8, False), ("full", 24, True)])
def test_seventy_billion_parameters_are_planned_on_cards_of_80_gigabytes(case, ranks, fits, seventy_billion, tmp_path):
    model, parameters = seventy_billion
    adapter = {"type": "none"} if case == "full" else {"lora_r": 16, "lora_alpha": 32}
    told = plan_of_70b(model, tmp_path, adapter, ranks, "80GB", expect=0 if fits else 4)
    plan = json.loads(told.stdout)
    memory, peak = plan["ranks"][0]["memory"], plan["ranks"][0]["peak_bytes"]
    print(f"{case} on {ranks}: {peak / 1e9:.1f} GB", {name: round(size / 1e9, 1) for name, size in memory.items()})
    assert plan["parameters"] == parameters and len(plan["ranks"]) == ranks
    assert memory["base weights"] == 2 * parameters // ranks
    if case == "full":
        assert memory["fp32 masters"] == memory["gradients"] == 4 * parameters // ranks
        assert memory["optimizer"] == 8 * parameters // ranks
    assert (peak <= 80e9) == fits
