"""The pages about serving, done as they say: servers answer as PEFT does, Modelfiles render as the Jinja text of the GGUF.

What can't run here (vLLM, Triton, KServe, Ollama) is read as far as it goes: JSON, YAML, protobuf's text, and Triton's
Python model with a stand-in for Triton.
"""

import json
import random
import re
import subprocess
import sys
import types

import numpy as np
import onnxruntime_genai
import pytest
import torch
import xllamacpp
import yaml
from conftest import SEED
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from go_template import Template
from tune_program import ROOT, recipe_for, sentence, tune, write_chats, write_recipe

MESSAGES = [{"role": "user", "content": "Where is my order?"}]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def printed(program, *arguments):
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


def chat_template(path):
    """A GGUF's; gguf.GGUFReader would make an array of each token of the vocabulary first."""
    data, key = path.read_bytes(), b"tokenizer.chat_template"
    at = data.index(key) + len(key)
    assert int.from_bytes(data[at : at + 4], "little") == 8  # a text
    return data[at + 12 : at + 12 + int.from_bytes(data[at + 4 : at + 12], "little")].decode()


class Run:
    def __init__(self, root, base, rng):
        rows = write_chats(root / "rows.jsonl", rng, 12)
        recipe = recipe_for(
            base, rows, root / "run", train={"max_steps": 6, "learning_rate": 2e-2},
            export=[{"format": "adapter", "check": "vllm"}, {"format": "gguf-lora"}, {"format": "onnx", "quant": "f32"},
                    {"format": "onnx", "flavour": "genai", "quant": "f32"}, {"format": "gguf", "quant": "f32"}],
        )  # fmt: skip
        self.base, self.root, self.exports = base, root, root / "run" / "export"
        self.said = tune("run", "--recipe", write_recipe(root / "recipe.yaml", recipe)).stderr
        self.base_gguf = root / "base.gguf"
        tune("export", "--format", "gguf", "--quant", "f32", "--template", "zephyr", "--model", base, "--output", self.base_gguf)
        self.jinja = chat_template(self.base_gguf)

    def answer(self, with_adapter=True):
        """PEFT's, greedily, to the template's text with one BOS in front."""
        tokenizer = LlamaTokenizer.from_pretrained(self.base)
        text = rendered(self.jinja, MESSAGES)
        ids = torch.tensor([tokenizer(text, add_special_tokens=True)["input_ids"]])
        assert ids[0, 0] == 1 and ids[0, 1] != 1
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        if with_adapter:
            model = PeftModel.from_pretrained(model, self.exports / "adapter")
        new = model.generate(input_ids=ids, do_sample=False, max_new_tokens=16)[0, ids.shape[1] :]
        return tokenizer.decode(new, skip_special_tokens=True)


