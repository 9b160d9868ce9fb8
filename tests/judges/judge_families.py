"""Every shipped recipe as it is, for two steps, on a model of its family: the published config.json, shrunken.

Only sizes differ from what people run: paths, keys, formats, precision and exports are the recipe's own.
"""

import json

import gguf
import pytest
import torch
import yaml
from peft import PeftModel
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoConfig, AutoModelForCausalLM

from tiny_models import add_tokenizer, randomize
from tune_program import QUICKSTART, ROOT, eval_losses, sentence, steps, tune, write_chats

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
SMALLER = [  # of size, not of kind
    "train.device=cpu", "train.max_steps=2", "train.global_batch_size=2", "train.per_device_train_batch_size=1",
    "data.max_length=192", "data.overflow=truncate", "eval.sample_max_tokens=4",
]  # fmt: skip
CODE = "def add(a, b):\n    return a + b\n"


def recipe_of(name):
    return yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def published():
    """What is known of the published models, by the last part of their repository's name."""
    models = json.loads(tune("models", "--json").stdout)
    return {model["repository"].split("/")[1]: model for model in models}


def shrunken(config):
    """The published config.json with every key, made small; key-value heads stay as many times shared."""
    shared = config["num_attention_heads"] // config["num_key_value_heads"]
    config |= {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": max(4, shared), "intermediate_size": 96}
    config |= {"num_key_value_heads": config["num_attention_heads"] // shared}
    config |= {"head_dim": config["hidden_size"] // config["num_attention_heads"]}
    if config.get("sliding_window"):
        config["sliding_window"] = 48
    return config


def make_model(folder, config, seed):
    folder.mkdir(parents=True)
    text = json.dumps(config, indent=2)
    (folder / "config.json").write_text(text)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    randomize(model, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "config.json").write_text(text)  # as it is published, not as this version of transformers writes it
    add_tokenizer(folder)
    if config["vocab_size"] == 32016:
        add_code_llama_tokens(folder)


def add_code_llama_tokens(folder):
    """Sixteen more tokens, with those around gaps and <step> where Code Llama has them."""
    model = sentencepiece_model_pb2.ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    names = {32007: "▁<PRE>", 32008: "▁<SUF>", 32009: "▁<MID>", 32010: "▁<EOT>"}
    for i in range(32000, 32016):
        model.pieces.add(piece=names.get(i, f"▁<SPARE{i}>"), score=0, type=model.SentencePiece.CONTROL)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    step = {"content": "<step>", "lstrip": True, "rstrip": True, "normalized": False, "single_word": True, "special": False}
    config["added_tokens_decoder"]["32015"] = step
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_rows(path, kind, rng):
    if kind == "chat":
        return write_chats(path, rng, 12, longest=12)
    rows = {
        "text": lambda: {"text": sentence(rng, 60)},
        "prompt_completion": lambda: {"prompt": f"# {sentence(rng, 8)}\n", "completion": CODE},
        "preference": lambda: {name: sentence(rng, 12) for name in ("prompt", "chosen", "rejected")},
        "unpaired_preference": lambda: {"prompt": sentence(rng, 12), "completion": sentence(rng, 12), "label": rng.random() < 0.5},
        "fim": lambda: {"text": CODE + "".join(f"# {sentence(rng, 6)}\n" for _ in range(4))},
    }
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(12):
            file.write(json.dumps(rows[kind](), ensure_ascii=False) + "\n")
    return path


def inputs_of(name, published, rng, root):
    """Environment and arguments that put a small model and rows where the recipe looks for them."""
    recipe = recipe_of(name)
    base = recipe["model"]["base_model"]
    if base.startswith("${TUNE_QUICKSTART}"):
        if not QUICKSTART.is_dir():
            pytest.skip(f"{QUICKSTART} is absent: tools/fetch-quickstart.sh")
        fewer = ["data.datasets[0].holdout_every=100", "data.eval_datasets[0].holdout_every=100"]
        return {"TUNE_QUICKSTART": str(QUICKSTART)}, fewer, None
    for stage in recipe.get("stages", [recipe]):
        for part in ("datasets", "eval_datasets"):
            for dataset in stage["data"][part]:
                write_rows(root / dataset["path"].split("/")[-1], dataset["type"], rng)
    if "init_adapter" in recipe["adapter"]:  # runs/NAME/final: another recipe comes first
        before = root / "before"
        before.mkdir()
        environment, _, base = run_recipe(recipe["adapter"]["init_adapter"].split("/")[1], published, rng, before)
        changes = [f"adapter.init_adapter={before / 'run' / 'final'}", "data.overflow=drop"]
        return {**environment, "TUNE_DATA": str(root)}, changes, base
    folder = base.split("/")[-1]
    if folder == "mistral-10.7b":
        make_model(root / "mistral-7b", shrunken(dict(published["Mistral-7B-v0.1"]["config"])), rng.randrange(1000))
        tune("upscale", "--model", root / "mistral-7b", "--layers", "0-2,1-2", "--output", root / "models" / folder)
    else:
        make_model(root / "models" / folder, shrunken(dict(published[folder]["config"])), rng.randrange(1000))
    # these models are too small for two threads to be worth their meetings
    environment = {"TUNE_MODELS": str(root / "models"), "TUNE_DATA": str(root), "OMP_NUM_THREADS": "1"}
    # half a pair teaches nothing
    of_pairs = [f"stages[{i}].data.overflow=drop" for i, stage in enumerate(recipe.get("stages", [])) if stage["stage"] == "dpo"]
    # a step of one micro-batch
    undivided = ["train.per_device_train_batch_size=2"] if recipe.get("train", {}).get("optimizer_in_backward") else []
    return environment, of_pairs + undivided, root / "models" / folder


def check_export(kind, quant, output, base):
    if kind == "adapter":
        folder = output / "export" / "adapter"
        assert all((folder / name).exists() for name in ("adapter_model.safetensors", "adapter_config.json"))
        if base is not None:
            model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
            assert torch.isfinite(model(input_ids=torch.tensor([[1, 5, 9, 300]])).logits).all()
    elif kind == "hf":
        model, report = AutoModelForCausalLM.from_pretrained(
            output / "export" / "hf", dtype=torch.float32, output_loading_info=True
        )
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert torch.isfinite(model(input_ids=torch.tensor([[1, 5, 9, 300]])).logits).all()
    else:
        name = "adapter.gguf" if kind == "gguf-lora" else f"model-{quant or 'bf16'}.gguf"
        assert gguf.GGUFReader(output / "export" / name).tensors


def run_recipe(name, published, rng, root):
    environment, changes, base = inputs_of(name, published, rng, root)
    arguments = ["--recipe", name, "--set", f"output_dir={root / 'run'}"]
    if recipe_of(name).get("train", {}).get("precision") == "fp8":  # what the CPU can't do is said, not done otherwise
        refused = tune("run", *arguments, "--set", "train.device=cpu", expect=2, **environment)
        assert "precision is fp8, but device is cpu" in refused.stderr
        changes.append("train.precision=bf16")
    for change in SMALLER + changes:
        arguments += ["--set", change]
    tune("run", *arguments, **environment)
    return environment, changes, base


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_runs_as_it_is(name, published, rng, tmp_path):
    base, recipe = run_recipe(name, published, rng, tmp_path)[2], recipe_of(name)
    names = [f"{i}-{stage['stage']}" for i, stage in enumerate(recipe.get("stages", []), 1)] or [""]
    for output in (tmp_path / "run" / name for name in names):  # the last one's exports
        losses = [line["loss"] for line in steps(output)]
        assert len(losses) == 2 and all(0 < loss < 100 for loss in losses), losses
        assert len(eval_losses(output)) >= 2
    for export in recipe["export"]:
        check_export(export["format"], export.get("quant"), output, base)
    experts = [line for line in steps(output) if "expert_share" in line]
    assert len(experts) == (2 if "mixtral" in name else 0)


def test_the_judge_leaves_no_recipe_out():
    shown = tune("recipes", "ls").stdout.splitlines()
    assert [line.split()[0] for line in shown] == RECIPES
    assert all(len(line.split(None, 1)) == 2 and len(line) <= 120 for line in shown), "each has a line that says what it is"
