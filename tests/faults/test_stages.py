"""A recipe of two stages is two runs, one after the other: the same bits, also when it was killed in the second one."""

import json
import random
import shutil
import signal
import subprocess
import time

import pytest
from conftest import SEED
from safetensors.torch import load_file
from tune_program import BINARY, TOPICS, metrics, recipe_for, sentence, steps, tune, write_chats, write_recipe

STEPS = 16  # of the second stage
CLOCKS = ("time", "tokens_per_s", "peak_memory")  # what differs between two equal runs


def write_pairs(path, rng, count):
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            row = {"prompt": f"{rng.choice(TOPICS)}?", "chosen": sentence(rng, 9), "rejected": sentence(rng, 9)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


class Staged:
    """dSFT and DPO: the recipe of both, and a folder with what it made."""

    def __init__(self, model, root, adapter, steps=STEPS):
        rng = random.Random(SEED)
        self.root, self.whole = root, root / "whole"
        chats, pairs = write_chats(root / "chats.jsonl", rng, 8, longest=9), write_pairs(root / "pairs.jsonl", rng, 8)
        self.shared = recipe_for(model, chats, "", adapter=adapter, train={"max_steps": 3}, save={"save_steps": 4})
        del self.shared["output_dir"]
        self.stages = [
            {"stage": "sft", "data": {"datasets": [{"path": str(chats)}]}},
            {"stage": "dpo", "data": {"datasets": [{"path": str(pairs), "type": "preference"}]}, "preference": {"beta": 0.2},
             "train": {"max_steps": steps, "learning_rate": 5e-4}},
        ]  # fmt: skip
        del self.shared["data"]["datasets"]
        self.recipe = write_recipe(root / "recipe.yaml", {**self.shared, "stages": self.stages})
        tune(*self.arguments(self.whole))

    def arguments(self, output):
        return ["run", "--recipe", str(self.recipe), "--set", f"output_dir={output}"]

    def alone(self, number, output, **sections):
        """The recipe of one stage, as a person would write it without `stages`."""
        recipe = json.loads(json.dumps({**self.shared, "output_dir": str(output)}))
        for name, value in [*self.stages[number].items(), *sections.items()]:
            recipe[name] = {**recipe.get(name, {}), **value} if isinstance(value, dict) else value
        return write_recipe(self.root / f"alone-{number}.yaml", recipe)


def result(run):
    files = {path.name: path.read_bytes() for path in (run / "final").iterdir() if path.name != "README.md"}
    return files, [{key: line[key] for key in line if key not in CLOCKS} for line in metrics(run)]


@pytest.fixture(scope="module")
def staged(tiny, tmp_path_factory):
    return Staged(tiny("llama-mha"), tmp_path_factory.mktemp("staged"), {"lora_dropout": 0.1})


def test_two_stages_are_two_runs(staged):
    tune("run", "--recipe", staged.alone(0, staged.root / "a"))
    tune("run", "--recipe", staged.alone(1, staged.root / "b", adapter={"init_adapter": str(staged.root / "a" / "final")}))
    assert result(staged.root / "a") == result(staged.whole / "1-sft")
    assert result(staged.root / "b") == result(staged.whole / "2-dpo")
    assert "stages" not in (staged.whole / "2-dpo" / "recipe.yaml").read_text()


def test_all_weights_go_from_stage_to_stage(tiny, tmp_path):
    """full, full; and an adapter on what full fine-tuning has left."""
    full = Staged(tiny("llama-mha"), tmp_path, {"type": "none"}, steps=2)
    tune("run", "--recipe", full.alone(0, tmp_path / "a"))
    tune("run", "--recipe", full.alone(1, tmp_path / "b", model={"base_model": str(tmp_path / "a" / "final")}))
    assert result(tmp_path / "a") == result(full.whole / "1-sft")
    assert result(tmp_path / "b") == result(full.whole / "2-dpo")
    told = tune(*full.arguments(full.whole), "--set", "stages[1].adapter.type=lora", "--resume", "never").stderr
    assert "stage 1 of 2" in told and "done already" not in told
    config = json.loads((full.whole / "2-dpo" / "final" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(full.whole / "1-sft" / "final")


def test_a_kill_in_the_second_stage_leaves_no_trace(staged):
    output = staged.root / "killed"
    process = subprocess.Popen([BINARY, *staged.arguments(output)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None and not (output / "2-dpo" / "checkpoint-4").exists():
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    assert not (output / "2-dpo" / "final").exists()
    touched = (output / "1-sft" / "final" / "adapter_model.safetensors").stat().st_mtime_ns
    told = tune(*staged.arguments(output)).stderr
    assert "stage 1 of 2, sft" in told and "done already" in told
    assert f"going on from {output / '2-dpo' / 'checkpoint-'}" in told and f"{output / '1-sft' / 'checkpoint'}" not in told, told
    assert (output / "1-sft" / "final" / "adapter_model.safetensors").stat().st_mtime_ns == touched
    weights = "adapter_model.safetensors"
    for stage in ("1-sft", "2-dpo"):
        assert result(output / stage)[0][weights] == result(staged.whole / stage)[0][weights]
        assert result(output / stage)[1] == result(staged.whole / stage)[1]


def test_a_checkpoint_does_not_outlive_what_it_began_from(staged):
    output = staged.root / "other"
    shutil.copytree(staged.whole, output)
    again = [*staged.arguments(output), "--set", "stages[0].train.learning_rate=2e-3"]
    done = tune(*again, expect=2)  # of the first stage there is a checkpoint, too
    assert "train.learning_rate is 0.002 now" in done.stderr, done.stderr
    shutil.rmtree(output / "1-sft")
    done = tune(*again, expect=3)
    assert "what adapter.init_adapter names has changed since the checkpoint" in done.stderr, done.stderr
    assert len(steps(output / "1-sft")) == 3
    shutil.rmtree(output / "2-dpo")
    assert "done already" in tune(*again).stderr
    assert result(output / "2-dpo") != result(staged.whole / "2-dpo")


def test_mistakes_of_all_stages_are_told_before_the_first_one(staged, tmp_path):
    missing = ["--set", "stages[0].data.datasets[0].path=no.jsonl", "--set", "stages[1].data.datasets[0].path=not.jsonl"]
    for more in (missing, missing[2:]):
        done = tune(*staged.arguments(tmp_path / "run"), *more, expect=3)
        assert "not.jsonl" in done.stderr and ("no.jsonl" in done.stderr) == (more == missing), done.stderr
        assert not (tmp_path / "run" / "1-sft" / "run.json").exists()
    done = tune(*staged.arguments(tmp_path / "run"), "--resume", staged.root / "chats.jsonl", expect=2)
    assert "lies in no stage's folder" in done.stderr


def test_two_ranks_stop_in_the_first_stage_and_go_on(staged):
    output = staged.root / "ranks"
    more = ["--set", "stages[0].train.max_steps=40", "--nproc=2"]
    process = subprocess.Popen([BINARY, *staged.arguments(output), *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None and not (output / "1-sft" / "checkpoint-4").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75, process.stderr.read()
    assert not (output / "2-dpo" / "run.json").exists()
    told = tune(*staged.arguments(output), *more).stderr
    assert told.count("2 ranks on 1 host") == 1, "they meet once"
    assert f"going on from {output / '1-sft' / 'checkpoint-'}" in told
    assert len(steps(output / "1-sft")) == 40 and len(steps(output / "2-dpo")) == STEPS
    assert load_file(output / "2-dpo" / "final" / "adapter_model.safetensors").keys()


def test_verbs_take_the_last_stage_unless_told(staged):
    recipe = ["--recipe", staged.recipe, "--set", f"output_dir={staged.whole}"]
    assert "chosen" in json.loads(tune("data", "show", *recipe, "--json", "--rows", "1").stdout)
    assert "chosen" not in json.loads(tune("data", "show", *recipe, "--json", "--rows", "1", "--stage", "1").stdout)
    plans = json.loads(tune("plan", *recipe, "--json").stdout)["stages"]
    assert [plan["steps"] for plan in plans] == [3, STEPS]
    shown = tune("plan", *recipe).stdout
    assert "stage 1 of 2, sft, in " in shown and "stage 2 of 2, dpo, in " in shown
    assert "--stage 3 of 2 stages" in tune("plan", *recipe, "--stage", "3", expect=2).stderr
    done = tune("plan", "--recipe", staged.whole / "1-sft" / "recipe.yaml", "--stage", "1", expect=2)
    assert "the recipe has no stages" in done.stderr
    for stage, name in (([], "2-dpo"), (["--stage", "1"], "1-sft")):
        tune("export", "--format", "adapter", "--run", staged.whole, *stage, "--output", staged.root / f"of-{name}")
        a, b = (load_file(folder / "adapter_model.safetensors") for folder in (staged.root / f"of-{name}", staged.whole / name / "final"))
        assert all((a[key] == b[key]).all() for key in b)
    batch = tune("slurm", *recipe, "--gpus-per-node", "0").stdout
    assert f"--output={staged.whole}/slurm-%j.out" in batch
