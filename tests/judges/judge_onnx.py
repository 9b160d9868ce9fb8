"""ONNX exports, checked by onnx and run by onnxruntime and onnxruntime-genai, against transformers on the same weights."""

import json
import os

import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import onnxruntime_genai
import pytest
import sentencepiece
import torch
from onnx import numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaTokenizer

from conftest import SEED
from tune_program import QUICKSTART, ROOT, peak_memory, recipe_for, tune, write_chats, write_recipe

LOGITS = 1e-4
MODELS = {"llama-mha": {}, "llama-gqa": {}, "llama-gqa-tied": {"hidden_size": 128}, "mistral-window": {}, "mixtral": {}}
DENSE = [name for name in MODELS if name != "mixtral"]
FLAVOURS = [("standard", name) for name in MODELS] + [("genai", name) for name in DENSE]
EXACT = {"session.qdq_matmulnbits_accuracy_level": "0"}  # onnxruntime rounds activations to 8 bits unless it is told not to
ROWS, LENGTH, PADDING = 2, 26, 5  # longer than the window of 7


def transformers_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    """exported(name, flavour, quant, ...) is the folder of that export, made once."""
    folders = {}

    def make(name, flavour="standard", quant="f32", *more):
        key = (name, flavour, quant, *map(str, more))
        if key not in folders:
            output = tmp_path_factory.mktemp("onnx") / "model"
            arguments = ["--format", "onnx", "--flavour", flavour, "--quant", quant, *more, "--output", output]
            tune("export", "--model", tiny(name, **MODELS[name]), *arguments)
            folders[key] = output
        return folders[key]

    return make


class Onnx:
    """A decoder with its cache, driven through optimum's names."""

    def __init__(self, folder, file="model.onnx", config=EXACT, adapter=None):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        self.session = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.run_options = onnxruntime.RunOptions()
        if adapter:
            self.adapter = onnxruntime.LoraAdapter()
            self.adapter.Load(str(adapter))
            self.run_options.add_active_adapter(self.adapter)

    def empty_past(self, rows):
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        return {
            name: np.zeros((rows, value.shape[1], 0, value.shape[3]), kinds[value.type])
            for name, value in self.inputs.items()
            if name.startswith("past_key_values.")
        }

    def step(self, ids, mask, positions, past):
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **past}
        feeds = {name: np.asarray(value) for name, value in feeds.items() if name in self.inputs}
        values = dict(zip(self.outputs, self.session.run(self.outputs, feeds, self.run_options)))
        return values.pop("logits"), {name.replace("present", "past_key_values"): value for name, value in values.items()}

    def logits(self, ids, mask, cuts=()):
        """Of all tokens, given in pieces that begin at `cuts`."""
        positions, past, pieces = positions_of(mask), self.empty_past(len(ids)), []
        edges = [0, *cuts, ids.shape[1]]
        for begin, end in zip(edges, edges[1:]):
            piece, past = self.step(ids[:, begin:end], mask[:, :end], positions[:, begin:end], past)
            pieces.append(piece)
        return np.concatenate(pieces, 1)

    def generate(self, ids, mask, count):
        past, new, tokens = self.empty_past(len(ids)), ids, []
        for _ in range(count):
            logits, past = self.step(new, mask, positions_of(mask)[:, -new.shape[1] :], past)
            new = torch.from_numpy(logits[:, -1].argmax(-1))[:, None]
            mask = torch.cat([mask, torch.ones_like(new)], 1)
            tokens.append(new)
        return torch.cat(tokens, 1)


def positions_of(mask):
    return (mask.cumsum(1) - 1).clamp(min=0)


def batch(side, rows=ROWS, length=LENGTH):
    """Random tokens; the first row has padding on that side, or on none."""
    ids = torch.randint(3, 32000, (rows, length), generator=torch.Generator().manual_seed(SEED))
    mask = torch.ones_like(ids)
    if side:
        mask[0, slice(0, PADDING) if side == "left" else slice(-PADDING, None)] = 0
    return ids, mask


def judged(model, ids, mask):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, position_ids=positions_of(mask)).logits.numpy()


def difference(ours, theirs, mask):
    real = mask.bool().numpy()
    assert np.isfinite(ours).all()
    return np.abs(ours - theirs)[real].max()


# ---- fp32 ----


def test_standard_graphs_are_onnx(exported):
    for name in MODELS:
        for quant in ("f32", "f16", "bf16", "int8", "int4"):
            file = exported(name, "standard", quant) / "model.onnx"
            onnx.checker.check_model(str(file), full_check=True)
            model = onnx.load(file, load_external_data=False)
            assert {node.domain for node in model.graph.node} == {""}
            versions = (10, 21) if quant == "int4" else (8, 17)
            assert (model.ir_version, model.opset_import[0].version) == versions


