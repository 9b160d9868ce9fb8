"""What a run hands over, opened by those it is for: PEFT, transformers, llama.cpp."""

import ctypes
import ctypes.util
import json
import math
import random

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaTokenizer

import judge_mixtral
from conftest import SEED
from llama_cpp import LlamaCpp, divergence
from tune_program import QUICKSTART, peak_memory, probe, recipe_for, shown_rows, tune, write_chats, write_recipe

LOGITS = 1e-4
KL = {"f32": 1e-6, "f16": 1e-5, "q8_0": 1e-3, "bf16": 1e-5}  # nats a token
# llama.cpp ignores Mistral's window, so GGUF is judged on texts shorter than the window, or on Llama.
TOKENS = 48
MODELS = {"llama-mha": {}, "llama-gqa-tied": {}, "mistral-window": {"sliding_window": 20}, "mixtral": {}}


class Run:
    """A short LoRA run at a learning rate that makes the adapter matter, and every form that it is handed over in."""

    def __init__(self, name, folder, rng, root):
        self.name, self.base, self.output = name, folder, root / "run"
        rows = write_chats(root / "rows.jsonl", rng, 12)
        recipe = recipe_for(
            folder, rows, self.output, train={"max_steps": 6, "learning_rate": 2e-2}, adapter={"lora_r": 4, "lora_alpha": 8},
            export=[{"format": "adapter"}, {"format": "hf", "quant": "f32"}, {"format": "gguf-lora"}]
            + [{"format": "gguf", "quant": quant} for quant in KL],
        )  # fmt: skip
        self.recipe = write_recipe(root / "recipe.yaml", recipe)
        tune("run", "--recipe", self.recipe)
        self.rows = shown_rows(self.recipe)
        longest = max((row["ids"] for row in self.rows), key=len)
        self.ids = longest[: MODELS.get(name, {}).get("sliding_window", TOKENS)]

    def file(self, name):
        path = self.output / "export" / name
        assert path.exists(), sorted(p.name for p in path.parent.iterdir())
        return path

    def model(self, folder=None):
        return AutoModelForCausalLM.from_pretrained(folder or self.base, dtype=torch.float32, attn_implementation="eager")

    def ours(self, tmp_path, ids):
        """Logits of what was trained, from the trainer's own decoder."""
        batches = [[{"ids": ids, "trained": [1] * len(ids)}]]
        adapter = {"r": 4, "alpha": 8, "targets": ["all-linear"], "init": str(self.output / "final")}
        request = {"model": str(self.base), "adapter": adapter, "batches": batches, "backward": False}
        return probe(request, tmp_path / "ours.safetensors")["logits.0"]


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids)[None]).logits[0]


@pytest.fixture(scope="module", params=list(MODELS))
def run(request, tiny, tmp_path_factory):
    return Run(request.param, tiny(request.param, **MODELS[request.param]), random.Random(SEED), tmp_path_factory.mktemp("export"))


def test_peft_applies_the_adapter(run, tmp_path):
    ours = run.ours(tmp_path, run.ids)
    assert (ours - logits_of(run.model(), run.ids)).abs().max() > 0.1, "the adapter does nothing, so nothing is judged"
    for folder in (run.output / "final", run.file("adapter")):
        theirs = logits_of(PeftModel.from_pretrained(run.model(), folder), run.ids)
        assert (ours - theirs).abs().max() <= LOGITS


def test_an_adapter_of_peft_is_a_start_for_training(run, tmp_path):
    PeftModel.from_pretrained(run.model(), run.output / "final").save_pretrained(tmp_path / "again")
    rows = run.output.parent / "rows.jsonl"
    recipe = recipe_for(run.base, rows, tmp_path / "run", adapter={"init_adapter": str(tmp_path / "again")}, train={"max_steps": 1})
    path = write_recipe(tmp_path / "recipe.yaml", recipe)
    if run.name.startswith("mixtral"):  # PEFT saves adapters of fused experts, in which w1 and w3 share one A
        assert "target_parameters" in tune("run", "--recipe", path, expect=3).stderr
        recipe["adapter"]["init_adapter"] = str(run.output / "final")
        write_recipe(path, recipe)
    tune("run", "--recipe", path)


