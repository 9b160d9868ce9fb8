"""Each mistake ends with its exit code and one message that names the place and the remedy, before anything is trained."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tune_program import BINARY, recipe_for, tune, write_chats, write_recipe

RECIPE, DATA = 2, 3


class Place:
    """A small model, rows and a recipe in a folder of their own, for a test to spoil."""

    def __init__(self, tiny, root, rng):
        self.root, self.model, self.rows = root, root / "model", root / "rows.jsonl"
        shutil.copytree(tiny("llama-gqa"), self.model)
        write_chats(self.rows, rng, 12)
        self.recipe = recipe_for(self.model, self.rows, root / "run")

    def line(self, number, text):
        lines = self.rows.read_bytes().splitlines()
        lines[number - 1] = text if isinstance(text, bytes) else text.encode()
        self.rows.write_bytes(b"\n".join(lines) + b"\n")

    def chat(self, number, *turns):
        self.line(number, json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))

    def weights(self, change):
        path = self.model / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    def config(self, **values):
        path = self.model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def refused(self, code, *words, verb="run", arguments=()):
        path = write_recipe(self.root / "recipe.yaml", self.recipe)
        done = tune(verb, "--recipe", path, *arguments, expect=code)
        for word in words:
            assert str(word) in done.stderr, f"{word!r} is missing in\n{done.stderr}"
        assert done.stderr.count("tune: ") == 1
        assert not list(self.root.glob("run/checkpoint-*"))
        assert done.stdout == ""


@pytest.fixture
def place(tiny, tmp_path, rng):
    return Place(tiny, tmp_path, rng)


# ---- recipes ----


def test_a_missing_recipe(tmp_path):
    done = tune("--recipe", tmp_path / "nothing.yaml", expect=RECIPE)
    assert str(tmp_path / "nothing.yaml") in done.stderr and "zephyr-support" in done.stderr


def test_ten_mistakes_at_once(place):
    place.recipe["adapter"].update(lora_r=0, lora_rnak=3)
    place.recipe["data"].update(chat_template="zephir", max_length="long", overflow="explode")
    place.recipe["train"].update(learning_rate=-1, lr_scheduler_type="cosin", num_epochs=-2, precision="fp23")
    place.recipe["sav"] = {}
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    said = tune("run", "--recipe", path, expect=RECIPE).stderr
    lines = [line for line in said.splitlines() if f"{path}:" in line]
    assert len(lines) == 10, said
    for word in ["did you mean zephyr", "did you mean \"lora_r\"", "did you mean cosine", "did you mean \"save\""]:
        assert word in said, f"{word!r} is missing in\n{said}"
    for number, line in enumerate(path.read_text().splitlines(), 1):  # each at its own line and column
        if "lora_rnak" in line:
            assert f"{path}:{number}:{line.index('lora_rnak') + 1}: " in said


def test_batch_sizes_that_do_not_divide(place):
    place.recipe["train"].update(global_batch_size=6, per_device_train_batch_size=4)
    place.refused(RECIPE, "global_batch_size", "recipe.yaml:")


def test_no_gpu(place):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    place.recipe["train"]["device"] = "cuda"
    place.refused(RECIPE, "train.device", "cpu")


def test_an_unknown_override(place):
    place.refused(RECIPE, "--set", "did you mean", arguments=["--set", "train.learning_rat=1"])


# ---- data ----


def test_a_missing_data_file(place):
    place.recipe["data"]["datasets"][0]["path"] = str(place.root / "gone.jsonl")
    place.refused(DATA, place.root / "gone.jsonl")


def test_an_empty_data_set(place):
    place.rows.write_text("")
    place.refused(DATA, place.rows, "holds no rows")


def test_a_row_without_an_assistant_turn(place):
    place.chat(5, ("user", "Is anybody there?"))
    place.refused(DATA, f"{place.rows}:5: ", "assistant")


def test_a_row_that_is_too_long(place):
    place.chat(6, ("user", "Hi"), ("assistant", "word " * 600))
    place.refused(DATA, f"{place.rows}:6: ", "data.max_length", "512", "data.overflow")


def test_invalid_utf8(place):
    place.line(3, b'{"messages": [{"role": "user", "content": "\xff\xfe"}, {"role": "assistant", "content": "b"}]}')
    place.refused(DATA, f"{place.rows}:3:44: ", "UTF-8")


def test_broken_json(place):
    place.line(7, '{"messages": [{"role": "user", "content": "a"}')
    place.refused(DATA, f"{place.rows}:7:47: ", "JSON")


def test_all_bad_rows_at_once(place):
    place.line(2, "[]")
    place.chat(4, ("user", "a"))
    place.line(9, "{")
    place.refused(DATA, f"{place.rows}:2: ", f"{place.rows}:4: ", f"{place.rows}:9:2: ")


def test_thirteen_bad_rows(place):
    with place.rows.open("ab") as file:
        file.write(b"{}\n" * 13)
    place.refused(DATA, f"{place.rows}:22: ", "… and 3 more rows")
    done = tune("data", "stats", "--json", "--recipe", place.root / "recipe.yaml", expect=DATA)
    counts = json.loads(done.stdout)["total"]
    assert counts["refused"] == 13 and counts["kept"] == 12 and "… and 3 more rows" in done.stderr


def test_a_row_that_is_longer_than_the_model(place):
    place.recipe["data"]["max_length"] = 4096
    place.chat(3, ("user", "a " * 1500), ("assistant", "b"))
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    said = tune("plan", "--recipe", path).stderr
    assert f"warning: {place.rows}: its longest row has " in said and "the model was made for 1024" in said


def test_no_room_for_the_token_cache(place):
    write_chats(place.rows, random.Random(1), 400)
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    # Python ignores SIGXFSZ and so does its child: a write beyond the limit fails as on a full disk
    done = subprocess.run([BINARY, "run", "--recipe", path], capture_output=True, text=True, preexec_fn=limit, restore_signals=False)
    assert done.returncode == 1 and done.stderr.count("tune: ") == 1, done.stderr
    assert str(place.root / "run" / "cache") in done.stderr
    assert not [file for file in place.root.glob("run/cache/*") if file.stat().st_size > 0]
    tune("run", "--recipe", path)  # what was begun is in nobody's way


def test_a_reader_that_has_seen_enough(place):
    write_chats(place.rows, random.Random(1), 400)
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    process = subprocess.Popen([BINARY, "data", "show", "--json", "--recipe", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert json.loads(process.stdout.readline())["line"] == 1
    process.stdout.close()
    assert process.wait() == 141 and process.stderr.read() == b""


def test_an_unknown_role(place):
    place.chat(8, ("user", "a"), ("asistant", "b"))
    place.refused(DATA, f"{place.rows}:8: ", "asistant")


# ---- models ----


def test_a_missing_model(place):
    place.recipe["model"]["base_model"] = str(place.root / "nowhere")
    place.refused(DATA, place.root / "nowhere")


def test_a_folder_that_is_no_model(place):
    place.recipe["model"]["base_model"] = str(place.root)
    place.refused(DATA, place.root, "config.json")


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.k_proj.weight", "model.norm.weight"])
def test_a_missing_tensor(place, name):
    place.weights(lambda tensors: tensors.pop(name))
    place.refused(DATA, name, "missing")


def test_a_misshapen_tensor(place):
    name = "model.layers.0.mlp.up_proj.weight"
    place.weights(lambda tensors: tensors.update({name: tensors[name].t().contiguous()}))
    place.refused(DATA, name, "[96, 256]", "[256, 96]")


def test_a_surplus_tensor(place):
    place.weights(lambda tensors: tensors.update({"model.layers.0.mlp.gate_proj.bias": torch.zeros(256)}))
    place.refused(DATA, "model.layers.0.mlp.gate_proj.bias")


def test_weights_that_are_not_numbers(place):
    place.weights(lambda tensors: tensors["model.layers.1.mlp.down_proj.weight"][3, 5].fill_(torch.nan))
    place.refused(DATA, "model.layers.1.mlp.down_proj.weight", "NaN")


def test_a_vocabulary_that_does_not_fit(place):
    def shrink(tensors):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors[name][:31000].contiguous()

    place.weights(shrink)
    place.config(vocab_size=31000)
    place.refused(DATA, "31000", "32000")


def test_a_vocabulary_that_is_not_the_embeddings(place):
    place.config(vocab_size=32016)
    place.refused(DATA, "model.embed_tokens.weight is [32000, 96], must be [32016, 96]", "lm_head.weight is")


def test_metas_own_layout(place):
    """Recognised by its files, refused with the command that converts it; the pickle is never opened."""
    for file in ["config.json", "model.safetensors"]:
        (place.model / file).unlink()
    (place.model / "params.json").write_text('{"dim": 96, "n_layers": 3, "n_heads": 6, "norm_eps": 1e-05, "vocab_size": -1}')
    torch.save({"norm.weight": torch.ones(96)}, place.model / "consolidated.00.pth")
    command = (
        f"-m transformers.models.llama.convert_llama_weights_to_hf --input_dir '{place.model}' --num_shards 1 --llama_version 2 "
        f"--output_dir '{place.model}-hf'"
    )
    place.refused(DATA, f"{place.model}: holds Meta's own layout", "Python pickles", command)
    place.recipe["model"]["base_model"] = str(place.model / "consolidated.00.pth")
    place.refused(DATA, command)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickles(place, name):
    """By what they hold, whatever they are called."""
    tensors = load_file(place.model / "model.safetensors")
    (place.model / "model.safetensors").unlink()
    torch.save(tensors, place.model / name)
    place.refused(DATA, place.model / name, "pickle", "safetensors")


def test_cut_short(place, rng):
    path = place.model / "model.safetensors"
    whole = path.read_bytes()
    for length in [0, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        place.refused(DATA, path, verb="plan")


def test_a_model_we_do_not_know(place):
    place.config(model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"])
    place.refused(DATA, "gpt_neox", place.model)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3", "longrope"])
@pytest.mark.parametrize("spelling", ["rope_scaling.type", "rope_scaling.rope_type", "rope_parameters.rope_type"])
def test_rope_scaling_is_not_ignored(spelling, kind, place):
    section, key = spelling.split(".")
    place.config(**{"rope_parameters": None, section: {key: kind, "factor": 4.0, "rope_theta": 10000.0}})
    place.refused(DATA, f'{section} of type "{kind}" is not supported', "config.json", verb="plan")


# ---- while it runs ----


def test_a_loss_that_is_no_number_stops_the_run(place):
    """Finite weights, infinite products: the last checkpoint stays, no checkpoint holds what is not a number."""
    place.recipe["adapter"] = {"type": "none"}
    place.recipe["train"].update(learning_rate=9.0, max_grad_norm=1e6, max_steps=40)
    place.recipe["save"] = {"save_steps": 1, "save_total_limit": 2}
    place.weights(lambda tensors: tensors["model.norm.weight"].mul_(1e18))
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    said = tune("run", "--recipe", path, expect=1).stderr
    assert "step" in said and "train.learning_rate" in said
    for folder in (place.root / "run").glob("checkpoint-*"):
        for file in folder.glob("*.safetensors"):
            assert all(tensor.isfinite().all() for tensor in load_file(file).values()), file


def closed_pipe():
    """A file to write to that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb")


