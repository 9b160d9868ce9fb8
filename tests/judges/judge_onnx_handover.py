"""Adapters in ONNX, merged or loaded at run time; what a run hands over, what inspect says of it, and what is refused."""

import json
import os
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from conftest import SEED
from onnx_decoder import LOGITS, MODELS, Onnx, batch, difference, exported, genai_answers, judged, transformers_model  # noqa: F401
from tune_program import recipe_for, tune, write_chats, write_recipe


# ---- adapters ----


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    """adapter(name) is a PEFT folder on that model, with B far from zero."""

    def make(name):
        folder = tmp_path_factory.mktemp("adapter")
        targets = ["q_proj", "v_proj", "o_proj", "down_proj", "up_proj"]
        model = get_peft_model(transformers_model(tiny(name, **MODELS[name])), LoraConfig(r=4, lora_alpha=8, target_modules=targets))
        generator = torch.Generator().manual_seed(SEED)
        for key, value in model.named_parameters():
            if "lora_" in key:
                value.data.normal_(0, 0.1, generator=generator)
        model.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("flavour", ["standard", "genai"])
def test_an_adapter_is_merged_or_loaded_at_run_time(tiny, adapter, tmp_path, flavour):
    base, tuned = tiny("llama-gqa"), adapter("llama-gqa")
    ids, mask = batch(None)
    want_base = judged(transformers_model(base), ids, mask)
    want = judged(PeftModel.from_pretrained(transformers_model(base), tuned), ids, mask)
    assert np.abs(want - want_base).max() > 1, "the adapter does nothing, so nothing is judged"
    arguments = ["export", "--format", "onnx", "--flavour", flavour, "--quant", "f32", "--model", base, "--adapter", tuned]
    tune(*arguments, "--output", tmp_path / "merged")
    tune(*arguments, "--separate-adapter", "--output", tmp_path / "apart")
    assert difference(Onnx(tmp_path / "merged").logits(ids, mask), want, mask) <= LOGITS
    assert difference(Onnx(tmp_path / "apart").logits(ids, mask), want_base, mask) <= LOGITS
    file = tmp_path / "apart" / "adapter.onnx_adapter"
    assert difference(Onnx(tmp_path / "apart", adapter=file).logits(ids, mask), want, mask) <= LOGITS
    read = onnxruntime.AdapterFormat.read_adapter(str(file))
    assert len(read.get_parameters()) == 2 * 5 * 3
    if flavour == "standard":
        onnx.checker.check_model(str(tmp_path / "apart" / "model.onnx"), full_check=True)
        return
    prompts = [ids[0].tolist()]
    merged = list(genai_answers(tmp_path / "merged", prompts, 16))
    assert list(genai_answers(tmp_path / "apart", prompts, 16, adapter=file)) == merged
    assert list(genai_answers(tmp_path / "apart", prompts, 16)) != merged


