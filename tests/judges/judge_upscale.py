"""tune upscale beside transformers: every tensor bit by bit, logits of a model whose layers were copied, training on."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import tiny_models
from tune_program import peak_memory, recipe_for, steps, tune, write_recipe

RECIPE, DATA = 2, 3
SMALL_VOCAB = 211


def stored(folder):
    """Every tensor of a folder as (dtype, shape, bytes), whatever files it lies in."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():
                tensor = opened.get_tensor(name)
                tensors[name] = (tensor.dtype, tuple(tensor.shape), tensor.view(torch.uint8).numpy().tobytes())
    return tensors


def layers_of(ranges):
    return [layer for first, end in ranges for layer in range(first, end)]


def upscaled(folder, output, ranges, **options):
    layers = ",".join(f"{first}-{end}" for first, end in ranges)
    done = tune("upscale", "--model", folder, "--layers", layers, "--output", output, **options)
    assert done.stdout == f"{output}\n"
    return output


def check_copy(base, deeper, layers):
    """Tensors are those of their source layers; the configuration differs in its depth alone; other files are the same."""
    source, copied = stored(base), stored(deeper)
    wanted = {name: tensor for name, tensor in source.items() if not name.startswith("model.layers.")}
    for i, layer in enumerate(layers):
        prefix = f"model.layers.{layer}."
        wanted |= {f"model.layers.{i}.{n.removeprefix(prefix)}": t for n, t in source.items() if n.startswith(prefix)}
    assert copied == wanted
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base, deeper))
    assert list(after) == list(before)
    assert after == {**before, "num_hidden_layers": len(layers)}
    others = {file.name for file in base.iterdir() if "safetensors" not in file.name and file.name != "config.json"}
    assert others == {file.name for file in deeper.iterdir() if "safetensors" not in file.name and file.name != "config.json"}
    for name in others:
        assert (deeper / name).read_bytes() == (base / name).read_bytes(), name


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize(
    "name, ranges, dtype, shards",
    [
        ("llama-gqa", [(0, 24), (8, 32)], torch.bfloat16, 1),
        ("mistral-window-deep", [(0, 4), (1, 4), (3, 4)], torch.float16, 3),
        ("mixtral", [(0, 2), (0, 2)], torch.bfloat16, 4),
        ("llama-gqa-tied", [(1, 2), (0, 1), (0, 2)], torch.float32, 1),
    ],
)
def test_a_deeper_model_is_its_source_layers(name, ranges, dtype, shards, tiny, rng, tmp_path):
    changes = {"num_hidden_layers": 32} if name == "llama-gqa" else {}
    base = tmp_path / "base"
    shutil.copytree(tiny(name, vocab_size=SMALL_VOCAB, dtype=dtype, shards=shards, **changes), base)
    (base / "LICENSE").write_text("as you like\n")
    deeper, layers = upscaled(base, tmp_path / "deeper", ranges), layers_of(ranges)
    check_copy(base, deeper, layers)

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    config = AutoConfig.from_pretrained(deeper)
    assert config.num_hidden_layers == len(layers)
    config._attn_implementation = "eager"
    reference = type(model)(config).eval()
    weights = model.state_dict()
    for key in reference.state_dict():
        if key.startswith("model.layers."):
            _, _, i, rest = key.split(".", 3)
            reference.state_dict()[key].copy_(weights[f"model.layers.{layers[int(i)]}.{rest}"])
        else:
            reference.state_dict()[key].copy_(weights[key])
    loaded, report = AutoModelForCausalLM.from_pretrained(
        deeper, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = torch.tensor([[rng.randrange(SMALL_VOCAB) for _ in range(40)]])
    want = logits(reference, ids)
    assert torch.equal(logits(loaded.eval(), ids), want)
    assert not torch.allclose(want, logits(model.eval(), ids), atol=0.1)
    assert AutoTokenizer.from_pretrained(deeper)("How deep?").input_ids == AutoTokenizer.from_pretrained(base)("How deep?").input_ids


def test_of_32_layers_solar_is_the_default(tiny, tmp_path):
    base = tiny("llama-gqa", vocab_size=SMALL_VOCAB, num_hidden_layers=32)
    tune("upscale", "--model", base, "--output", tmp_path / "deeper")
    check_copy(base, tmp_path / "deeper", [*range(24), *range(8, 32)])


def test_weights_keep_their_bits_or_are_refused(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    base, name = tmp_path / "base", "model.layers.1.mlp.up_proj.weight"
    shutil.copytree(tiny("llama-mha", vocab_size=SMALL_VOCAB, dtype=torch.bfloat16), base)
    tensors = load_file(base / "model.safetensors")
    odd = torch.tensor([0x0001, 0x8000 - 0x10000, 0x7F7F], dtype=torch.int16).view(torch.bfloat16)  # tiny, -0, the largest
    tensors[name][0, :3] = odd
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    upscaled(base, tmp_path / "deeper", [(0, 2), (1, 2)])
    for layer in (1, 2):
        made = load_file(tmp_path / "deeper" / "model.safetensors")[f"model.layers.{layer}.mlp.up_proj.weight"]
        assert torch.equal(made.view(torch.int16), tensors[name].view(torch.int16))

    tensors[name][3, 5] = torch.nan
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    said = tune("upscale", "--model", base, "--layers", "0-2,1-2", "--output", tmp_path / "none", expect=3).stderr
    assert f"tensor {name} holds nan in row 3; nothing was written" in said
    assert not (tmp_path / "none").exists()


def test_training_goes_on(tiny, rng, tmp_path):
    base = tiny("mistral-window-deep")
    deeper = upscaled(base, tmp_path / "deeper", [(0, 3), (1, 4)])
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"Line {rng.random()} of a text to learn from."}) + "\n" for _ in range(12)))
    recipe = recipe_for(
        deeper, rows, tmp_path / "run", stage="pretrain", adapter={"type": "none"}, train={"max_steps": 2}, export=[{"format": "hf"}]
    )
    recipe["data"].update(chat_template="none", datasets=[{"path": str(rows), "type": "text"}])
    tune("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe))
    assert len(steps(tmp_path / "run")) == 2
    assert all(line["loss"] > 0 for line in steps(tmp_path / "run"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "export" / "hf").config.num_hidden_layers == 6
    again = upscaled(tmp_path / "run" / "final", tmp_path / "deeper-again", [(0, 6), (0, 6)])
    assert AutoConfig.from_pretrained(again).num_hidden_layers == 12


def test_memory_does_not_grow_with_the_model(tiny, tmp_path):
    small = tiny("llama-mha", vocab_size=SMALL_VOCAB)
    large = tiny("llama-mha", hidden_size=1024, intermediate_size=4096, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8)
    size = (large / "model.safetensors").stat().st_size
    idle = peak_memory("upscale", "--model", small, "--layers", "0-2,0-2", "--output", tmp_path / "small")
    busy = peak_memory("upscale", "--model", large, "--layers", "0-4,0-4", "--output", tmp_path / "large")
    print(f"{size / 2**20:.0f} MiB to {sum(f.stat().st_size for f in (tmp_path / 'large').iterdir()) / 2**20:.0f} MiB: "
          f"{(busy - idle) / 2**20:.1f} MiB above idle")  # fmt: skip
    assert size > 400 * 2**20
    assert busy - idle < 32 * 2**20  # blocks of 1 MB, one more than there are cores, and page tables of the mapped file


# ---- bad input ----


@pytest.fixture
def refused(tiny, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny("llama-gqa", vocab_size=SMALL_VOCAB), base)

    def check(code, *words, layers="0-2,1-3", model=base, output=tmp_path / "deeper"):
        before = sorted(tmp_path.rglob("*"))
        done = tune("upscale", "--model", model, *([f"--layers={layers}"] if layers is not None else []), "--output", output, expect=code)
        for word in words:
            assert str(word) in done.stderr, f"{word!r} is missing in\n{done.stderr}"
        assert done.stderr.count("tune: ") == 1 and done.stdout == ""
        assert sorted(tmp_path.rglob("*")) == before

    check.base, check.root = base, tmp_path
    return check


@pytest.mark.parametrize(
    "layers, words",
    [
        ("0-4", ["0-4 goes beyond the model, which has 3 layers"]),
        ("0-2,1-9", ["1-9 goes beyond"]),
        ("1-1", ["1-1 is empty"]),
        ("2-1", ["2-1 runs backwards"]),
        ("0-2,", ['"" is no range of layers', "0-24,8-32"]),
        (",0-2", ['"" is no range of layers']),
        ("-1-2", ['"-1-2" is no range of layers']),
        ("0:2", ['"0:2" is no range of layers']),
        ("0-99999999999999999999", ["is no range of layers"]),
        (",".join(["0-3"] * 3400), ["10200 layers are more than 10000"]),
        (None, ["--layers is missing, and this model has 3 layers, not 32", "--layers 0-2,1-3"]),
    ],
)
def test_ranges_that_cannot_be(layers, words, refused):
    refused(RECIPE, *words, layers=layers)


def test_an_output_that_is_there_already(refused):
    (refused.root / "there").mkdir()
    (refused.root / "link").symlink_to(refused.root / "nowhere")
    for name in ["there", "there/", "link"]:
        refused(RECIPE, "is there already, and nothing is overwritten", output=f"{refused.root}/{name}")
    (refused.root / "alias").symlink_to(refused.base)
    for output in [refused.base, refused.base / "deeper", refused.root / "alias" / "deeper"]:
        refused(RECIPE, output, "is, or lies in, the model that is copied", output=output)


def test_a_model_that_cannot_be_copied(refused, tiny):
    refused(DATA, "nowhere", "there is no such folder or file", model=refused.root / "nowhere")
    gguf = refused.root / "model.gguf"
    tune("export", "--format", "gguf", "--quant", "f16", "--model", tiny("llama-mha"), "--output", gguf)
    refused(DATA, gguf, f"tune export --format hf --model {gguf} --output", model=gguf)
    config = json.loads((refused.base / "config.json").read_text())
    (refused.base / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    refused(DATA, "model.layers.2.input_layernorm.weight", "not part of the model", layers="0-2")


def test_an_option_that_is_missing(tmp_path):
    assert "--model is missing" in tune("upscale", "--output", tmp_path / "x", expect=RECIPE).stderr
    assert "--output is missing" in tune("upscale", "--model", tmp_path, expect=RECIPE).stderr