NOBODY_LISTENS = {"full": lambda: open("/dev/full", "wb"), "a pipe without a reader": closed_pipe}


@pytest.mark.parametrize("where", list(NOBODY_LISTENS))
@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_a_run_that_nobody_listens_to(place, stream, where):
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: NOBODY_LISTENS[where]()}
    code = subprocess.run([BINARY, "run", "--recipe", path], **streams).returncode
    lost = 1 if where == "full" else 128 + signal.SIGPIPE
    assert code == (lost if stream == "stdout" else 0)  # what was to be read there is lost, the result isn't
    assert (place.root / "run" / "checkpoint-4" / "manifest.json").exists()
    assert (place.root / "run" / "final" / "adapter_model.safetensors").exists()


def test_a_mistake_that_nobody_hears_of(place):
    with open("/dev/full", "wb") as full:
        assert subprocess.run([BINARY, "plan"], stderr=full).returncode == RECIPE


# ---- the other verbs ----


def test_an_output_that_cannot_be_written(place):
    blocked = place.root / "blocked"
    blocked.write_text("a file")
    place.recipe["output_dir"] = str(blocked / "run")
    place.refused(1, blocked)


def test_an_adapter_of_another_model(place, tiny):
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    tune("run", "--recipe", path)
    done = tune("export", "--format", "gguf", "--quant", "f16", "--model", tiny("llama-mha"), "--adapter", place.root / "run" / "final",
                "--output", place.root / "x.gguf", expect=DATA)  # fmt: skip
    assert "q_proj" in done.stderr or "k_proj" in done.stderr, done.stderr
    assert not (place.root / "x.gguf").exists()