def test_transformers_loads_the_merged_model(run, tmp_path):
    theirs = logits_of(run.model(run.file("hf")), run.ids)
    assert (run.ours(tmp_path, run.ids) - theirs).abs().max() <= LOGITS


def test_the_merged_folder_tokenizes_as_it_was_trained(run):
    # The class that the folder names: AutoTokenizer makes another one of a Mistral folder without a tokenizer.json.
    tokenizer = LlamaTokenizer.from_pretrained(run.file("hf"))
    conversations = [json.loads(line)["messages"] for line in open(run.output.parent / "rows.jsonl", encoding="utf-8")]
    for messages, row in zip(conversations, run.rows):
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == row["ids"][len(row["ids"]) - len(ids) :]


def test_full_fine_tuning_loads_in_transformers(tiny, rng, tmp_path):
    rows = write_chats(tmp_path / "rows.jsonl", rng, 8)
    recipe = recipe_for(
        tiny("llama-gqa-tied"), rows, tmp_path / "run", adapter={"type": "none"}, export=[{"format": "gguf", "quant": "f32"}]
    )
    path = write_recipe(tmp_path / "recipe.yaml", recipe)
    tune("run", "--recipe", path)
    ids = shown_rows(path)[0]["ids"][:TOKENS]
    final = tmp_path / "run" / "final"
    request = {"model": str(final), "batches": [[{"ids": ids, "trained": [1] * len(ids)}]], "backward": False}
    ours = probe(request, tmp_path / "ours.safetensors")["logits.0"]
    model = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32, attn_implementation="eager")
    assert (ours - logits_of(model, ids)).abs().max() <= LOGITS
    judge = LlamaCpp(tmp_path / "run" / "export" / "model-f32.gguf")
    assert divergence(torch.log_softmax(ours.double(), -1)[:-1].numpy(), judge.log_probabilities(ids)) <= KL["f32"]


def test_q8_0_is_rounded_as_llama_cpp_rounds(run):
    merged, quantized = ({t.name: t for t in gguf.GGUFReader(run.file(f"model-{quant}.gguf")).tensors} for quant in ("f32", "q8_0"))
    kinds = {tensor.tensor_type for tensor in quantized.values()}
    assert kinds == {gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32}
    for name, tensor in quantized.items():
        assert np.array_equal(tensor.data, gguf.quants.quantize(merged[name].data, tensor.tensor_type)), name


def as_bf16(tensor):
    return tensor.bfloat16().float()


