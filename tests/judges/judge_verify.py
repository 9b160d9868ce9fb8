"""What `tune verify` says of an exported model, held against transformers and PEFT; and that it finds what is broken."""

import math
import random
import re
import shutil

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaTokenizer

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


class Run:
    def __init__(self, base, root):
        self.base, self.output = base, root / "run"
        rows = write_chats(root / "rows.jsonl", random.Random(SEED), 12)
        held_out = write_chats(root / "held_out.jsonl", random.Random(SEED + 1), 4)
        recipe = recipe_for(base, rows, self.output, evaluation=held_out, train={"max_steps": 4, "learning_rate": 1e-2})
        recipe["export"] = [{"format": "adapter"}, {"format": "gguf", "quant": "q8_0"}, {"format": "hf", "verify": False}]
        self.said = tune("run", "--recipe", write_recipe(root / "recipe.yaml", recipe)).stderr
        recipe["data"]["datasets"] = recipe["data"].pop("eval_datasets")
        self.held_out = [row["ids"] for row in shown_rows(write_recipe(root / "held_out.yaml", recipe))]

    def texts(self):
        tokenizer = LlamaTokenizer.from_pretrained(self.base)
        texts = [tokenizer(text)["input_ids"][:TEXT_TOKENS] for text in TEXTS]
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
    assert said[0] == want[0]
    assert said[1:] == pytest.approx(want[1:], rel=0.05)  # two digits are said


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


def test_an_adapter_passes(run, tmp_path):
    run.export(tmp_path / "adapter", "--format", "adapter", "--verify")
    figures, _ = run.verify(tmp_path / "adapter")
    assert figures[1] == 0


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


def test_the_base_without_its_adapter_is_found(run, tmp_path):
    tune("export", "--format", "gguf", "--quant", "f16", "--model", run.base, "--output", tmp_path / "base.gguf")
    run.verify(tmp_path / "base.gguf", expect=5)


def test_what_cannot_be_compared_is_refused(run, tmp_path):
    assert "can't be read back" in run.export(tmp_path / "a.gguf", "--format", "gguf-lora", "--verify", expect=2).stderr
    assert not (tmp_path / "a.gguf").exists()
    run.export(tmp_path / "a.gguf", "--format", "gguf-lora")
    for file in (tmp_path / "a.gguf", shutil.copy(run.output / "recipe.yaml", tmp_path), tmp_path / "absent"):
        tune("verify", "--file", file, "--run", run.output, expect=3)
    assert "--file is missing" in tune("verify", "--run", run.output, expect=2).stderr
