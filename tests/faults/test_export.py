"""An export that can't be made ends with its exit code and one message, and leaves nothing under its name."""

import json
import shutil
import subprocess

import pytest
from place import DATA, FAILED, RECIPE, on_a_small_disk, place  # noqa: F401
from tune_program import tune, write_recipe


def export(*arguments, expect=0):
    return tune("export", *arguments, expect=expect)


def test_an_adapter_of_another_model(place, tiny):
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    tune("run", "--recipe", path)
    done = tune("export", "--format", "gguf", "--quant", "f16", "--model", tiny("llama-mha"), "--adapter", place.root / "run" / "final",
                "--output", place.root / "x.gguf", "--other-base", expect=DATA)  # fmt: skip
    assert "q_proj" in done.stderr or "k_proj" in done.stderr, done.stderr
    assert not (place.root / "x.gguf").exists()


def test_an_adapter_of_another_training_of_the_same_model(place):
    """All shapes fit: only the base's hash in run.json, which goes with an exported adapter, tells."""
    tune("run", "--recipe", write_recipe(place.root / "recipe.yaml", place.recipe))
    run, other, output = place.root / "run", shutil.copytree(place.model, place.root / "other"), place.root / "x"
    export("--format", "adapter", "--run", run, "--output", place.root / "adapter")
    moved = shutil.copytree(place.root / "adapter", place.root / "elsewhere" / "adapter")
    place.weights(lambda tensors: tensors["model.layers.1.mlp.down_proj.weight"][3, 5].add_(0.5), other)
    for adapter in (run / "final", run / "checkpoint-4", moved):
        arguments = ["--format", "hf", "--adapter", adapter, "--output", output]
        done = export(*arguments, "--model", other, expect=DATA)
        assert f"{adapter}: was trained on another model than {other}: on {place.model}" in done.stderr
        assert "--other-base" in done.stderr and not output.exists()
        export(*arguments, "--model", place.model)
        shutil.rmtree(output)
    export(*arguments, "--model", other, "--other-base")
    place.weights(lambda tensors: tensors["model.layers.1.mlp.down_proj.weight"][3, 5].add_(0.5))  # beneath the run's feet
    assert "was trained on another model" in export("--format", "hf", "--run", run, "--output", place.root / "y", expect=DATA).stderr


def test_another_base_without_an_adapter(place):
    done = export("--format", "hf", "--model", place.model, "--output", place.root / "x", "--other-base", expect=RECIPE)
    assert "--other-base goes with an adapter" in done.stderr and not (place.root / "x").exists()


def test_an_export_of_a_damaged_checkpoint(place):
    tune("run", "--recipe", write_recipe(place.root / "recipe.yaml", place.recipe))
    checkpoint, output = place.root / "run" / "checkpoint-4", place.root / "x"
    weights = checkpoint / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
        weights.write_bytes(damage)
        assert str(weights) in export("--format", "hf", "--run", checkpoint, "--output", output, expect=DATA).stderr
    (checkpoint / "manifest.json").unlink()
    weights.write_bytes(whole[: len(whole) // 2])
    assert str(weights) in export("--format", "hf", "--run", checkpoint, "--output", output, expect=DATA).stderr
    assert not output.exists()


FORMATS = [["hf", "x"], ["gguf", "x.gguf"], ["adapter", "x"], ["gguf-lora", "x.gguf"], ["onnx", "x"]]


@pytest.mark.parametrize("form, name", FORMATS)
def test_an_export_to_a_full_disk(place, form, name):
    tune("run", "--recipe", write_recipe(place.root / "recipe.yaml", place.recipe))
    before, limit = sorted(place.root.iterdir()), 512 if form in ("adapter", "gguf-lora") else 100_000
    done = on_a_small_disk(limit, "export", "--format", form, "--run", place.root / "run", "--output", place.root / name)
    assert done.returncode == FAILED and done.stderr.count("tune: ") == 1 and "File too large" in done.stderr, done.stderr
    assert sorted(place.root.iterdir()) == before


def test_an_export_over_a_run_or_somebody_elses_folder(place):
    path = write_recipe(place.root / "recipe.yaml", place.recipe)
    tune("run", "--recipe", path)
    for output in [place.root / "run", place.root, place.root / "run" / "final", place.root / "run" / "checkpoint-4"]:
        done = tune("export", "--format", "adapter", "--run", place.root / "run", "--output", output, expect=RECIPE)
        assert str(output) in done.stderr and "give another output" in done.stderr
    assert (place.root / "run" / "final" / "adapter_model.safetensors").exists()
    assert (place.root / "run" / "checkpoint-4" / "manifest.json").exists()


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


def test_an_export_of_what_is_no_run(place):
    done = tune("export", "--format", "hf", "--run", place.root, "--output", place.root / "hf", expect=DATA)
    assert str(place.root) in done.stderr
    assert not (place.root / "hf").exists()
