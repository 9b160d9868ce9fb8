"""Blocks of every quantised GGUF type, byte for byte as ggml's own quantiser makes them, and back as gguf-py reads them;
whole files with the types that llama.cpp chooses, which it loads and computes with."""

import json
import re
import shutil
import subprocess

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ggml import number_of, quantized, tensors_of
from llama_cpp import LlamaCpp, divergence
from tune_program import BUILD, probe as model_probe, tune

TYPES = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"]
COLUMNS = 1280  # five super-blocks: an odd number, 40 blocks of 32: no multiple of 16


def probe(*arguments):
    done = subprocess.run([BUILD / "tests/quantize_probe", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def our_blocks(tmp_path, kind, values, importance=None):
    values.tofile(tmp_path / "values")
    more = []
    if importance is not None:
        importance.tofile(tmp_path / "importance")
        more = [tmp_path / "importance"]
    probe("encode", kind, tmp_path / "values", tmp_path / "blocks", *more)
    return np.fromfile(tmp_path / "blocks", np.uint8)


def rows(random):
    """Rows as weights have them, and those that a search stumbles over."""
    values = random.standard_normal((48, COLUMNS)).astype(np.float32)
    values[8:16] = random.standard_t(2, (8, COLUMNS))  # outliers
    values[16] = 0
    values[17, ::7] = 0
    values[18] = 0.25  # one value: without a spread
    values[19] = -0.25
    values[20] = np.abs(values[20])  # no minimum below zero
    values[21] = -np.abs(values[21])
    values[22] *= 1e-12
    values[23] *= 1e-17  # nothing, to a search
    values[24] *= 1e-30
    values[25] *= 1e4
    values[26, 32:64] = 0
    values[27] = np.round(values[27] * 2) / 2  # ties
    values[28:36] = (values[0:8].view(np.uint32) >> 16 << 16).view(np.float32)
    return np.ascontiguousarray(values)


@pytest.mark.parametrize("kind", TYPES)
def test_bytes_are_ggmls(tmp_path, kind):
    values = rows(np.random.default_rng(TYPES.index(kind)))
    np.testing.assert_array_equal(our_blocks(tmp_path, kind, values), quantized(kind, values))


@pytest.mark.parametrize("kind", TYPES)
def test_bytes_with_an_importance_matrix_are_ggmls(tmp_path, kind):
    random = np.random.default_rng(100 + TYPES.index(kind))
    values = rows(random)
    importance = (random.standard_normal(COLUMNS).astype(np.float32) ** 2 * 10).astype(np.float32)
    importance[64:72] = 0  # inputs that were never seen
    np.testing.assert_array_equal(our_blocks(tmp_path, kind, values, importance), quantized(kind, values, importance))


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_are_read_as_gguf_reads_them(tmp_path, kind):
    blocks = quantized(kind, rows(np.random.default_rng(200)))
    blocks.tofile(tmp_path / "blocks")
    probe("decode", kind, tmp_path / "blocks", tmp_path / "values")
    decoded = np.fromfile(tmp_path / "values", np.float32)
    np.testing.assert_array_equal(decoded, gguf.quants.dequantize(blocks, number_of(kind)).reshape(-1))


# ---- whole files ----

DEEP = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=16, num_attention_heads=4, num_key_value_heads=2)
MANY = {0, 1, 4, 7, 10, 13, 14, 15}  # of 16 layers: the first two, the last two, every third between


def llama_types(name, quant):
    """llama-quantize's choice for a Llama of 16 layers, untied (src/llama-quant.cpp, llama_tensor_get_type)."""
    if name.endswith("norm.weight"):
        return "F32"
    if name == "output.weight":
        return "Q8_0" if quant == "q8_0" else "Q6_K"
    mostly = {"q4_k_m": "Q4_K", "q5_k_m": "Q5_K"}.get(quant, quant.upper())
    layer = re.match(r"blk\.(\d+)\.(attn_v|ffn_down)\.", name)
    return "Q6_K" if quant in ("q4_k_m", "q5_k_m") and layer and int(layer[1]) in MANY else mostly


def mixtral_types(name, quant):
    """The same for two layers of eight experts, hidden 96: rows that super-blocks don't divide fall back."""
    if name.endswith("norm.weight") or "ffn_gate_inp" in name:
        return "F32"
    if "attn_v" in name or "attn_k" in name or name == "output.weight" or quant == "q8_0":
        return "Q8_0"  # output: instead of Q6_K
    if quant == "q6_k":
        return "Q8_0"
    if quant in ("q4_0", "q5_0"):
        return quant.upper()
    # of two layers, an eighth is none: use_more_bits(i, 2) is i >= 1
    if "ffn_down" in name and name.startswith("blk.1."):
        return "Q8_0"  # instead of Q6_K
    if quant == "q5_k_m" or "attn_output" in name:
        return "Q5_1"  # instead of Q5_K
    return "Q5_0"  # instead of Q4_K


QUANTS = ["q8_0", "q6_k", "q5_k_m", "q5_0", "q4_k_m", "q4_0"]


def exported(model, quant, folder):
    path = folder / f"{model.name}-{quant}.gguf"
    if not path.exists():
        tune("export", "--format", "gguf", "--quant", quant, "--model", model, "--output", path)
    return path


def ours(path, ids, tmp_path):
    request = {"model": str(path), "batches": [[{"ids": ids, "trained": [1] * len(ids)}]], "backward": False}
    return torch.log_softmax(model_probe(request, tmp_path / "ours.safetensors")["logits.0"].double(), -1)[:-1].numpy()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("kind", ["llama-gqa", "mixtral-eight"])
def test_a_files_types_are_llama_cpps_and_its_bytes_ggmls(tiny, files, kind, quant):
    folder = tiny(kind, **DEEP) if kind == "llama-gqa" else tiny(kind, num_hidden_layers=2)
    types = llama_types if kind == "llama-gqa" else mixtral_types
    exact, written = (tensors_of(exported(folder, q, files)) for q in ("f32", quant))
    assert {n: t.tensor_type.name for n, t in written.items()} == {n: types(n, quant) for n in exact}
    for name, tensor in written.items():
        if tensor.tensor_type.name != "F32":
            values = np.ascontiguousarray(exact[name].data.reshape(-1, exact[name].shape[0]))
            want = quantized(tensor.tensor_type.name.lower(), values)
            assert np.array_equal(tensor.data.reshape(-1).view(np.uint8), want), name


@pytest.mark.parametrize("quant", QUANTS)
def test_llama_cpp_computes_with_the_file_what_we_do(tiny, files, tmp_path, quant):
    """Ours: the file's numbers, in fp32. llama.cpp rounds activations to 8 bits in front of quantised matrices."""
    path = exported(tiny("llama-gqa", hidden_size=256, intermediate_size=512, num_attention_heads=4), quant, files)
    ids = [1, *map(int, np.random.default_rng(1).integers(300, 30000, 40))]
    assert divergence(ours(path, ids, tmp_path), LlamaCpp(path).log_probabilities(ids)) <= 2e-3


# ---- split files ----


def test_a_split_model_is_the_whole_one_to_llama_cpp_and_to_us(tiny, files, tmp_path):
    model, ids = tiny("mixtral-eight", num_hidden_layers=2), [1, *range(500, 520)]
    whole, output = exported(model, "f16", files), tmp_path / "m.gguf"
    shards = ["export", "--format", "gguf", "--quant", "f16", "--model", model, "--output", output, "--max-shard-size"]
    first = tune(*shards, "4MB").stdout.strip()
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) == 3 and str(parts[0]) == first and first.endswith("m-00001-of-00003.gguf")
    held = [sum(tensor.n_bytes for tensor in gguf.GGUFReader(part).tensors) for part in parts]
    embedding = 32000 * 96 * 2  # twice, each larger than a part may be
    assert sorted(held)[1:] == [embedding, embedding] and min(held) <= 4e6
    theirs = LlamaCpp(first).log_probabilities(ids)
    assert np.array_equal(theirs, LlamaCpp(whole).log_probabilities(ids))
    assert np.array_equal(ours(first, ids, tmp_path), ours(whole, ids, tmp_path))
    shown = json.loads(tune("inspect", "--json", first).stdout)
    assert len(shown["tensors"]) == len(tensors_of(whole))

    assert "give the first one, m-00001-of-00003.gguf" in tune("inspect", parts[1], expect=3).stderr
    parts[2].rename(tmp_path / "away")
    assert "m-00003-of-00003.gguf" in tune("inspect", first, expect=3).stderr
    (tmp_path / "away").rename(parts[2])
    tune(*shards, "1GB")
    assert sorted(tmp_path.glob("*.gguf")) == [output], "what an earlier export wrote under the name is replaced, whole"
    parts[0].write_text("somebody's")
    assert "was written by no export" in tune(*shards, "4MB", expect=2).stderr


