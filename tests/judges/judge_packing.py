"""However rows are laid into batches, loss and gradient are the same: packed or not, eight rows at once or one by one."""

import json

import pytest

from tune_program import recipe_for, relative, steps, tune, write_chats, write_recipe

ROWS = 24


def train(folder, rows, tmp_path, name, **sections):
    output = tmp_path / name
    recipe = recipe_for(folder, rows, output, **sections)
    tune("run", "--recipe", write_recipe(tmp_path / f"{name}.yaml", recipe))
    return steps(output)


@pytest.mark.parametrize("adapter", [{}, {"type": "none"}], ids=["lora", "full"])
@pytest.mark.parametrize("name", ["llama-gqa", "mistral-window"])
def test_packed_equals_unpacked(name, adapter, tiny, rng, tmp_path):
    """One step sees every row: each row by itself, or in slots of 512 or 128 tokens."""
    folder, rows = tiny(name), write_chats(tmp_path / "rows.jsonl", rng, ROWS, longest=12)
    results = {}
    for label, packing, length in [("unpacked", False, 512), ("packed-512", True, 512), ("packed-128", True, 128)]:
        sections = dict(
            adapter=adapter,
            data={"packing": packing, "max_length": length, "overflow": "error"},
            train={"max_steps": 2, "global_batch_size": ROWS, "per_device_train_batch_size": 2, "learning_rate": 1e-3},
        )
        results[label] = train(folder, rows, tmp_path, label, **sections)
    want = results.pop("unpacked")
    for label, lines in results.items():
        assert [line["trained_tokens"] for line in lines] == [line["trained_tokens"] for line in want], label
        for line, reference in zip(lines, want):
            assert relative(line["loss"], reference["loss"]) <= 2e-6, label
            assert relative(line["grad_norm"], reference["grad_norm"]) <= 2e-5, label


@pytest.mark.parametrize("name", ["llama-gqa", "mistral-window"])
def test_packed_equals_unpacked_in_bf16(name, tiny, rng, tmp_path):
    """A token's numbers don't depend on what lies beside it; what is summed in another order is of fp32."""
    folder, rows = tiny(name), write_chats(tmp_path / "rows.jsonl", rng, ROWS, longest=12)
    results = []
    for label, packing, length in [("unpacked", False, 512), ("packed-512", True, 512), ("packed-128", True, 128)]:
        sections = dict(
            data={"packing": packing, "max_length": length},
            train={"max_steps": 3, "global_batch_size": ROWS, "per_device_train_batch_size": 2, "precision": "bf16"},
            eval={"per_device_eval_batch_size": 2},
        )
        results.append(train(folder, rows, tmp_path, label, **sections))
    for lines in results[1:]:
        for line, reference in zip(lines, results[0]):
            assert line["trained_tokens"] == reference["trained_tokens"]
            assert relative(line["loss"], reference["loss"]) <= 2**-9  # a rounding to bf16
            assert relative(line["grad_norm"], reference["grad_norm"]) <= 2**-7


@pytest.mark.parametrize("name", ["llama-gqa-tied", "mistral-window"])
def test_accumulation_of_one_by_eight_equals_eight_by_one(name, tiny, rng, tmp_path):
    folder, rows = tiny(name), write_chats(tmp_path / "rows.jsonl", rng, ROWS)
    results = []
    for per_device in (8, 4, 1):
        train_section = {"max_steps": 9, "global_batch_size": 8, "per_device_train_batch_size": per_device, "learning_rate": 1e-3}
        results.append(train(folder, rows, tmp_path, f"by-{per_device}", train=train_section))
    for lines in results[1:]:
        for line, reference in zip(lines, results[0]):
            assert relative(line["loss"], reference["loss"]) <= 1e-5
            assert relative(line["grad_norm"], reference["grad_norm"]) <= 1e-4


def test_evaluation_does_not_depend_on_the_batch(tiny, rng, tmp_path):
    folder, rows = tiny("mistral-window-deep"), write_chats(tmp_path / "rows.jsonl", rng, ROWS)
    answers = []
    for at_once in (1, 3, 16):
        recipe = recipe_for(folder, rows, tmp_path / "run", rows, eval={"per_device_eval_batch_size": at_once})
        recipe["data"]["datasets"][0]["holdout_every"] = recipe["data"]["eval_datasets"][0]["holdout_every"] = 2
        path = write_recipe(tmp_path / "recipe.yaml", recipe)
        answers.append(json.loads(tune("eval", "--recipe", path, "--adapter", "none", "--json").stdout))
    for answer in answers[1:]:
        assert answer["tokens"] == answers[0]["tokens"]
        assert relative(answer["loss"], answers[0]["loss"]) <= 2e-6


def test_gradient_checkpointing_changes_nothing(tiny, rng, tmp_path):
    folder, rows = tiny("llama-gqa"), write_chats(tmp_path / "rows.jsonl", rng, ROWS)
    results = [
        train(folder, rows, tmp_path, f"checkpointing-{on}", train={"max_steps": 6, "gradient_checkpointing": on}, adapter={"lora_dropout": 0.1})
        for on in (False, True)
    ]
    for line, reference in zip(*results):
        assert line["loss"] == reference["loss"] and line["grad_norm"] == reference["grad_norm"]