@pytest.mark.parametrize("name", ["llama-gqa", "mixtral"])
def test_a_run_hands_over_onnx(tiny, rng, tmp_path, name):
    rows = write_chats(tmp_path / "rows.jsonl", rng, 6)
    wanted = [{"format": "onnx", "quant": "f32"}, {"format": "onnx", "quant": "f32", "separate_adapter": True}]
    if name != "mixtral":
        wanted.append({"format": "onnx", "flavour": "genai", "quant": "int4"})
    recipe = recipe_for(tiny(name), rows, tmp_path / "run", export=wanted, train={"max_steps": 2, "learning_rate": 2e-2})
    tune("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe))
    exports = tmp_path / "run" / "export"
    ids, mask = batch("left")
    merged = Onnx(exports / "onnx-standard-f32").logits(ids, mask)
    assert difference(merged, judged(transformers_model(tiny(name)), ids, mask), mask) > 0.1, "the adapter does nothing"
    apart = exports / "onnx-standard-f32-adapter"
    assert difference(Onnx(apart, adapter=apart / "adapter.onnx_adapter").logits(ids, mask), merged, mask) <= LOGITS
    if name == "mixtral":
        return
    template = (exports / "onnx-genai-int4" / "chat_template.jinja").read_text()
    assert "<|assistant|>" in template
    files = set(os.listdir(exports / "onnx-genai-int4"))
    assert files >= {"config.json", "generation_config.json", "genai_config.json", "tokenizer.json", "tokenizer_config.json"}


# ---- inspect, and what can't be ----


def test_inspect_says_what_is_there_and_whether_it_is_whole(exported, tmp_path):
    folder = exported("llama-gqa", "genai", "int4")
    found = json.loads(tune("inspect", folder, "--json").stdout)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    assert found["kind"] == "model, ONNX" and found["metadata tune.quant"] == "int4" and found["opset com.microsoft"] == 1
    assert found["inputs"][0] == "input_ids INT64 [batch_size, sequence_length]"
    assert found["operators"]["com.microsoft.GroupQueryAttention"] == 3
    assert sum(found["operators"].values()) == len(model.graph.node)
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    assert {tensor["name"]: tensor["shape"] for tensor in found["tensors"]} == shapes
    assert found["bytes"]["UINT8"] == sum(tensor["bytes"] for tensor in found["tensors"] if tensor["dtype"] == "UINT8")
    shutil.copytree(folder, tmp_path / "cut")
    data = tmp_path / "cut" / "model.onnx.data"
    os.truncate(data, data.stat().st_size - 100)
    assert "model.onnx.data: is cut off: tensor " in tune("inspect", tmp_path / "cut", expect=3).stderr
    data.unlink()
    assert "model.onnx.data: is missing" in tune("inspect", tmp_path / "cut", expect=3).stderr
    os.truncate(tmp_path / "cut" / "model.onnx", 3000)
    assert "is no ONNX model, or a damaged one" in tune("inspect", tmp_path / "cut" / "model.onnx", expect=3).stderr


def test_inspect_reads_models_of_others(tmp_path):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])  # float_data
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    found = json.loads(tune("inspect", tmp_path / "m.onnx", "--json").stdout)
    assert found["operators"] == {"Add": 1} and found["tensors"] == [{"name": "w", "dtype": "FLOAT", "shape": [2], "bytes": 0}]


def test_what_can_not_be_is_refused(tiny, tmp_path):
    output = tmp_path / "out"

    def refused(*arguments, code=2, model="llama-gqa"):
        said = tune("export", *arguments, "--model", tiny(model, **MODELS.get(model, {})), "--output", output, expect=code).stderr
        assert not output.exists() and not list(tmp_path.glob(".out*")), sorted(tmp_path.iterdir())
        return said

    said = refused("--format", "onnx", "--flavour", "genai", model="mixtral")
    assert "onnxruntime-genai knows no model type mixtral" in said and "flavour standard" in said
    said = refused("--format", "onnx", "--flavour", "genai", model="tinyllama")
    assert "head_dim is 8; flavour genai needs a multiple of 16" in said
    assert "--flavour is genie; it may be standard or genai" in refused("--format", "onnx", "--flavour", "genie")
    assert "quant is q8_0 with format onnx; q8_0 goes with gguf" in refused("--format", "onnx", "--quant", "q8_0")
    assert "quant is int4 with format hf; int4 goes with onnx" in refused("--format", "hf", "--quant", "int4")
    assert "quant is int8 with format gguf; int8 goes with onnx" in refused("--format", "gguf", "--quant", "int8")
    assert "--flavour goes with onnx" in refused("--format", "gguf", "--flavour", "genai")
    assert "there is no adapter to keep apart" in refused("--format", "onnx", "--separate-adapter")
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    said = tune("export", "--format", "onnx", "--model", tiny("llama-gqa"), "--output", output, expect=2).stderr
    assert "was written by no export" in said and (output / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("flavour, quant", [("standard", "f32"), ("standard", "int4"), ("genai", "int8")])
def test_numbers_that_are_none_are_refused(tiny, tmp_path, flavour, quant):
    shutil.copytree(tiny("llama-gqa"), tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][7, 3] = float("nan")
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    arguments = ["--format", "onnx", "--flavour", flavour, "--quant", quant, "--model", tmp_path / "base"]
    said = tune("export", *arguments, "--output", tmp_path / "out", expect=3).stderr
    assert "tensor model.layers.1.mlp.up_proj.weight holds nan in row 7" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
