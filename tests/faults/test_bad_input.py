"""Each mistake ends with its exit code and one message that names the place and the remedy, before anything is trained."""

import json
import os
import random
import signal
import subprocess

import pytest
import torch
import yaml
from place import DATA, FAILED, RECIPE, on_a_small_disk, place  # noqa: F401
from safetensors.torch import load_file
from tune_program import BINARY, tune, write_chats, write_recipe

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
    done = on_a_small_disk(20_000, "run", "--recipe", path)
    assert done.returncode == FAILED and done.stderr.count("tune: ") == 1, done.stderr
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
