"""Importance matrices: measured as hooks in transformers and PEFT measure them, laid out as llama.cpp's, heeded as ggml does."""

import json
import random
import re

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from conftest import SEED
from ggml import quantized, tensors_of
from judge_mixtral import load as load_mixtral
from llama_cpp import LlamaCpp
from tune_program import recipe_for, shown_rows, tune, write_chats, write_recipe

DEEP = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=16, num_attention_heads=4, num_key_value_heads=2)


class Trained:
    """A run, calibration rows, and the matrix measured on them."""

    def __init__(self, base, root):
        self.base, self.output, self.calibration = base, root / "run", root / "calibration.jsonl"
        rows = write_chats(root / "rows.jsonl", random.Random(SEED), 8)
        write_chats(self.calibration, random.Random(SEED + 1), 6)
        recipe = recipe_for(base, rows, self.output, train={"max_steps": 3, "learning_rate": 1e-2})
        recipe["export"] = [{"format": "gguf", "quant": "q4_0", "imatrix": str(self.calibration)}]
        self.said = tune("run", "--recipe", write_recipe(root / "recipe.yaml", recipe)).stderr
        recipe["data"]["datasets"][0]["path"] = str(self.calibration)
        self.ids = [row["ids"] for row in shown_rows(write_recipe(root / "calibration.yaml", recipe))]
        self.matrix = root / "imatrix.gguf"
        tune("imatrix", "--run", self.output, "--data", self.calibration, "--output", self.matrix)
        self.exact = root / "f32.gguf"
        self.export(self.exact, "f32")

    def export(self, output, quant, *more, expect=0):
        return tune("export", "--format", "gguf", "--quant", quant, "--run", self.output, "--output", output, *more, expect=expect)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return Trained(tiny("llama-gqa", **DEEP), tmp_path_factory.mktemp("imatrix"))


def measured(model, texts):
    """{module: (sum of squares a column, rows)} of all linear layers."""
    sums = {}

    def hook(name):
        def add(_, inputs):
            rows = inputs[0].detach().double().reshape(-1, inputs[0].shape[-1])
            before, count = sums.get(name, (0, 0))
            sums[name] = (before + rows.square().sum(0), count + len(rows))

        return add

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        for ids in texts:
            model(input_ids=torch.tensor([ids]))
    return sums


LLAMA = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
         "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}  # fmt: skip