@pytest.mark.parametrize("flavour, name", FLAVOURS)
def test_logits_are_those_of_transformers(exported, tiny, flavour, name):
    model, ours = transformers_model(tiny(name, **MODELS[name])), Onnx(exported(name, flavour))
    for side in ("left", "right", None) if flavour == "standard" else ("right", None):
        ids, mask = batch(side)
        want = judged(model, ids, mask)
        assert difference(ours.logits(ids, mask), want, mask) <= LOGITS
        if side != "right":  # what follows a padded token in the cache has to know about it
            cuts = (9, 16, 17, 18)
            if flavour == "standard":
                assert difference(ours.logits(ids, mask, cuts), want, mask) <= LOGITS
            else:
                rows = [ours.logits(ids[i : i + 1], mask[i : i + 1], cuts) for i in range(ROWS)]
                assert difference(np.concatenate(rows), want, mask) <= LOGITS


def test_large_tensors_lie_outside_and_aligned(exported):
    for flavour, location in (("standard", "model.onnx_data"), ("genai", "model.onnx.data")):
        folder = exported("llama-gqa", flavour)
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            count = np.prod(tensor.dims, dtype=int) * (8 if tensor.data_type == onnx.TensorProto.INT64 else 4)
            assert bool(entries) == (count >= 1024), tensor.name
            if entries:
                assert entries["location"] == location and int(entries["length"]) == count
                assert int(entries["offset"]) % (65536 if count > 2**20 else 64) == 0
        assert (folder / "model.onnx").stat().st_size < 200_000


# ---- smaller numbers ----


def stored(folder):
    """The tensors of an export as fp32, by their names, as the file's own operators read them."""
    model = onnx.load(folder / "model.onnx")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    result = {}
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "DequantizeLinear":
            values, scales = arrays[node.input[0]].astype(np.float32), arrays[node.input[1]]
            if "block_size" in attributes:
                scales = np.repeat(scales, attributes["block_size"], 0)[: len(values)]
            result[node.input[0]] = (values * scales).T
        if node.op_type == "MatMulNBits":
            result[node.input[1]] = dequantised(arrays[node.input[1]], arrays[node.input[2]], attributes)
    table = arrays["model.embed_tokens.weight"]
    if table.dtype == np.int8:
        result["model.embed_tokens.weight"] = table.astype(np.float32) * arrays["model.embed_tokens.weight.scale"]
    return result


def dequantised(packed, scales, attributes):
    values = packed if attributes["bits"] == 8 else np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:2], -1)
    values = (values.astype(np.float32) - 2 ** (attributes["bits"] - 1)) * scales[..., None]
    return values.reshape(len(values), -1)[:, : attributes["K"]]


