"""What `tune verify` says of an ONNX export, held against onnxruntime running the graph; and that it finds what is broken."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from judge_onnx import without_rounding
from onnx_decoder import Onnx
from judge_verify import SAID, Run, assert_same, compared
from tune_program import recipe_for, tune, write_recipe

EXPORTS = [
    {"format": "onnx", "quant": "f32"},
    {"format": "onnx", "flavour": "genai", "quant": "int8"},
    {"format": "onnx", "quant": "f32", "separate_adapter": True},
    {"format": "onnx", "quant": "f16", "verify": False},
]
MODELS = {"llama-gqa": {}, "llama-gqa-tied": {"hidden_size": 128}, "mixtral": {}}
CASES = [
    ("standard", "llama-gqa", "f32"), ("standard", "llama-gqa", "bf16"), ("standard", "llama-gqa", "int8"), ("standard", "llama-gqa", "int4"),
    ("standard", "llama-gqa-tied", "f32"), ("standard", "llama-gqa-tied", "int4"), ("standard", "mixtral", "f32"), ("standard", "mixtral", "int4"),
    ("genai", "llama-gqa", "f32"), ("genai", "llama-gqa", "int8"), ("genai", "llama-gqa", "int4"), ("genai", "llama-gqa-tied", "int8"),
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """run(name) is a finished run on that model; the first one's recipe asks for ONNX."""
    runs = {}

    def make(name):
        if name not in runs:
            exports = EXPORTS if name == "llama-gqa" else []
            runs[name] = Run(tiny(name, **MODELS[name]), tmp_path_factory.mktemp("run"), exports)
        return runs[name]

    return make


class Graph:
    """An export as compared() wants a model: what onnxruntime computes, in fp32."""

    def __init__(self, folder):
        adapter = folder / "adapter.onnx_adapter"
        self.onnx = Onnx(folder, without_rounding(folder), adapter=adapter if adapter.exists() else None)

    def __call__(self, input_ids):
        return SimpleNamespace(logits=torch.from_numpy(self.onnx.logits(input_ids, torch.ones_like(input_ids))))


def export(run, folder, flavour, quant, *more):
    run.export(folder, "--format", "onnx", "--flavour", flavour, "--quant", quant, *more)
    return folder


def figures(run, folder, expect=0):
    """Ours and onnxruntime's, without the tolerance."""
    said, _ = run.verify(folder, expect=expect)
    del said[4]
    return said, compared(run.trained(), Graph(folder), run.texts())


@pytest.mark.parametrize("flavour, name, quant", CASES)
def test_the_figures_are_those_of_onnxruntime(run, tmp_path, flavour, name, quant):
    said, want = figures(run(name), export(run(name), tmp_path / "onnx", flavour, quant))
    assert_same(said, want)
    assert (quant == "f32") == (said[3] < 1e-8)


@pytest.mark.parametrize("flavour, quant", [("standard", "int4"), ("genai", "int8")])
def test_an_adapter_apart_counts(run, tmp_path, flavour, quant):
    run = run("llama-gqa")
    said, want = figures(run, export(run, tmp_path / "onnx", flavour, quant, "--separate-adapter"))
    assert_same(said, want)
    (tmp_path / "onnx" / "adapter.onnx_adapter").unlink()
    assert "takes an adapter's factors" in tune("verify", "--file", tmp_path / "onnx", "--run", run.output, expect=3).stderr


def test_a_run_verifies_what_it_hands_over(run):
    run = run("llama-gqa")
    said = {line.split(":")[0]: re.search(SAID, line) for line in run.said.splitlines() if line.startswith("verified ")}
    names = ("onnx-standard-f32", "onnx-genai-int8", "onnx-standard-f32-adapter")
    assert list(said) == [f"verified {run.output / 'export' / name}" for name in names] and all(said.values())
    assert [figures[5] for figures in said.values()] == ["0.02", "0.05", "0.02"]
    for name in ("onnx-standard-f32", "onnx-standard-f32-adapter"):
        assert run.verify(run.output / "export" / name)[0][3] < 1e-8
    run.verify(run.output / "export" / "onnx-standard-f16")


def test_verified_when_it_is_exported(run, tmp_path):
    done = run("llama-gqa").export(tmp_path / "onnx", "--format", "onnx", "--quant", "int4", "--verify")
    assert re.search(SAID, done.stderr) and done.stdout == f"{tmp_path / 'onnx'}\n"


# ---- what is broken ----


def change_stored(folder, ending, change):
    """In the data file, the bytes of all tensors whose names end so: change(rows along the first axis)."""
    for tensor in onnx.load(folder / "model.onnx", load_external_data=False).graph.initializer:
        if not tensor.name.endswith(ending):
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        with open(folder / place["location"], "r+b") as file:
            file.seek(int(place["offset"]))
            rows = np.frombuffer(file.read(int(place["length"])), np.uint8).reshape(tensor.dims[0], -1).copy()
            change(rows)
            file.seek(int(place["offset"]))
            file.write(rows.tobytes())