def test_columns_are_measured_as_hooks_measure_them(run):
    model = AutoModelForCausalLM.from_pretrained(run.base, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(model, run.output / "final").merge_and_unload().eval()
    wanted = {}
    for name, sums in measured(model, run.ids).items():
        if layer := re.match(r"model\.layers\.(\d+)\.\w+\.(\w+)$", name):
            wanted[f"blk.{layer[1]}.{LLAMA[layer[2]]}.weight"] = sums
    said = tensors_of(run.matrix)
    assert set(said) == {name + end for name in wanted for end in (".in_sum2", ".counts")}
    for name, (squares, rows) in wanted.items():
        assert said[name + ".counts"].data.reshape(-1) == [rows]
        np.testing.assert_allclose(said[name + ".in_sum2"].data.reshape(-1), squares, rtol=1e-4)
    assert json.loads(tune("inspect", run.matrix, "--json").stdout)["kind"] == "importance matrix, GGUF"
    fields = gguf.GGUFReader(run.matrix).fields
    assert fields["general.type"].contents() == "imatrix" and fields["imatrix.datasets"].contents() == ["calibration.jsonl"]
    assert fields["imatrix.chunk_count"].contents() == len(run.ids) and fields["imatrix.chunk_size"].contents() == max(map(len, run.ids))


def means(matrix, name):
    """[experts, columns] as llama-quantize takes them from the file."""
    squares, counts = (matrix[name + end].data for end in (".in_sum2", ".counts"))
    squares, counts = squares.reshape(counts.size, -1), counts.reshape(-1, 1)
    return np.where(counts > 0, squares / np.maximum(counts, 1), np.float32(1)).astype(np.float32)


def check_bytes(exact, written, matrix):
    weighted = 0
    for name, tensor in written.items():
        kind = tensor.tensor_type.name
        if kind == "F32":
            continue
        values = exact[name].data.reshape(-1, *exact[name].data.shape[-2:])
        known = name + ".counts" in matrix
        weighted += known
        for at, expert in enumerate(values):
            want = quantized(kind.lower(), np.ascontiguousarray(expert), means(matrix, name)[at] if known else None)
            assert np.array_equal(tensor.data.reshape(len(values), -1)[at].view(np.uint8), want), (name, at)
    assert weighted > 10


@pytest.mark.parametrize("quant", ["q6_k", "q5_0", "q4_k_m", "q4_0"])
def test_a_files_bytes_are_ggmls_with_that_importance(run, tmp_path, quant):
    run.export(tmp_path / "few.gguf", quant, "--imatrix", run.matrix)
    exact, written, matrix = (tensors_of(path) for path in (run.exact, tmp_path / "few.gguf", run.matrix))
    check_bytes(exact, written, matrix)
    first = {"q4_0": "Q4_1", "q5_0": "Q5_1", "q4_k_m": "Q6_K", "q6_k": "Q6_K"}[quant]
    types = [written[f"blk.{layer}.ffn_down.weight"].tensor_type.name for layer in range(3)]
    assert types == [first, first, quant.removesuffix("_m").upper()]  # an eighth of 16 layers
    fields = gguf.GGUFReader(tmp_path / "few.gguf").fields
    assert fields["quantize.imatrix.dataset"].contents() == "calibration.jsonl"
    assert fields["quantize.imatrix.entries_count"].contents() == 7 * 16


def test_data_and_recipes_give_the_file_that_the_matrix_gives(run, tmp_path):
    files = [tmp_path / "of_matrix.gguf", tmp_path / "of_data.gguf", run.output / "export" / "model-q4_0.gguf"]
    run.export(files[0], "q4_0", "--imatrix", run.matrix)
    run.export(files[1], "q4_0", "--imatrix", run.calibration)
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()
    assert "of calibration.jsonl" in run.said and f"verified {files[2]}" in run.said
    run.export(files[1], "q4_0")
    assert files[0].read_bytes() != files[1].read_bytes()


def test_what_the_calibration_data_needs_is_lost_less(run, tmp_path):
    """The error that a quantised product makes on calibration data, summed over a model's matrices."""
    run.export(tmp_path / "with.gguf", "q4_k_m", "--imatrix", run.matrix)
    run.export(tmp_path / "without.gguf", "q4_k_m")
    exact, matrix = tensors_of(run.exact), tensors_of(run.matrix)
    errors = []
    for name in ("with", "without"):
        written = tensors_of(tmp_path / f"{name}.gguf")
        values = {n: gguf.quants.dequantize(t.data, t.tensor_type).reshape(exact[n].data.shape) for n, t in written.items()}
        weighted = [n for n in values if n + ".counts" in matrix]
        errors.append(sum(((values[n] - exact[n].data) ** 2 * means(matrix, n)[0]).sum() for n in weighted))
    assert errors[0] < errors[1]
    LlamaCpp(tmp_path / "with.gguf").log_probabilities(run.ids[0][:64])


def test_experts_have_columns_of_their_own(tiny, tmp_path):
    """Of eight experts, some see other tokens than others; those that see none have no importance."""
    model = tiny("mixtral-eight", num_hidden_layers=2, intermediate_size=256)
    text = "The order was sent on Monday, but the parcel has not arrived."
    (tmp_path / "text.txt").write_text(text)
    still = {"max_steps": 1, "learning_rate": 1e-12}  # the base model, but in a run's fp32
    recipe = recipe_for(model, tmp_path / "text.txt", tmp_path / "run", data={"chat_template": "none"}, stage="pretrain", train=still)
    recipe["data"]["datasets"][0]["type"] = "text"
    tune("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe))
    said = tune("imatrix", "--run", tmp_path / "run", "--output", tmp_path / "imatrix.gguf").stderr  # on its own data
    ids = [row["ids"] for row in shown_rows(tmp_path / "recipe.yaml")]
    matrix, names = tensors_of(tmp_path / "imatrix.gguf"), {"w1": "gate", "w3": "up", "w2": "down"}
    seen = measured(load_mixtral(model), ids)
    unseen = 0
    for layer in range(2):
        for number in range(8):
            for module, name in names.items():
                squares, rows = seen.get(f"model.layers.{layer}.mlp.experts.{number}.{module}", (0, 0))
                unseen += rows == 0
                stack = f"blk.{layer}.ffn_{name}_exps.weight"
                assert matrix[stack + ".counts"].data.reshape(-1)[number] == rows
                said_squares = matrix[stack + ".in_sum2"].data.reshape(8, -1)[number]
                np.testing.assert_allclose(said_squares, squares, rtol=1e-4, atol=1e-6 * said_squares.max())
    assert said.count("no token chose the expert") == unseen // 3
    files = []
    for quant, more in (("f32", []), ("q4_k_m", ["--imatrix", tmp_path / "imatrix.gguf"])):
        files.append(tmp_path / f"{quant}.gguf")
        tune("export", "--format", "gguf", "--quant", quant, "--model", model, "--output", files[-1], *more)
    check_bytes(tensors_of(files[0]), tensors_of(files[1]), matrix)
    assert gguf.GGUFReader(files[1]).fields["quantize.imatrix.entries_count"].contents() == len(matrix) // 2 == 2 * 7


def test_what_is_no_matrix_of_this_model_is_refused(run, tiny, tmp_path):
    output = tmp_path / "m.gguf"
    assert "has no effect on this format" in run.export(output, "q8_0", "--imatrix", run.matrix, expect=2).stderr
    run.export(tmp_path / "model.gguf", "q4_0")
    assert "is no importance matrix" in run.export(output, "q4_0", "--imatrix", tmp_path / "model.gguf", expect=3).stderr
    other = ["--model", tiny("llama-mha"), "--output", output]
    said = tune("export", "--format", "gguf", "--quant", "q4_0", "--imatrix", run.matrix, *other, expect=3).stderr
    assert "the importance matrix is of another model" in said
    assert "rows.jsonl" in run.export(output, "q4_0", "--imatrix", tmp_path / "rows.jsonl", expect=3).stderr
    assert "give some: --data" in tune("imatrix", *other, expect=2).stderr
    (tmp_path / "mine.gguf").write_text("somebody's")
    assert "was written by no export" in tune("imatrix", *other[:2], "--output", tmp_path / "mine.gguf", expect=2).stderr
    recipe = recipe_for(run.base, run.calibration, tmp_path / "run")
    recipe["export"] = [{"format": "gguf", "quant": "q4_0", "imatrix": "nowhere.jsonl"}]
    for verb in ("run", "plan"):
        assert "nowhere.jsonl" in tune(verb, "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe), expect=3).stderr
    recipe["export"][0]["imatrix"] = str(tmp_path / "model.gguf")
    assert "is no importance matrix" in tune("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe), expect=3).stderr
    recipe["export"][0]["quant"] = "q8_0"
    assert "no effect on this format" in tune("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe), expect=2).stderr
    assert not output.exists() and not (tmp_path / "run" / "final").exists()
