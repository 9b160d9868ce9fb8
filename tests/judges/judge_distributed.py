"""However many ranks share a run, it is the same run: curves of 1, 2 and 4 ranks, and of runs that go on with others.

The judge is the single process, which judge_training holds against PEFT and transformers.
"""

import json
import random
import shutil
import subprocess
import sys

import pytest
import tiny_models
from conftest import SEED
from safetensors.torch import load_file
from tune_program import BINARY, eval_losses, recipe_for, relative, steps, tune, write_chats, write_recipe

STEPS = 12
CASES = {
    "lora": ("llama-gqa", {}),
    "full": ("llama-gqa-tied", {"adapter": {"type": "none"}, "train": {"learning_rate": 3e-4}}),
    "packed": ("llama-mha", {"data": {"packing": True, "max_length": 160}}),
    "tied": ("llama-gqa-tied", {}),
    "full untied": ("llama-gqa", {"adapter": {"type": "none"}, "train": {"learning_rate": 3e-4}}),
    "full experts": ("mixtral", {"adapter": {"type": "none"},  # its routers are frozen
                                 "train": {"per_device_train_batch_size": 1, "learning_rate": 3e-4,
                                           "gradient_checkpointing": True}}),
    "few rows": ("llama-gqa", {"train": {"global_batch_size": 3, "per_device_train_batch_size": 1}}),
    # one row a micro-batch: the auxiliary loss is a mean of micro-batches
    "experts": ("mixtral", {"train": {"per_device_train_batch_size": 1, "router_aux_loss_coef": 0.02},
                            "adapter": {"type": "lora", "lora_r": 4, "lora_alpha": 8,
                                        "lora_target_modules": ["q_proj", "w1", "w2", "w3", "gate"]}}),
}  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    def make(case, **more):
        shape, sections = CASES[case]
        root = tmp_path_factory.mktemp(case)
        rng = random.Random(SEED)
        model = tiny_models.make(shape, root / "model", SEED)
        rows, evaluation = write_chats(root / "rows.jsonl", rng, 45), write_chats(root / "eval.jsonl", rng, 9)
        sections = json.loads(json.dumps({**sections, **more}))
        train = {"max_steps": STEPS, "global_batch_size": 8, "per_device_train_batch_size": 2, **sections.pop("train", {})}
        recipe = recipe_for(model, rows, root / "unset", evaluation, train=train, eval={"eval_steps": 5}, **sections)
        recipe["eval"]["sample_prompts"] = ["order: where is it?", "roof: who mends it?", "invoice?"]
        recipe["eval"]["sample_max_tokens"] = 4
        return root, write_recipe(root / "recipe.yaml", recipe)

    return make


def run(recipe, output, ranks, *more):
    arguments = ["run", "--recipe", recipe, "--set", f"output_dir={output}", *more]
    return tune(*arguments, *([f"--nproc={ranks}"] if ranks > 1 else []))


def same_curve(one, other, tolerance=1e-5):
    mine, theirs = steps(one), steps(other)
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    worst = 0
    for a, b in zip(mine, theirs):
        assert (a["tokens"], a["trained_tokens"], a["learning_rate"]) == (b["tokens"], b["trained_tokens"], b["learning_rate"])
        worst = max(worst, relative(a["loss"], b["loss"]), relative(a["grad_norm"], b["grad_norm"]) / 10)
        if "expert_share" in a:
            assert a["expert_share"] == pytest.approx(b["expert_share"], abs=1e-5)
            worst = max(worst, relative(a["router_aux_loss"], b["router_aux_loss"]))
    for a, b in zip(eval_losses(one), eval_losses(other), strict=True):
        worst = max(worst, relative(a, b))
    assert worst < tolerance, f"{one} and {other} differ by {worst:.2e}"
    return worst


@pytest.mark.parametrize("case", ["lora", "full", "packed", "experts"])
def test_any_number_of_ranks_gives_the_same_curve(job, case):
    root, recipe = job(case)
    for ranks in (1, 2, 4):
        told = run(recipe, root / str(ranks), ranks).stderr
        if ranks > 1:
            assert f"{ranks} ranks on 1 host" in told
            worst = same_curve(root / "1", root / str(ranks))
            print(f"{case}: {ranks} ranks, relative difference up to {worst:.1e}")
    mine = load_file(next((root / "1" / "final").glob("*.safetensors")))
    theirs = load_file(next((root / "4" / "final").glob("*.safetensors")))
    for name, values in mine.items():
        assert (values - theirs[name]).abs().max() < 2e-4, name


