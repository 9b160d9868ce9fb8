"""ONNX exports, checked by onnx and run by onnxruntime and onnxruntime-genai, against transformers on the same weights."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime_genai
import pytest
import sentencepiece
import torch
from onnx import numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits
from safetensors.torch import load_file, save_file
from transformers import LlamaTokenizer

from onnx_decoder import LOGITS, MODELS, ROWS, Onnx, batch, difference, exported, genai_answers, judged, transformers_model, until_end  # noqa: F401
from tune_program import QUICKSTART, ROOT, peak_memory, tune

DENSE = [name for name in MODELS if name != "mixtral"]
FLAVOURS = [("standard", name) for name in MODELS] + [("genai", name) for name in DENSE]


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