CARDS = {
    "---\nlanguage: [en]\nlicense: other\nlicense_name: house-rules\n---\n# A model\n": ("other", "house-rules"),
    "---\nlicense: apache-2.0\n---\n": ("apache-2.0", None),
    "---\nlicense: [a\n---\n": (None, None),
    "---\nlicense: mit\n": (None, None),
    "# No front matter\n": (None, None),
}


@pytest.mark.parametrize("card", CARDS)
def test_a_file_names_the_licence_of_its_base(tiny, tmp_path, card):
    model = shutil.copytree(tiny("llama-mha"), tmp_path / "house")
    (model / "README.md").write_text(card)
    fields = gguf.GGUFReader(exported(model, "q4_0", tmp_path)).fields
    said = [fields[key].contents() if key in fields else None for key in ("general.license", "general.license.name")]
    assert tuple(said) == CARDS[card] and fields["general.base_model.0.name"].contents() == "house"


def test_hugging_face_shards_are_as_large_as_asked(tiny, tmp_path):
    model = tiny("mixtral-eight", num_hidden_layers=2)
    tune("export", "--format", "hf", "--quant", "f32", "--model", model, "--output", tmp_path / "hf", "--max-shard-size", "1MB")
    files = sorted(tmp_path.glob("hf/*.safetensors"))
    sizes = [sum(t.nbytes for t in load_file(file).values()) for file in files]
    assert len(files) > 3 and all(size <= 1e6 or len(load_file(file)) == 1 for file, size in zip(files, sizes))
    before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (model, tmp_path / "hf"))
    assert all(torch.equal(before[name], after[name]) for name in before | after)