@pytest.mark.parametrize("case", ["full", "full untied", "full experts", "tied", "few rows"])
def test_sharded_weights_give_the_same_curve(job, case):
    """Three ranks: slices end within tensors and rows, and there are steps in which not every rank has a micro-batch."""
    root, recipe = job(case)
    run(recipe, root / "1", 1)
    for ranks in (2, 3):
        told = run(recipe, root / str(ranks), ranks, "--set", "distributed.strategy=shard").stderr
        assert f"{ranks} ranks on 1 host" in told
        worst = same_curve(root / "1", root / str(ranks))
        print(f"{case}: {ranks} ranks, relative difference up to {worst:.1e}")
    mine = load_file(next((root / "1" / "final").glob("*.safetensors")))
    theirs = load_file(next((root / "3" / "final").glob("*.safetensors")))
    for name, values in mine.items():
        assert (values - theirs[name]).abs().max() < 2e-4, name


def test_two_runs_of_as_many_ranks_are_equal_to_the_last_bit(job):
    root, recipe = job("lora")
    for name in "ab":
        run(recipe, root / name, 2)
    a, b = (next((root / name / "final").glob("*.safetensors")).read_bytes() for name in "ab")
    assert a == b


def test_a_run_goes_on_with_another_number_of_ranks(job):
    root, recipe = job("lora", save={"save_steps": 4, "save_total_limit": 9})
    run(recipe, root / "whole", 1)
    whole = root / "whole"
    for folder, ranks in (("parts", 2), ("same", 2)):
        run(recipe, root / folder, ranks)
    # what was done after a checkpoint is forgotten: 2 ranks up to step 4, 1 up to step 8, 4 to the end
    forget_after(root / "parts", 4)
    told = run(recipe, root / "parts", 1).stderr
    assert "ranks is 1 now, 2 in the checkpoint" in told
    forget_after(root / "parts", 8)
    run(recipe, root / "parts", 4)
    same_curve(whole, root / "parts")
    # the same number: the same bits
    before = next((root / "same" / "final").glob("*.safetensors")).read_bytes()
    forget_after(root / "same", 8)
    run(recipe, root / "same", 2)
    assert next((root / "same" / "final").glob("*.safetensors")).read_bytes() == before


def forget_after(output, step):
    for folder in output.glob("checkpoint-*"):
        if int(folder.name.split("-")[1]) > step:
            shutil.rmtree(folder)
    shutil.rmtree(output / "final")


@pytest.mark.parametrize("case", ["lora", "full experts"])
def test_several_copies_of_a_sharded_model_give_the_same_curve(job, case):
    """Two copies, two ranks each; rank 0 and 1 write the checkpoint's two parts."""
    root, recipe = job(case)
    run(recipe, root / "1", 1)
    told = run(recipe, root / "4", 4, "--set", "distributed.strategy=shard", "--set", "distributed.shard_size=2").stderr
    assert "sharded over 2 ranks" in told
    same_curve(root / "1", root / "4")
    if "full" in case:
        parts = sorted(path.name for path in (root / "4" / f"checkpoint-{STEPS}").glob("*.safetensors"))
        assert parts == ["part-00001-of-00002.safetensors", "part-00002-of-00002.safetensors"]
    told = tune("run", "--recipe", recipe, "--set", f"output_dir={root / '3'}", "--set=distributed.strategy=shard",
                "--set=distributed.shard_size=2", "--nproc=3", expect=2).stderr  # fmt: skip
    assert "distributed.shard_size is 2, which doesn't divide 3 ranks" in told


def test_a_run_goes_on_with_another_strategy(job):
    root, recipe = job("full", save={"save_steps": 3, "save_total_limit": 9})
    shard = ("--set", "distributed.strategy=shard")
    run(recipe, root / "whole", 1)
    run(recipe, root / "parts", 3, *shard)
    for step, ranks, strategy in ((3, 2, ()), (6, 2, shard), (9, 4, shard)):
        forget_after(root / "parts", step)
        told = run(recipe, root / "parts", ranks, *strategy).stderr
        assert f"going on from {root / 'parts'}/checkpoint-{step}" in told
    same_curve(root / "whole", root / "parts")
    # the same number: the same bits
    before = next((root / "parts" / "final").glob("*.safetensors")).read_bytes()
    forget_after(root / "parts", 9)
    run(recipe, root / "parts", 4, *shard)
    assert next((root / "parts" / "final").glob("*.safetensors")).read_bytes() == before


def test_torchruns_variables_are_understood(job):
    root, recipe = job("lora")
    run(recipe, root / "own", 2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--no-python", "--standalone"]
    command = [*torchrun, BINARY, "run", "--recipe", recipe, "--set", f"output_dir={root / 'torchrun'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 ranks on 1 host, by RANK and WORLD_SIZE" in done.stderr
    same_curve(root / "own", root / "torchrun")