def test_an_export_over_a_run_or_somebody_elses_folder(place):
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    tune("run", "--recipe", path)
    for output in [place.root / "run", place.root, place.root / "run" / "final", place.root / "run" / "checkpoint-4"]:
        done = tune("export", "--format", "adapter", "--run", place.root / "run", "--output", output, expect=RECIPE)
        assert str(output) in done.stderr and "give another output" in done.stderr
    assert (place.root / "run" / "final" / "adapter_model.safetensors").exists()
    assert (place.root / "run" / "checkpoint-4" / "manifest.json").exists()


def export(*arguments, expect=0):
    return tune("export", *arguments, expect=expect)


def test_an_export_is_replaced_by_the_next_one(place):
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    tune("run", "--recipe", path)
    run, output = place.root / "run", place.root / "run-hf"  # a name that begins as the run's does
    for written in [output, output, f"{output}/"]:
        assert export("--format", "hf", "--run", run, "--output", written).stdout == f"{written}\n"
    assert json.loads((output / "tune_export.json").read_text())["format"] == "hf"
    for _ in range(2):
        export("--format", "gguf-lora", "--run", run, "--output", place.root / "lora.gguf")
    for _ in range(2):
        tune("run", "--recipe", path, "--set", "export[0].format=adapter")


def test_an_export_never_replaces_another_model(place):
    other, file = place.root / "other", place.root / "other.gguf"
    shutil.copytree(place.model, other)
    file.write_bytes(b"GGUF of somebody else")
    for form, output in [("hf", other), ("gguf", file)]:
        done = export("--format", form, "--model", place.model, "--output", output, expect=RECIPE)
        assert f"{output}: was written by no export; give another output, or remove it first" in done.stderr
    assert (other / "tokenizer.model").exists() and file.read_bytes().startswith(b"GGUF of")