def folder_with(tensors, base, folder):
    """The base model with other numbers, for transformers; a tied head may have become one of its own."""
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    if config.get("tie_word_embeddings") and "lm_head.weight" in tensors:
        config["tie_word_embeddings"] = False
        (folder / "config.json").write_text(json.dumps(config))
    save_file(weights | {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}, folder / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    return folder


def without_rounding(folder):
    """MatMulNBits' own way of asking for fp32 activations."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    (folder / "exact.onnx").write_bytes(model.SerializeToString())
    return "exact.onnx"


@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("flavour, name", FLAVOURS)
def test_integers_compute_what_they_stand_for(exported, tiny, tmp_path, flavour, name, quant):
    folder, base = exported(name, flavour, quant), tiny(name, **MODELS[name])
    tensors = stored(folder)
    original = load_file(base / "model.safetensors")
    matrices = {key for key, value in original.items() if value.dim() == 2 and ".gate.weight" not in key} | {"lm_head.weight"}
    assert set(tensors) == matrices
    for key, values in tensors.items():  # a step of the largest magnitude: blocks have no number for minus their extreme
        source = original.get(key, original["model.embed_tokens.weight"]).numpy()
        bits = 8 if quant == "int8" or key in ("lm_head.weight", "model.embed_tokens.weight") else 4
        assert np.abs(values - source).max() <= np.abs(source).max() / 2 ** (bits - 1) * 1.001, key
    model = transformers_model(folder_with(tensors, base, tmp_path / "same"))
    ids, mask = batch("left" if flavour == "standard" else "right")
    want = judged(model, ids, mask)
    ours = Onnx(folder, without_rounding(folder) if flavour == "genai" else "model.onnx")
    assert difference(ours.logits(ids, mask), want, mask) <= LOGITS
    # As it is served, activations have 8 bits in blocks of 32: 1 % of a product. A few tokens may choose another expert.
    served = np.abs(Onnx(folder, config={}).logits(ids, mask) - want).max(-1)[mask.bool().numpy()]
    assert np.median(served) <= 0.05 * np.abs(want).max()


@pytest.mark.parametrize("bits, quantize", [(4, quantize_matmul_4bits), (8, quantize_matmul_8bits)])
def test_blocks_are_those_of_onnxruntimes_quantiser(exported, tiny, bits, quantize):
    folder = exported("llama-gqa", "genai", f"int{bits}")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(folder / "model.onnx").graph.initializer}
    original = load_file(tiny("llama-gqa") / "model.safetensors")
    for name in ("self_attn.k_proj", "mlp.down_proj", "mlp.up_proj"):
        name = f"model.layers.1.{name}.weight"
        packed, scales = np.zeros_like(arrays[name]), np.zeros(arrays[name + ".scale"].shape, np.float32)
        zeros = np.zeros((len(packed), (packed.shape[1] * bits + 7) // 8), np.uint8)
        rows, columns = original[name].shape
        quantize(packed, original[name].numpy().T.copy(), scales, zeros, 32, rows, columns, True)
        assert np.array_equal(arrays[name], packed) and np.array_equal(arrays[name + ".scale"], scales), name


@pytest.mark.parametrize("flavour, name", FLAVOURS)
@pytest.mark.parametrize("quant, tolerance", [("bf16", LOGITS), ("f16", 5e-2)])  # f16 computes in fp16: 2^-11 a product
def test_halves_are_rounded_once(exported, tiny, flavour, name, quant, tolerance):
    model = transformers_model(tiny(name, **MODELS[name]))
    half = {"bf16": torch.bfloat16, "f16": torch.float16}[quant]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if quant == "f16" or (parameter.dim() > 1 and ".mlp.gate." not in key):
                parameter.copy_(parameter.to(half).float())
    ids, mask = batch("left" if flavour == "standard" else "right")
    ours = Onnx(exported(name, flavour, quant)).logits(ids, mask)
    assert difference(ours, judged(model, ids, mask), mask) <= tolerance
    assert ours.dtype == np.float32


# ---- generation ----

QUESTIONS = [f"{topic}: {tail}" for topic in ("order", "refund", "invoice", "password", "delivery")
             for tail in ("what now?", "please tell me how", "it was paid twice by card last week", "no")]  # fmt: skip
NEW = 64


@pytest.fixture(scope="module")
def answers(tiny):
    """answers(name) are 20 prompts, zephyr's, and what transformers says to them, each by itself."""
    known = {}

    def make(name):
        if name not in known:
            folder = tiny(name, **MODELS[name])
            tokenizer, model = LlamaTokenizer.from_pretrained(folder), transformers_model(folder)
            prompts = [tokenizer(f"<|user|>\n{question}</s>\n<|assistant|>\n")["input_ids"] for question in QUESTIONS]
            with torch.no_grad():
                out = [
                    model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=int), max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=2)[0, len(ids) :].tolist()
                    for ids in prompts
                ]  # fmt: skip
            known[name] = prompts, out
        return known[name]

    return make


def padded(prompts, side):
    longest = max(map(len, prompts))
    rows = [([0] * (longest - len(ids)), ids) for ids in prompts]
    ids = torch.tensor([fill + ids if side == "left" else ids + fill for fill, ids in rows])
    mask = torch.tensor([[0] * len(fill) + [1] * len(ids) if side == "left" else [1] * len(ids) + [0] * len(fill) for fill, ids in rows])
    return ids, mask


@pytest.mark.parametrize("name", ["llama-gqa", "mistral-window", "mixtral"])
def test_greedy_search_of_a_padded_batch_is_transformers(exported, answers, name):
    prompts, want = answers(name)
    assert len({len(ids) for ids in prompts}) > 5
    ids, mask = padded(prompts, "left")
    assert Onnx(exported(name)).generate(ids, mask, NEW).tolist() == want


def test_greedy_search_is_that_of_tune_generate(exported, answers, tiny):
    prompts, want = answers("llama-gqa")
    tokenizer = LlamaTokenizer.from_pretrained(tiny("llama-gqa"))
    ids, mask = padded(prompts, "left")
    ours = Onnx(exported("llama-gqa")).generate(ids, mask, NEW).tolist()
    for question, tokens in list(zip(QUESTIONS, ours))[::4]:
        tokens = tokens[: tokens.index(2)] if 2 in tokens else tokens
        said = tune("generate", "--model", tiny("llama-gqa"), "--template", "zephyr", "--dtype", "fp32", "--max-tokens", NEW, "--prompt", question)
        assert said.stdout == tokenizer.decode(tokens) + "\n"


