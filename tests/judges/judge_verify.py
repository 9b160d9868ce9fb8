"""What `tune verify` says of an exported model, held against transformers and PEFT; and that it finds what is broken."""

import json
import math
import random
import re
import shutil

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from conftest import SEED
from tune_program import recipe_for, shown_rows, tune, write_chats, write_recipe

TEXTS = [  # of tools/verbs/verification.cpp
    "The order was sent on Monday, but the parcel has not arrived. Could you please tell me where it is now?",
    "def mean(numbers):\n    total = 0\n    for number in numbers:\n        total += number\n    return total / len(numbers)\n",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 1000",
    "Où est la bibliothèque? Die Bibliothek ist geöffnet. 图书馆在哪里？ Библиотека открыта.",
]
TEXT_TOKENS, HELD_OUT_TOKENS = 128, 512
SAID = r"(\d+) tokens, logits differ by (\S+) at most, (\S+) on average; KL (\S+) nats a token \(may be (\S+)\); perplexity (\S+) -> (\S+)"


EXPORTS = [{"format": "adapter"}, {"format": "gguf", "quant": "q8_0"}, {"format": "hf", "verify": False}]


class Run:
    def __init__(self, base, root, exports=EXPORTS):
        self.base, self.output = base, root / "run"
        rows = write_chats(root / "rows.jsonl", random.Random(SEED), 12)
        held_out = write_chats(root / "held_out.jsonl", random.Random(SEED + 1), 4)
        recipe = recipe_for(base, rows, self.output, evaluation=held_out, train={"max_steps": 4, "learning_rate": 1e-2})
        recipe["export"] = exports
        self.said = tune("run", "--recipe", write_recipe(root / "recipe.yaml", recipe)).stderr
        recipe["data"]["datasets"] = recipe["data"].pop("eval_datasets")
        self.held_out = [row["ids"] for row in shown_rows(write_recipe(root / "held_out.yaml", recipe))]

    def texts(self):
        pieces = sentencepiece.SentencePieceProcessor(str(self.base / "tokenizer.model"))  # transformers cuts runs of spaces otherwise
        texts = [[pieces.bos_id(), *pieces.encode(text)][:TEXT_TOKENS] for text in TEXTS]
        left = HELD_OUT_TOKENS
        for row in self.held_out:
            texts.append(row[: min(TEXT_TOKENS, left)])
            left -= len(texts[-1])
        return texts

    def trained(self):
        return PeftModel.from_pretrained(load(self.base), self.output / "final")

    def export(self, output, *more, expect=0):
        return tune("export", "--run", self.output, "--output", output, *more, expect=expect)

    def verify(self, file, expect=0):
        said = tune("verify", "--file", file, "--run", self.output, expect=expect).stderr
        figures = re.search(SAID, said)
        assert figures, said
        return [float(figure) for figure in figures.groups()], said


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return Run(tiny("llama-gqa"), tmp_path_factory.mktemp("verify"))