@pytest.mark.parametrize("value, quant", [(float("nan"), "f32"), (float("-inf"), "bf16"), (1e5, "f16")])
def test_an_export_of_what_is_no_number(place, value, quant):
    name = "model.layers.1.mlp.down_proj.weight"
    place.weights(lambda tensors: tensors[name][3, 5].fill_(value))
    before = sorted(place.root.iterdir())
    for form in ("hf", "gguf"):
        done = export("--format", form, "--quant", quant, "--model", place.model, "--output", place.root / "x", expect=DATA)
        assert f"tensor {name} holds" in done.stderr and "in row 3" in done.stderr, done.stderr
    assert sorted(place.root.iterdir()) == before


def test_an_export_that_was_killed_leaves_nothing_for_ever(place):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (place.root / f".x.tmp-{dead.pid}").mkdir()
    export("--format", "hf", "--model", place.model, "--output", place.root / "x")
    assert not list(place.root.glob(".x.*"))


def test_an_export_that_cannot_be_written_is_found_before_the_first_step(place):
    place.recipe["export"] = [{"format": "hf"}]
    (place.root / "run" / "export" / "hf").mkdir(parents=True)
    (place.root / "run" / "export" / "hf" / "config.json").write_text("{}")
    for verb in ("run", "plan"):
        place.refused(RECIPE, place.root / "run" / "export" / "hf", "written by no export", verb=verb)
    (place.root / "run" / "export" / "hf" / "config.json").unlink()
    (place.model / "tokenizer.model").write_bytes(b"")
    place.refused(DATA, place.model / "tokenizer.model")