def test_bf16_is_rounded_once_and_computed_as_llama_cpp_does(run):
    """llama.cpp multiplies bf16 matrices with rows that it has rounded to bf16, and adds up in fp32."""
    merged, rounded = ({t.name: t for t in gguf.GGUFReader(run.file(f"model-{quant}.gguf")).tensors} for quant in ("f32", "bf16"))
    for name, tensor in rounded.items():
        if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
            assert np.array_equal(tensor.data, gguf.quants.quantize(merged[name].data, tensor.tensor_type)), name
    model = judge_mixtral.load(run.file("hf")) if run.name == "mixtral" else run.model(run.file("hf"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and ".mlp.gate." not in name:  # routers stay F32
                parameter.copy_(as_bf16(parameter))
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: as_bf16(inputs[0]))
    want = torch.log_softmax(logits_of(model, run.ids).double(), -1)[:-1].numpy()
    assert divergence(want, LlamaCpp(run.file("model-bf16.gguf")).log_probabilities(run.ids)) <= KL["bf16"]


def test_a_gguf_says_how_text_becomes_ids(run):
    fields = gguf.GGUFReader(run.file("model-q8_0.gguf")).fields
    said = {key.removeprefix("tokenizer."): field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(run.base / "tokenizer.model"))
    assert said["ggml.model"] == "llama" and said["ggml.tokens"] == [pieces.id_to_piece(i) for i in range(pieces.vocab_size())]
    assert said["ggml.scores"] == pytest.approx([pieces.get_score(i) for i in range(pieces.vocab_size())])
    assert (said["ggml.bos_token_id"], said["ggml.eos_token_id"], said["ggml.add_bos_token"]) == (1, 2, True)
    assert said.get("ggml.eot_token_id", 2) == 2  # Zephyr's turns end in </s>
    assert "<|assistant|>" in said["chat_template"]


def inspected(path):
    return json.loads(tune("inspect", path, "--json").stdout)


def test_inspect_says_what_is_there(run):
    adapter = inspected(run.output / "final")
    assert adapter["kind"] == "adapter, PEFT folder" and adapter["intact"] and (adapter["lora_r"], adapter["lora_alpha"]) == (4, 8)
    shapes = {name: list(tensor.shape) for name, tensor in load_file(run.output / "final" / "adapter_model.safetensors").items()}
    assert {tensor["name"]: tensor["shape"] for tensor in adapter["tensors"]} == shapes
    assert adapter["parameters"] == sum(math.prod(shape) for shape in shapes.values())
    whole = inspected(run.output)
    assert whole["kind"] == "run" and whole["checkpoint-6"] == "whole" and whole["final"] == str(run.output / "final")
    model = inspected(run.file("model-q8_0.gguf"))
    assert model["kind"] == "model, GGUF" and model["can_be_tuned"] and model["general.architecture"] == "llama"
    reader = gguf.GGUFReader(run.file("model-q8_0.gguf"))
    assert model["chat_template"] == reader.fields["tokenizer.chat_template"].contents()
    assert sum(model["bytes"].values()) == sum(tensor.n_bytes for tensor in reader.tensors)
    assert set(model["bytes"]) == {"F32", "Q8_0"} and model["bits_per_weight"] == pytest.approx(8.5, abs=0.1)


def xxh3(data):
    """As xxh128sum prints it, by libxxhash itself."""
    library = ctypes.CDLL(ctypes.util.find_library("xxhash"))
    library.XXH3_128bits.restype = Hash
    low_high = library.XXH3_128bits(data, ctypes.c_size_t(len(data)))
    return f"{low_high.high:016x}{low_high.low:016x}"


class Hash(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def test_inspect_lists_checksums_of_files_and_tensors(run):
    def listed(path):
        said = json.loads(tune("inspect", path, "--json", "--checksums").stdout)["checksums"]
        return {entry["name"]: entry["xxh3"] for entry in said}

    model, adapter = run.file("model-q8_0.gguf"), run.output / "final" / "adapter_model.safetensors"
    tensors = {tensor.name: xxh3(tensor.data.tobytes()) for tensor in gguf.GGUFReader(model).tensors}
    assert listed(model) == {model.name: xxh3(model.read_bytes()), **tensors}
    tensors = {name: xxh3(tensor.numpy().tobytes()) for name, tensor in load_file(adapter).items()}
    assert listed(adapter) == {adapter.name: xxh3(adapter.read_bytes()), **tensors}
    folder = run.output / "final"
    files = {str(path.relative_to(folder)): xxh3(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    assert listed(folder) == files
    assert all(f"  {checksum}  " in tune("inspect", folder, "--checksums").stdout for checksum in files.values())


def test_inspect_lists_types_which_are_refused_as_weights(run, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "llama")
    for add, value in [(writer.add_context_length, 64), (writer.add_embedding_length, 256), (writer.add_block_count, 1),
                       (writer.add_feed_forward_length, 256), (writer.add_head_count, 4), (writer.add_layer_norm_rms_eps, 1e-5)]:  # fmt: skip
        add(value)
    kind = gguf.GGMLQuantizationType.Q3_K
    writer.add_tensor("token_embd.weight", np.zeros((8, 110), dtype=np.uint8), raw_shape=(8, 110), raw_dtype=kind)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    found = inspected(tmp_path / "k.gguf")
    assert not found["can_be_tuned"] and found["tensors"] == [{"name": "token_embd.weight", "dtype": "Q3_K", "shape": [8, 256]}]
    done = tune("export", "--format", "hf", "--model", tmp_path / "k.gguf", "--output", tmp_path / "hf", expect=3)
    assert "token_embd.weight in Q3_K" in done.stderr


@pytest.mark.parametrize("adapted", [False, True])
def test_generate_is_transformers_greedy_search(run, adapted):
    question = "When is my invoice paid?"
    ids = LlamaTokenizer.from_pretrained(run.base)(f"<|user|>\n{question}</s>\n<|assistant|>\n")["input_ids"]
    model = PeftModel.from_pretrained(run.model(), run.output / "final") if adapted else run.model()
    with torch.no_grad():
        out = model.generate(input_ids=torch.tensor(ids)[None], max_new_tokens=16, do_sample=False, eos_token_id=2)[0]
    new = [token for token in out[len(ids) :].tolist() if token != 2]
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(run.base / "tokenizer.model"))
    done = tune("generate", "--model", run.base, "--adapter", run.output / "final" if adapted else "none", "--template", "zephyr",
                "--dtype", "fp32", "--max-tokens", "16", "--prompt", question)  # fmt: skip
    assert done.stdout == pieces.decode(new) + "\n"


@pytest.mark.parametrize("quant", [quant for quant in KL if quant != "bf16"])
def test_llama_cpp_computes_what_was_trained(run, quant, tmp_path):
    ours = torch.log_softmax(run.ours(tmp_path, run.ids).double(), -1)[:-1].numpy()
    theirs = LlamaCpp(run.file(f"model-{quant}.gguf")).log_probabilities(run.ids)
    assert divergence(ours, theirs) <= KL[quant]


def test_llama_cpp_applies_the_gguf_adapter(run, tmp_path):
    tune("export", "--format", "gguf", "--quant", "f32", "--model", run.base, "--output", tmp_path / "base.gguf")
    ours = torch.log_softmax(run.ours(tmp_path, run.ids).double(), -1)[:-1].numpy()
    without = LlamaCpp(tmp_path / "base.gguf").log_probabilities(run.ids)
    assert divergence(ours, without) > 1e-3, "the adapter does nothing, so nothing is judged"
    theirs = LlamaCpp(tmp_path / "base.gguf", run.file("adapter.gguf")).log_probabilities(run.ids)
    assert divergence(ours, theirs) <= KL["f32"]


def test_exports_are_streamed(tmp_path):
    """A model of 538 MB in fp32, whose largest tensor has 113 MB."""
    file = QUICKSTART / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        pytest.skip(f"{file} is absent: ./tools/quickstart.sh fetches it")
    idle = peak_memory("--version")
    for name, arguments in [("hf", ["hf", "--quant", "f32"]), ("f32.gguf", ["gguf", "--quant", "f32"]), ("q8.gguf", ["gguf", "--quant", "q8_0"])]:
        peak = peak_memory("export", "--format", *arguments, "--model", file, "--output", tmp_path / name)
        print(f"{name}: {(peak - idle) / 2**20:.0f} MiB over idle")
        assert peak - idle <= 1.2 * 49152 * 576 * 4 + 200e6


def test_the_real_smollm2_becomes_a_folder_and_a_gguf(tmp_path):
    file = QUICKSTART / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        pytest.skip(f"{file} is absent: ./tools/quickstart.sh fetches it")
    tune("export", "--format", "hf", "--quant", "f32", "--model", file, "--output", tmp_path / "hf")
    # Not f16: there llama.cpp rounds the activations, too, which this text shows.
    tune("export", "--format", "gguf", "--quant", "f32", "--model", file, "--output", tmp_path / "f32.gguf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    messages = [{"role": "user", "content": "Do I need a permit for a fence in Malmö?"}]
    ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))["input_ids"]
    original = AutoModelForCausalLM.from_pretrained(QUICKSTART, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager")
    want = logits_of(original, ids)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32, attn_implementation="eager")
    assert (logits_of(exported, ids) - want).abs().max() <= LOGITS
    theirs = LlamaCpp(tmp_path / "f32.gguf").log_probabilities(ids)
    assert np.isfinite(theirs).any()
    assert divergence(torch.log_softmax(want.double(), -1)[:-1].numpy(), theirs) <= KL["f32"]