def compared(trained, written, texts):
    """The figures in the order in which they are said."""
    tokens, largest, differences, logits, kl, surprise, predicted = 0, 0.0, 0.0, 0, 0.0, [0.0, 0.0], 0
    for ids in texts:
        with torch.no_grad():
            before, after = (model(input_ids=torch.tensor([ids])).logits[0].double() for model in (trained, written))
        largest = max(largest, (before - after).abs().max().item())
        differences += (before - after).abs().sum().item()
        p, q = before.log_softmax(-1), after.log_softmax(-1)
        kl += (p.exp() * (p - q)).sum().item()
        for i, scores in enumerate((p, q)):
            surprise[i] -= scores[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum().item()
        tokens, logits, predicted = tokens + len(ids), logits + before.numel(), predicted + len(ids) - 1
    perplexities = [math.exp(value / predicted) for value in surprise]
    return [tokens, largest, differences / logits, kl / tokens, *perplexities]


def assert_same(said, want):
    assert said[0] == want[0]
    assert said[1:4] == pytest.approx(want[1:4], rel=0.05, abs=2e-5)  # two digits are said
    assert said[4:] == pytest.approx(want[4:], rel=1e-3)


def test_the_figures_are_those_of_peft_and_transformers(run, tmp_path):
    run.export(tmp_path / "hf", "--format", "hf", "--quant", "f32")
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    generator = torch.Generator().manual_seed(SEED)
    for name, tensor in weights.items():  # a model that is somewhat another one
        tensor += torch.randn(tensor.shape, generator=generator) * tensor.std() * 0.002
    save_file(weights, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    want = compared(run.trained(), load(tmp_path / "hf"), run.texts())
    said, _ = run.verify(tmp_path / "hf")
    del said[4]  # the tolerance
    assert_same(said, want)


def test_a_run_verifies_what_it_hands_over(run):
    said = {line.split(":")[0]: re.search(SAID, line) for line in run.said.splitlines() if line.startswith("verified ")}
    assert list(said) == [f"verified {run.output / 'export' / name}" for name in ("adapter", "model-q8_0.gguf")] and all(said.values())
    assert (run.output / "export" / "hf").exists()


@pytest.mark.parametrize("quant", ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_0", "q4_k_m", "q4_0"])
def test_whole_files_pass(run, tmp_path, quant):
    done = run.export(tmp_path / "m.gguf", "--format", "gguf", "--quant", quant, "--verify")
    assert re.search(SAID, done.stderr) and done.stdout == f"{tmp_path / 'm.gguf'}\n"
    figures, _ = run.verify(tmp_path / "m.gguf")
    assert (quant == "f32") == (figures[3] < 1e-8)


def test_data_that_is_elsewhere_is_done_without(run, tmp_path):
    held_out = run.output.parent / "held_out.jsonl"
    held_out.rename(tmp_path / "elsewhere")
    said = tune("verify", "--file", run.output / "export" / "model-q8_0.gguf", "--run", run.output).stderr
    (tmp_path / "elsewhere").rename(held_out)
    assert "held_out.jsonl" in said and "fixed texts alone" in said and re.search(SAID, said)


def test_an_adapter_passes(run, tmp_path):
    run.export(tmp_path / "adapter", "--format", "adapter", "--verify")
    figures, _ = run.verify(tmp_path / "adapter")
    assert figures[1] == 0


def factors(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", ["llama-gqa", "mixtral"])
def test_a_gguf_adapter_becomes_pefts_again(tiny, tmp_path, kind):
    base = tiny(kind)
    run = Run(base, tmp_path)
    run.export(tmp_path / "lora.gguf", "--format", "gguf-lora", "--verify")
    run.verify(tmp_path / "lora.gguf")
    tune("export", "--format", "adapter", "--model", base, "--adapter", tmp_path / "lora.gguf", "--output", tmp_path / "again")
    before, after = factors(run.output / "final"), factors(tmp_path / "again")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    ids = torch.tensor([run.held_out[0]])
    with torch.no_grad():
        want, got = (PeftModel.from_pretrained(load(base), folder)(input_ids=ids).logits for folder in (run.output / "final", tmp_path / "again"))
    assert torch.equal(want, got)


def test_rows_of_a_gguf_adapters_b_in_the_wrong_order_are_found(run, tmp_path):
    run.export(tmp_path / "lora.gguf", "--format", "gguf-lora")
    with open(tmp_path / "lora.gguf", "r+b") as file:
        for tensor in gguf.GGUFReader(tmp_path / "lora.gguf").tensors:
            if tensor.name.endswith(("attn_q.weight.lora_b", "attn_k.weight.lora_b")):
                file.seek(tensor.data_offset)
                file.write(np.ascontiguousarray(tensor.data.reshape(-1, 8, 2, 4).swapaxes(1, 2)).tobytes())
    run.verify(tmp_path / "lora.gguf", expect=5)


def test_gguf_adapters_that_pefts_form_has_no_place_for_are_refused(run, tmp_path):
    def lora(name, rank=2, out=96, inputs=96):
        writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
        writer.add_type("adapter"), writer.add_string("adapter.type", "lora"), writer.add_float32("adapter.lora.alpha", 4.0)
        for module, r in ((name, rank), ("blk.1.attn_q.weight", 2)):
            writer.add_tensor(f"{module}.lora_a", np.ones((r, inputs), np.float32))
            writer.add_tensor(f"{module}.lora_b", np.ones((out, r), np.float32))
        writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
        arguments = ["export", "--format", "adapter", "--model", run.base, "--adapter", tmp_path / "a.gguf", "--output", tmp_path / "a"]
        return tune(*arguments, expect=None)

    assert lora("blk.0.attn_q.weight").returncode == 0
    assert lora("blk.0.attn_q.weight", rank=3).returncode == 0
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["r"] == 3 and config["rank_pattern"] == {"model.layers.1.self_attn.q_proj": 2}
    for done, what in [
        (lora("token_embd.weight"), "no factor of a linear layer"),
        (lora("blk.0.attn_q.weight", out=90), "another shape of blk.0.attn_q.weight.lora_b"),
        (lora("blk.0.attn_q.weight", inputs=64), "model.layers.0.self_attn.q_proj"),
    ]:
        assert done.returncode == 3 and what in done.stderr, done.stderr
    merged = tune("export", "--format", "hf", "--model", run.base, "--adapter", tmp_path / "a.gguf", "--output", tmp_path / "hf", expect=2)
    assert "make a PEFT folder of it first" in merged.stderr


def test_rows_of_q_in_the_wrong_order_are_found(run, tmp_path):
    """What a converter does that forgets how llama.cpp rotates."""
    run.export(tmp_path / "m.gguf", "--format", "gguf", "--quant", "q8_0")
    with open(tmp_path / "m.gguf", "r+b") as file:
        for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors:
            if tensor.name.endswith("attn_q.weight"):
                file.seek(tensor.data_offset)
                rows = tensor.data.reshape(6, 8, 2, -1)  # heads of 16 dimensions: pairs to halves
                file.write(np.ascontiguousarray(rows.swapaxes(1, 2)).tobytes())
    _, said = run.verify(tmp_path / "m.gguf", expect=5)
    assert "doesn't answer as what was trained" in said and "don't serve it" in said


def test_two_rows_in_each_others_place_are_found(run, tmp_path):
    """The answers hardly change: each row of the weights is compared, too."""
    run.export(tmp_path / "m.gguf", "--format", "gguf", "--quant", "q8_0")
    with open(tmp_path / "m.gguf", "r+b") as file:
        tensor = next(t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors if t.name == "blk.1.ffn_down.weight")
        file.seek(tensor.data_offset)
        rows = np.array(tensor.data)
        rows[[7, 9]] = rows[[9, 7]]
        file.write(rows.tobytes())
    figures, said = run.verify(tmp_path / "m.gguf", expect=5)
    assert figures[3] < figures[4], "nothing that the divergence shows"
    assert re.search(r"row [79] of model.layers.1.mlp.down_proj.weight isn't what was trained: it differs by 1\.\d+ of its length", said)


def test_the_base_without_its_adapter_is_found(run, tmp_path):
    tune("export", "--format", "gguf", "--quant", "f16", "--model", run.base, "--output", tmp_path / "base.gguf")
    run.verify(tmp_path / "base.gguf", expect=5)


def test_model_cards_are_read_by_the_hub(tiny, tmp_path):
    base = shutil.copytree(tiny("llama-gqa"), tmp_path / "house-base")
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: house-rules\nbase_model: elsewhere/older\n---\n# A base\n")
    run = Run(base, tmp_path)
    for folder, library, relation in [("adapter", "peft", "adapter"), ("hf", "transformers", "finetune")]:
        card = ModelCard.load(run.output / "export" / folder / "README.md")
        assert card.data.base_model == "house-base" and card.data.library_name == library
        assert (card.data.license, card.data.license_name) == ("other", "house-rules")
        assert card.data.to_dict()["base_model_relation"] == relation
        losses = [json.loads(line) for line in open(run.output / "metrics.jsonl") if "eval_loss" in line]
        for line in (losses[0], losses[-1]):
            assert f"| {line['step']} | {line['eval_loss']:.4f} | {math.exp(line['eval_loss']):.2f} |" in card.text
        assert "rows.jsonl" in card.text and "rank 4, alpha 8" in card.text and str(tmp_path) not in card.content


def test_a_model_of_another_vocabulary_is_found(run, tiny, tmp_path):
    said = tune("verify", "--file", tiny("llama-gqa", vocab_size=32064), "--run", run.output, expect=5).stderr
    assert "has 32064 tokens, what was trained has 32000" in said


def test_what_cannot_be_compared_is_refused(run, tmp_path):
    for file in (shutil.copy(run.output / "recipe.yaml", tmp_path), tmp_path / "absent"):
        tune("verify", "--file", file, "--run", run.output, expect=3)
    assert "--file is missing" in tune("verify", "--run", run.output, expect=2).stderr


def spoiled_by_rounding(model):
    """The same function, but with columns so large beside others that four bits leave nothing of these."""
    weights = load_file(model / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith("layernorm.weight"):
            tensor[::32] /= 1e4
        elif re.search(r"\.(q|k|v|gate|up)_proj\.", name):
            tensor[:, ::32] *= 1e4
    save_file(weights, model / "model.safetensors", {"format": "pt"})


def test_what_fails_has_the_name_of_the_export_no_longer(tiny, tmp_path):
    spoiled_by_rounding(model := shutil.copytree(tiny("llama-gqa"), tmp_path / "model"))
    (place := tmp_path / "exports").mkdir()
    for attempt in range(2):  # the second one replaces what the first one left
        arguments = ["--quant", "q4_0", "--model", model, "--verify", "--output", place / "m.gguf", "--max-shard-size", "1MB"]
        done = tune("export", "--format", "gguf", *arguments, expect=5)
        names = sorted(path.name for path in place.iterdir())
        assert names == [f"m.unverified-{i:05}-of-{len(names):05}.gguf" for i in range(1, len(names) + 1)] and len(names) > 2
        assert f"m-00001-of-{len(names):05}.gguf is called {place}/{names[0]} now" in done.stderr and done.stdout == ""
        tune("inspect", place / names[0])
    rows = write_chats(tmp_path / "rows.jsonl", random.Random(SEED), 4)
    recipe = recipe_for(model, rows, tmp_path / "run", train={"max_steps": 1, "learning_rate": 1e-6})
    recipe["export"] = [{"format": "gguf", "quant": "q4_0"}, {"format": "onnx", "quant": "int4"}, {"format": "hf", "quant": "f32"}]
    done = tune("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe), expect=5)
    assert done.stdout.splitlines() == [f"{tmp_path}/run/final", f"{tmp_path}/run/export/hf"]
    left = sorted(path.name for path in (tmp_path / "run" / "export").iterdir())
    assert left == ["hf", "model-q4_0.unverified.gguf", "onnx-standard-int4.unverified"]