def test_an_export_that_fails_does_not_stop_the_others(place):
    place.recipe["export"] = [{"format": "hf", "quant": "f16"}, {"format": "adapter"}, {"format": "gguf", "quant": "f16"}, {"format": "gguf-lora"}]
    place.weights(lambda tensors: tensors["model.embed_tokens.weight"][31999].fill_(1e5))  # of a token that no row has
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    done = tune("run", "--recipe", path, expect=DATA)
    assert done.stderr.count("tune: tensor model.embed_tokens.weight holds 100000 in row 31999, too large for F16") == 2
    run = place.root / "run"
    assert done.stdout.splitlines() == [str(run / name) for name in ("final", "export/adapter", "export/adapter.gguf")]
    assert sorted(path.name for path in (run / "export").iterdir()) == ["adapter", "adapter.Modelfile", "adapter.gguf"]


def test_looking_leaves_no_run_behind(place):
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    for verb in (["plan"], ["run", "--dry-run"], ["data", "stats"], ["data", "show"]):
        assert tune(*verb, "--recipe", path).stdout != ""
    assert not (place.root / "run").exists()


def test_an_adapter_to_start_from_with_another_scale(place):
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    tune("run", "--recipe", path)
    place.recipe["adapter"].update(init_adapter=str(place.root / "run" / "final"), lora_alpha=32)
    place.recipe["output_dir"] = str(place.root / "second")
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    done = tune("run", "--recipe", path, expect=DATA)
    assert "set adapter.lora_alpha: 8" in done.stderr, done.stderr


def test_an_export_of_what_is_no_run(place):
    done = tune("export", "--format", "hf", "--run", place.root, "--output", place.root / "hf", expect=DATA)
    assert str(place.root) in done.stderr
    assert not (place.root / "hf").exists()


def test_a_recipe_that_does_not_fit(place):
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    assert "global_batch" not in tune("plan", "--recipe", path, "--device-memory", "10MiB", expect=4).stderr
    assert "GiB" in tune("plan", "--recipe", path, "--device-memory", "64GiB").stderr


def test_flipped_bits_in_a_gguf(place, rng):
    path = place.root / "model.gguf"
    tune("export", "--format", "gguf", "--quant", "q8_0", "--model", place.model, "--output", path)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(4096)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        done = tune("inspect", path, expect=None)
        assert done.returncode in (0, DATA), done.stderr  # a flipped bit in a weight or a name is not visible
    for length in [0, 3, 4, 23, 24, 1000, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert str(path) in tune("inspect", path, expect=DATA).stderr


def test_every_recipe_is_yaml_that_others_read(place):
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    tune("run", "--recipe", path)
    resolved = yaml.safe_load((place.root / "run" / "recipe.yaml").read_text())
    assert resolved["train"]["max_steps"] == 4 and resolved["adapter"]["lora_target_modules"] == ["all-linear"]