def rendered(jinja, messages):
    return render_jinja_template([messages], chat_template=jinja, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")[0][0]


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return Run(tmp_path_factory.mktemp("serving"), tiny("llama-gqa"), random.Random(SEED))


@pytest.fixture(scope="module")
def answer(run):
    text = run.answer()
    assert text != run.answer(with_adapter=False), "the adapter changes nothing, so nothing is judged"
    return text


# ---- llama.cpp ----


def server(model, adapter=None):
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel, parameters.port = str(model), 512, 1, 0
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.verbosity = -1
    if adapter:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    return xllamacpp.Server(parameters)


def test_llama_cpp_answers_as_peft(run, answer):
    (client,) = blocks("serving-llama-cpp.md", "python")
    for model, adapter in [(run.base_gguf, run.exports / "adapter.gguf"), (run.exports / "model-f32.gguf", None)]:
        serving = server(model, adapter)
        assert printed(client, serving.listening_address).strip() == answer.strip()


# ---- onnxruntime ----


def test_onnxruntime_answers_as_peft(run, answer):
    standard, genai = blocks("serving-onnxruntime.md", "python")
    assert printed(standard, run.exports / "onnx-standard-f32").strip() == answer.strip()
    assert printed(genai, run.exports / "onnx-genai-f32").strip() == answer.strip()


# ---- Ollama ----

# The model's own words, as SmolLM2's and others' have them.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are \"it\"<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORMATS = ["zephyr", "llama2", "mistral", "solar", "codellama", "codellama-70b", "chatml"]


def modelfile(path):
    """[(instruction, value)]. A value in three quotes may have several lines."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    found = re.findall(r'^(FROM|ADAPTER|TEMPLATE|LICENSE|PARAMETER \w+) (?:"""(.*?)"""|"([^"\n]*)"|([^"\n]+))\n', text, re.DOTALL | re.MULTILINE)
    values = [(name, triple or double or plain) for name, triple, double, plain in found]
    return values


def conversation(rng):
    messages = [{"role": "system", "content": sentence(rng, 8)}] if rng.random() < 0.4 else []
    for _ in range(rng.choice([0, 0, 1, 2])):
        messages.append({"role": "user", "content": f'{sentence(rng, 9)}\n{{{{ .x }}}} "q"\\n{sentence(rng, 3)}'})
        messages.append({"role": "assistant", "content": sentence(rng, 9)})
    return [*messages, {"role": "user", "content": sentence(rng, 9)}]


def base_with(run, folder, **tokenizer):
    folder.mkdir()
    for file in run.base.iterdir():
        if file.name != "tokenizer_config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((run.base / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **tokenizer}))
    return folder


def exported(run, root, name, adds_bos):
    """A GGUF with that template, and the template's text."""
    changes = {"add_bos_token": adds_bos, **({"chat_template": CHATML} if name == "its own" else {})}
    model, output = base_with(run, root / f"{name} {adds_bos}", **changes), root / f"{name} {adds_bos}.gguf"
    template = [] if name == "its own" else ["--template", name]
    tune("export", "--format", "gguf", "--quant", "f16", "--model", model, *template, "--output", output)
    return output, chat_template(output)


@pytest.fixture(scope="module")
def formats(run, tmp_path_factory):
    root = tmp_path_factory.mktemp("formats")
    return {name: exported(run, root, name, adds_bos=True) for name in [*FORMATS, "its own"]}


def check_modelfile(output, jinja, rng, adds_bos):
    go = Template(dict(modelfile(output.with_suffix(".Modelfile")))["TEMPLATE"])
    for messages in [conversation(rng) for _ in range(40)]:
        want = rendered(jinja, messages)
        want = want.removeprefix("<s>") if adds_bos else want  # llama.cpp puts it there
        assert go.render([{"Role": m["role"], "Content": m["content"]} for m in messages]) == want, output


def test_ollama_renders_what_was_trained(run, rng, formats, tmp_path):
    for output, jinja in formats.values():
        check_modelfile(output, jinja, rng, adds_bos=True)
    for name in ("zephyr", "llama2", "mistral", "codellama-70b"):
        check_modelfile(*exported(run, tmp_path, name, adds_bos=False), rng, adds_bos=False)


def test_onnxruntime_genai_renders_what_was_trained(run, rng, formats, tmp_path):
    for name, (_, jinja) in formats.items():
        output = tmp_path / name
        model, template = (formats[name][0].with_suffix(""), []) if name == "its own" else (run.base, ["--template", name])
        tune("export", "--format", "onnx", "--flavour", "genai", "--quant", "int8", "--model", model, *template, "--output", output)
        tokenizer = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(output)))
        for messages in [conversation(rng) for _ in range(10)]:
            want = rendered(jinja, messages)
            assert tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True) == want, name
        if (text := output / "chat_template.jinja").exists():
            assert rendered(text.read_text(), messages) == want, name


def test_a_modelfile_says_what_the_model_is(run, tiny, tmp_path):
    said = modelfile(run.exports / "model-f32.Modelfile")
    assert said[0] == ("FROM", "./model-f32.gguf") and said[2:] == [("PARAMETER stop", "</s>"), ("PARAMETER num_ctx", "1024")]
    said = modelfile(run.exports / "adapter.Modelfile")
    assert [value for name, value in said if name in ("FROM", "ADAPTER")] == [f"./{run.base.name}.gguf", "./adapter.gguf"]
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny("mistral-window", sliding_window=20).iterdir():
        (model / file.name).symlink_to(file)
    (model / "README.md").write_text("---\nlicense: other\nlicense_name: my-licence\n---\n")
    export = ["export", "--format", "gguf", "--quant", "f16", "--model", model, "--output", tmp_path / "m.gguf"]
    tune(*export, "--template", "codellama-70b", "--max-shard-size", "3MB")
    said = modelfile(tmp_path / "m.Modelfile")
    assert [value for name, value in said if name == "FROM"] == [f"./{path.name}" for path in sorted(tmp_path.glob("m-0*.gguf"))]
    assert len(said) > 6 and said[-1] == ("LICENSE", "my-licence")
    assert ("PARAMETER stop", "<step>") in said and ("PARAMETER num_ctx", "20") in said
    tune(*export, "--template", "alpaca")
    said = modelfile(tmp_path / "m.Modelfile")
    assert said[0] == ("FROM", "./m.gguf") and "TEMPLATE" not in dict(said)
    (tmp_path / "m.Modelfile").write_text("FROM mine\n")
    assert f"{tmp_path / 'm.Modelfile'}: was written by no export" in tune(*export, expect=2).stderr


# ---- vLLM ----