def genai_answers(folder, prompts, count, adapter=None):
    model = onnxruntime_genai.Model(str(folder))
    adapters = onnxruntime_genai.Adapters(model) if adapter else None
    if adapter:
        adapters.load(str(adapter), "tuned")
    for ids in prompts:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ids) + count, do_sample=False)
        generator = onnxruntime_genai.Generator(model, parameters)
        if adapter:
            generator.set_active_adapter(adapters, "tuned")
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        yield generator.get_sequence(0)[len(ids) :].tolist()


def until_end(tokens):
    return tokens[: tokens.index(2) + 1] if 2 in tokens else tokens


@pytest.mark.parametrize("name", ["llama-gqa", "llama-gqa-tied", "mistral-window"])
def test_onnxruntime_genai_says_the_same(exported, answers, name):
    prompts, want = answers(name)
    assert list(genai_answers(exported(name, "genai"), prompts, NEW)) == [until_end(tokens) for tokens in want]


@pytest.mark.parametrize("quant", ["f16", "bf16", "int8", "int4"])
def test_onnxruntime_genai_runs_every_quantisation(exported, answers, quant):
    prompts, _ = answers("llama-gqa")
    folder = exported("llama-gqa", "genai", quant)
    session = Onnx(folder, config={})
    for ids, tokens in zip(prompts[:3], genai_answers(folder, prompts[:3], 16)):
        alone = torch.tensor([ids])
        assert tokens == until_end(session.generate(alone, torch.ones_like(alone), 16)[0].tolist())


def test_onnxruntime_genai_reads_the_tokenizer(exported, tiny):
    tokenizer = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(exported("llama-gqa", "genai"))))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tiny("llama-gqa") / "tokenizer.model"))
    for text in [*QUESTIONS, "naïve Malmö 東京 🙂", "a  b\n\tc"]:
        assert tokenizer.encode(text).tolist() == pieces.encode(text)
    tokenizer.update_options(add_special_tokens="true")
    assert tokenizer.encode("hello").tolist() == [1, *pieces.encode("hello")]


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


# ---- what the documentation says ----


def programs():
    page = (ROOT / "docs" / "onnx.md").read_text()
    return [block.split("```")[0] for block in page.split("```python\n")[1:] if "sys.argv" in block.split("```")[0]]


def test_the_documented_programs_give_one_answer(exported):
    standard, genai = programs()
    folders = exported("llama-gqa"), exported("llama-gqa", "genai")
    said = [subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True) for program, folder in zip((standard, genai), folders)]
    assert all(done.returncode == 0 for done in said), [done.stderr for done in said]
    ours, theirs = (json.loads(done.stdout) for done in said)
    assert ours == theirs and len(ours) == 2 and len(ours[0]) == 16


# ---- a real model ----

SMOLLM2 = QUICKSTART / "SmolLM2-135M-Instruct.Q4_1.gguf"
needs_smollm2 = pytest.mark.skipif(not SMOLLM2.is_file(), reason=f"{SMOLLM2} is absent: ./tools/quickstart.sh fetches it")


@needs_smollm2
def test_exports_are_streamed(tmp_path):
    """A model of 538 MB in fp32, whose largest tensor has 113 MB."""
    idle = peak_memory("--version")
    for flavour, quant in (("standard", "f32"), ("standard", "int4"), ("genai", "int8")):
        peak = peak_memory("export", "--format", "onnx", "--flavour", flavour, "--quant", quant, "--model", SMOLLM2, "--output", tmp_path / quant)
        print(f"{flavour} {quant}: {(peak - idle) / 2**20:.0f} MiB over idle")
        assert peak - idle <= 1.2 * 49152 * 576 * 4 + 200e6


@needs_smollm2
def test_the_real_smollm2_answers_in_onnxruntime_genai(tmp_path):
    question, logits = "What is the capital of France?", {}
    messages = json.dumps([{"role": "user", "content": question}])
    for quant in ("f32", "int8"):
        folder = tmp_path / quant
        tune("export", "--format", "onnx", "--flavour", "genai", "--quant", quant, "--model", SMOLLM2, "--output", folder)
        tokenizer = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(folder)))
        ids = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True)).tolist()
        alone = torch.tensor([ids])
        logits[quant] = torch.from_numpy(Onnx(folder, config={}).logits(alone, torch.ones_like(alone))).double().log_softmax(-1)
    divergence = torch.nn.functional.kl_div(logits["int8"], logits["f32"], log_target=True, reduction="none").sum(-1).mean()
    assert divergence <= 1e-2  # nats a token
    said = tokenizer.decode(np.array(next(genai_answers(tmp_path / "f32", [ids], 24))))
    assert said + "\n" == tune("generate", "--model", SMOLLM2, "--dtype", "fp32", "--max-tokens", 24, "--prompt", question).stdout