def swap_two(rows):
    rows[[0, 1]] = rows[[1, 0]]


def swap_nibbles(rows):
    rows[:] = rows >> 4 | rows << 4


def turn(rows):
    values = rows.view(np.float32)
    values[:] = values.T.copy()


def forget(rows):
    rows[5, :4] = 0


@pytest.mark.parametrize(
    "flavour, quant, name, change",
    [
        ("standard", "f32", "lm_head.weight", swap_two),
        ("standard", "f32", "model.layers.1.self_attn.q_proj.weight", turn),
        ("standard", "int4", "model.layers.0.self_attn.o_proj.weight.scale", swap_two),
        ("standard", "int4", ".mlp.down_proj.weight", swap_nibbles),
        ("genai", "int8", "model.layers.2.self_attn.v_proj.weight", swap_two),
        ("standard", "int8", "model.layers.1.mlp.down_proj.weight", swap_two),  # the answers hardly change
        ("genai", "f32", "rope.cosine", forget),
    ],
)
def test_what_is_not_what_was_trained_is_found(run, tmp_path, flavour, quant, name, change):
    folder = export(run("llama-gqa"), tmp_path / "onnx", flavour, quant)
    run("llama-gqa").verify(folder)
    change_stored(folder, name, change)
    said = tune("verify", "--file", folder, "--run", run("llama-gqa").output, expect=5).stderr
    if name.startswith("rope"):
        assert "rope.cosine is wrong at position 5" in said
    else:
        assert "what was trained" in said
        assert_same(*figures(run("llama-gqa"), folder, expect=5))


def test_the_factors_of_another_run_are_found(run, tmp_path):
    folder = export(run("llama-gqa"), tmp_path / "onnx", "standard", "f32", "--separate-adapter")
    bytes_of = (folder / "adapter.onnx_adapter").read_bytes()
    factor = onnxruntime.AdapterFormat.read_adapter(str(folder / "adapter.onnx_adapter")).get_parameters()
    b = factor["model.layers.0.self_attn.v_proj.lora_B.weight"].numpy()
    at = bytes_of.index(b.tobytes())
    (folder / "adapter.onnx_adapter").write_bytes(bytes_of[:at] + (-b).tobytes() + bytes_of[at + b.nbytes :])
    assert_same(*figures(run("llama-gqa"), folder, expect=5))


def test_files_that_are_not_whole_or_not_ours_are_refused(run, tmp_path):
    run = run("llama-gqa")
    whole = run.output / "export" / "onnx-genai-int8"

    def refused(change):
        folder = tmp_path / "changed"
        shutil.copytree(whole, folder)
        change(folder)
        said = tune("verify", "--file", folder, "--run", run.output, expect=3).stderr
        shutil.rmtree(folder)
        return said

    def edit(change):
        def edited(folder):
            model = onnx.load(folder / "model.onnx", load_external_data=False)
            change(model)
            (folder / "model.onnx").write_bytes(model.SerializeToString())

        return edited

    def cut(folder):
        with open(folder / "model.onnx.data", "r+b") as file:
            file.truncate(1000)

    def without_a_node(model):
        del model.graph.node[next(i for i, node in enumerate(model.graph.node) if node.op_type == "MatMulNBits")]

    def with_zero_points(model):
        next(node for node in model.graph.node if node.op_type == "MatMulNBits").input.append("constants/0")

    assert "is cut off" in refused(cut)
    assert "was written by another program" in refused(edit(lambda model: model.ClearField("metadata_props")))
    assert "is taken by no node" in refused(edit(without_a_node))
    assert "is in blocks of a kind that isn't read" in refused(edit(with_zero_points))
    assert "which model.onnx doesn't take" in refused(
        lambda folder: shutil.copy(run.output / "export" / "onnx-standard-f32-adapter" / "adapter.onnx_adapter", folder)
    )
    assert "one file of a model" in tune("verify", "--file", whole / "model.onnx", "--run", run.output, expect=3).stderr


def test_onnx_is_no_model_to_start_from(run, tmp_path):
    run = run("llama-gqa")
    folder = run.output / "export" / "onnx-standard-f32"
    recipe = write_recipe(tmp_path / "recipe.yaml", recipe_for(folder, run.output.parent / "rows.jsonl", tmp_path / "out"))
    for arguments in (["run", "--recipe", recipe], ["export", "--format", "hf", "--model", folder, "--output", tmp_path / "hf"]):
        said = tune(*arguments, expect=3).stderr
        assert "neither tuned nor run here" in said and "give the model that it was exported from" in said