def test_vllm_is_told_how_to_serve(run):
    (line,) = [line for line in run.said.splitlines() if line.startswith("vllm serve")]
    assert line == f"vllm serve {run.base} --enable-lora --max-lora-rank 8 --lora-modules adapter={run.exports / 'adapter'}"
    page = re.search(r"^vllm serve .*--enable-lora.*$", (ROOT / "docs" / "serving-vllm.md").read_text(), re.MULTILINE)[0]
    assert re.findall(r"--[\w-]+", page) == re.findall(r"--[\w-]+", line)
    compile(blocks("serving-vllm.md", "python")[0], "page", "exec")


def test_vllm_would_not_load(run, tmp_path):
    """Adapters of PEFT: nothing is written of those that are refused, and all reasons are named."""
    output = tmp_path / "out"

    def checked(expect=2, tensors=None, **config):
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        plain = json.loads((run.exports / "adapter" / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**plain, **config}))
        save_file(tensors or load_file(run.exports / "adapter" / "adapter_model.safetensors"), folder / "adapter_model.safetensors")
        arguments = ["--format", "adapter", "--model", run.base, "--adapter", folder, "--check", "vllm", "--output", output]
        done = tune("export", *arguments, expect=expect)
        assert output.exists() == (expect == 0)
        return done.stderr

    said = checked(use_dora=True, modules_to_save=["lm_head"], r=1000, bias="lora_only")
    assert all(word in said for word in ("use_dora is true", "modules_to_save is", "its rank is 1000", "bias is", "merge_and_unload"))
    name = "base_model.model.model.layers.0.self_attn.{}.lora_A.weight"
    assert "no adapters of c_proj in llama models" in checked(tensors={name.format("c_proj"): torch.zeros(4, 4)})
    assert "--max-lora-rank 8" in checked(expect=0, use_rslora=True)
    wrong = tune("export", "--format", "hf", "--model", run.base, "--check", "vllm", "--output", output, expect=2)
    assert "--check goes with adapter" in wrong.stderr


# ---- Triton and KServe ----


def model_config():
    """What these pages use of Triton's ModelConfig."""
    file = descriptor_pb2.FileDescriptorProto(name="page.proto", package="page", syntax="proto3")
    enums = {"DataType": ["TYPE_INVALID", "TYPE_STRING"], "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"]}
    for name, values in enums.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    kinds = {"text": 9, "int64": 3, "int32": 5}
    messages = {
        "Tensor": {"name": "text", "data_type": ".page.DataType", "dims": "int64*"},
        "Group": {"count": "int32", "kind": ".page.Kind"},
        "ModelConfig": {
            "backend": "text", "max_batch_size": "int32", "input": ".page.Tensor*", "output": ".page.Tensor*",
            "instance_group": ".page.Group*",
        },
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            label, kind = 3 if kind.endswith("*") else 1, kind.removesuffix("*")
            other = 14 if kind.removeprefix(".page.") in enums else 11  # an enum, or a message
            entry = message.field.add(name=field, number=number, label=label, type=kinds.get(kind, other))
            if kind not in kinds:
                entry.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("page.ModelConfig"))


def test_configurations_can_be_read():
    backends = [text_format.Parse(text, model_config()()).backend for text in blocks("serving-triton.md", "pbtxt")]
    assert backends == ["vllm", "python", "onnxruntime"]
    merged, adapter, adapters = map(json.loads, blocks("serving-triton.md", "json"))
    assert adapter["max_lora_rank"] == 16 and adapter["enable_lora"] and "support" in adapters and "model" in merged
    (service,) = [yaml.safe_load(text) for text in blocks("serving-triton.md", "yaml")]
    assert service["kind"] == "InferenceService" and service["spec"]["predictor"]["model"]["modelFormat"] == {"name": "huggingface"}
    assert {"pvc", "support-merged"} <= set(re.split(r"[:/]+", service["spec"]["predictor"]["model"]["storageUri"]))


class Tensor:
    def __init__(self, name, values):
        self.name, self.values = name, values

    def as_numpy(self):
        return self.values


def test_tritons_python_model_answers_as_peft(run, answer, tmp_path, monkeypatch):
    (tmp_path / "genai").symlink_to(run.exports / "onnx-genai-f32")
    triton = types.ModuleType("triton_python_backend_utils")
    triton.Tensor, triton.InferenceResponse = Tensor, lambda tensors: tensors
    triton.get_input_tensor_by_name = lambda request, name: next(tensor for tensor in request if tensor.name == name)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    page = {}
    exec(blocks("serving-triton.md", "python")[0], page)
    model = page["TritonPythonModel"]()
    model.initialize({"model_repository": str(tmp_path)})
    request = [Tensor("messages", np.array([json.dumps(MESSAGES).encode()], dtype=object))]
    for (tensor,) in model.execute([request, request]):
        assert tensor.name == "answer" and tensor.as_numpy()[0].decode().strip() == answer.strip()
