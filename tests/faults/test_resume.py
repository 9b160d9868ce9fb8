"""A run that is killed, stopped or damaged, and goes on, ends in the same bits as one that was never touched."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from conftest import SEED
from safetensors.torch import load_file, save_file
from tune_program import BINARY, recipe_for, tune, write_chats, write_recipe

STEPS, SAVE_STEPS, LIMIT = 30, 4, 2
KILLS, KILLS_A_RUN = 20, 5  # at least; at most
CLOCKS = ("time", "tokens_per_s", "peak_memory")  # what differs between two equal runs
METHODS = {
    "qlora": dict(
        adapter={
            "type": "qlora", "lora_dropout": 0.1, "use_rslora": True, "loraplus_lr_ratio": 4, "init_lora_weights": "pissa",
            "rank_pattern": {"down_proj": 3}, "modules_to_save": ["lm_head"],
        },  # fmt: skip
        train={"precision": "fp16", "per_device_train_batch_size": 2, "optim": "adamw_8bit", "neftune_noise_alpha": 5},
    ),
    "full": dict(adapter={"type": "none"}, train={"lr_scheduler_type": "cosine", "warmup_steps": 3}),
}


class Job:
    """One recipe, run into as many output folders as a test likes."""

    def __init__(self, model, root, rng, method):
        self.root, self.method, self.model = root, method, model
        rows, evaluation = write_chats(root / "rows.jsonl", rng, 40), write_chats(root / "eval.jsonl", rng, 4)
        sections = {name: dict(values) for name, values in METHODS[method].items()}
        sections["train"]["max_steps"] = STEPS
        recipe = recipe_for(
            model, rows, root / "unset", evaluation, **sections, data={"packing": True}, eval={"eval_steps": 7},
            save={"save_steps": SAVE_STEPS, "save_total_limit": LIMIT},
        )  # fmt: skip
        self.recipe = write_recipe(root / "recipe.yaml", recipe)
        self.whole = root / "whole"
        begin = time.monotonic()
        tune(*self.arguments(self.whole))
        self.seconds = time.monotonic() - begin

    def arguments(self, output):
        return ["run", "--recipe", str(self.recipe), "--set", f"output_dir={output}"]

    def start(self, output, *more):
        return subprocess.Popen(
            [BINARY, *self.arguments(output), *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def result(self, output):
        """Everything that has to be equal: weights, the last checkpoint with its optimizer, metrics."""
        files = {path.name: path.read_bytes() for path in (output / "final").iterdir()}
        newest = output / f"checkpoint-{STEPS}"
        state = {path.name: path.read_bytes() for path in newest.iterdir() if path.suffix == ".safetensors"}
        return files, state, metrics(output)

    def expect_whole(self, output):
        for mine, whole in zip(self.result(output), self.result(self.whole)):
            assert mine == whole


@pytest.fixture(scope="module", params=list(METHODS))
def job(request, tiny, tmp_path_factory):
    return Job(tiny("llama-gqa"), tmp_path_factory.mktemp(request.param), random.Random(SEED), request.param)


def checkpoints(output):
    return sorted((path for path in output.glob("checkpoint-*")), key=lambda path: int(path.name.split("-")[1]))


def last_step(output):
    path = output / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line[-1] == "\n"), default=0)


def wait_for_step(process, output, step):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None and last_step(output) < step:
        time.sleep(0.01)


def test_two_runs_are_equal(job):
    output = job.root / "twice"
    tune(*job.arguments(output))
    job.expect_whole(output)


def wait_somewhere(job, process, output, rng):
    """Until some step that is still to come and a bit of the next one; sometimes only into the start of the program."""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 0.3) * job.seconds)
    else:
        wait_for_step(process, output, rng.randint(min(last_step(output) + 1, STEPS), STEPS))
        time.sleep(rng.uniform(0, 2) * job.seconds / STEPS)


def expect_checkpoints(output, newest):
    """All of them whole, none lost; (the newest one's step)."""
    folders = checkpoints(output)
    assert len(folders) <= LIMIT + 1  # the oldest goes after the newest is there
    for folder in folders:
        tune("inspect", folder)
    steps = [int(folder.name.split("-")[1]) for folder in folders]
    assert max(steps, default=0) >= newest, "a checkpoint was lost"
    return max(steps, default=0)


def test_kills_leave_no_trace(job, rng):
    kills = 0
    while kills < KILLS // len(METHODS):
        output, newest = job.root / "killed", 0
        for _ in range(KILLS_A_RUN):
            process = job.start(output)
            wait_somewhere(job, process, output, rng)
            process.kill()
            error = process.communicate()[1]
            assert process.returncode in (0, -signal.SIGKILL), error
            kills += process.returncode != 0
            newest = expect_checkpoints(output, newest)
        tune(*job.arguments(output))
        job.expect_whole(output)
        shutil.rmtree(output)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_ends_in_a_checkpoint(job, name):
    output = job.root / name
    process = job.start(output)
    wait_for_step(process, output, 5)
    process.send_signal(getattr(signal, name))
    begin = time.monotonic()
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 75, error
    assert time.monotonic() - begin < 5
    assert "the same command goes on from there" in error
    assert int(checkpoints(output)[-1].name.split("-")[1]) >= 5
    tune(*job.arguments(output))
    job.expect_whole(output)


def test_a_signal_before_the_first_step_loses_no_line(job):
    output = job.root / "early"
    process = job.start(output)
    while process.poll() is None and not (output / "run.json").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75, process.communicate()[1]
    assert [path.name for path in checkpoints(output)] == ["checkpoint-0"]
    tune(*job.arguments(output))
    job.expect_whole(output)


def metrics(output):
    """Everything in metrics.jsonl that has to be equal."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in CLOCKS} for line in lines]


def test_a_signal_during_an_evaluation_ends_in_a_checkpoint(job, rng):
    rows = write_chats(job.root / "many.jsonl", rng, 300)
    settings = [f"data.eval_datasets[0].path={rows}", "eval.per_device_eval_batch_size=1", "eval.eval_steps=1", "train.max_steps=2", "train.warmup_steps=0"]
    more = [argument for setting in settings for argument in ("--set", setting)]
    whole, output = job.root / "evaluated", job.root / "evaluating"
    tune(*job.arguments(whole), *more)
    process = job.start(output, *more)
    wait_for_step(process, output, 1)
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    assert process.wait(60) == 75, process.communicate()[1]
    assert time.monotonic() - begin < 5
    assert [line["step"] for line in metrics(output)] == [0, 1], "the evaluation of step 1 was not cut short"
    assert [path.name for path in checkpoints(output)] == ["checkpoint-1"]
    tune(*job.arguments(output), *more)
    assert metrics(output) == metrics(whole)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(job, rng):
    for path in sorted((job.whole / f"checkpoint-{STEPS}").iterdir()):
        output = job.root / f"damaged-{path.name}"
        shutil.copytree(job.whole, output)
        shutil.rmtree(output / "final")
        victim = output / f"checkpoint-{STEPS}" / path.name
        damaged = bytearray(victim.read_bytes())
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        victim.write_bytes(damaged)
        done = tune(*job.arguments(output))
        assert f"checkpoint-{STEPS}" in done.stderr and path.name in done.stderr, done.stderr
        assert f"going on from {output / f'checkpoint-{STEPS - STEPS % SAVE_STEPS}'}" in done.stderr, done.stderr
        job.expect_whole(output)
        shutil.rmtree(output)


def test_only_the_newest_checkpoints_are_kept(job):
    assert [path.name for path in checkpoints(job.whole)] == [f"checkpoint-{STEPS - STEPS % SAVE_STEPS}", f"checkpoint-{STEPS}"]


def test_a_finished_run_is_not_trained_again(job):
    output = job.root / "finished"
    shutil.copytree(job.whole, output)
    assert "going on from" in tune(*job.arguments(output)).stderr
    job.expect_whole(output)


def test_resume_never_begins_again(job):
    output = job.root / "never"
    shutil.copytree(job.whole, output)
    assert "going on from" not in tune(*job.arguments(output), "--resume", "never").stderr
    job.expect_whole(output)
    assert len(list((output / "tensorboard").iterdir())) == 1, "curves of the older run are still there"


def test_a_folder_to_resume_from_is_taken_as_told(job):
    output = job.root / "told"
    shutil.copytree(job.whole, output)
    older = checkpoints(output)[0]
    assert f"going on from {older}" in tune(*job.arguments(output), "--resume", older).stderr
    job.expect_whole(output)


def test_a_changed_recipe_is_not_mixed_with_the_old_one(job):
    output = job.root / "changed"
    shutil.copytree(job.whole, output)
    done = tune(*job.arguments(output), "--set", "train.seed=7", expect=2)
    assert "train.seed" in done.stderr and "--resume never" in done.stderr, done.stderr


def test_moved_files_are_the_same_run(job):
    output = job.root / "moved"
    shutil.copytree(job.whole, output)
    shutil.copytree(job.model, job.root / "elsewhere")
    paths = {"model.base_model": job.root / "elsewhere"}
    for name in ("rows", "eval"):
        paths[f"data.{'datasets' if name == 'rows' else 'eval_datasets'}[0].path"] = shutil.copy(job.root / f"{name}.jsonl", job.root / f"{name}2.jsonl")
    moved = [argument for key, path in paths.items() for argument in ("--set", f"{key}={path}")]
    assert "going on from" in tune(*job.arguments(output), *moved).stderr
    weights = [path for path in (job.whole / "final").iterdir() if path.suffix == ".safetensors"]  # a PEFT config names the base
    assert weights and all((output / "final" / path.name).read_bytes() == path.read_bytes() for path in weights)


def test_changed_files_are_told_by_the_key_that_names_them(job, rng):
    output, model, rows = job.root / "other", job.root / "other-model", job.root / "other.jsonl"
    shutil.copytree(job.whole, output)
    shutil.copytree(job.model, model)
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"][12345, 6] += 0.5
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    write_chats(rows, rng, 4)
    for setting, key in [(f"model.base_model={model}", "model.base_model"), (f"data.datasets[0].path={rows}", "data.datasets"),
                         (f"data.eval_datasets[0].path={rows}", "data.eval_datasets")]:  # fmt: skip
        done = tune(*job.arguments(output), "--set", setting, "--set", "train.max_steps=30", expect=3)
        assert f"what {key} names has changed" in done.stderr, done.stderr


def test_a_signal_between_micro_batches_leaves_no_trace(job, rng):
    more = ["--set", "train.per_device_train_batch_size=1"]
    whole, output = job.root / "accumulated", job.root / "accumulating"
    tune(*job.arguments(whole), *more)
    codes = []
    for _ in range(4):
        process = job.start(output, *more)
        wait_for_step(process, output, last_step(output) + 1)
        time.sleep(rng.uniform(0, 1) * job.seconds / STEPS)
        process.send_signal(signal.SIGTERM)
        codes.append(process.wait(60))
    assert set(codes) <= {0, 75} and 75 in codes, codes
    tune(*job.arguments(output), *more)
    for mine, theirs in zip(job.result(output), job.result(whole)):
        assert mine == theirs


def test_two_runs_do_not_share_a_folder(job):
    output = job.root / "shared"
    process = job.start(output)
    wait_for_step(process, output, 1)
    process.send_signal(signal.SIGSTOP)
    try:
        done = tune(*job.arguments(output), expect=2)
        assert str(output) in done.stderr and str(process.pid) in done.stderr, done.stderr
    finally:
        process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0
    job.expect_whole(output)


def test_a_full_disk_loses_no_checkpoint(job, tmp_path):
    """A file system of its own, mounted where the process alone sees it, that others fill during the run."""
    one = sum(path.stat().st_size for path in (job.whole / f"checkpoint-{STEPS}").iterdir())
    size = one * 10 + 2**26
    script = """mount -t tmpfs -o size=$0 tmpfs "$1" || exit 99
        "${@:2}" & run=$!
        until [ -d "$1/run/checkpoint-4" ] || ! kill -0 $run; do sleep 0.01; done
        cat /dev/zero > "$1/somebody_elses"
        wait $run; code=$?
        rm "$1/somebody_elses"; cp -r "$1" "$1.kept" || exit 99
        exit $code"""
    unshare = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--user", "--map-root-user"])
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = [*job.arguments(disk / "run"), "--set", "save.save_total_limit=100"]
    done = subprocess.run([*unshare, "bash", "-c", script, str(size), disk, BINARY, *arguments], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert str(disk / "run") in done.stderr, done.stderr
    assert "free disk space" in done.stderr or "No space left on device" in done.stderr, done.stderr
    kept = checkpoints(tmp_path / "disk.kept" / "run")
    assert len(kept) >= 1, done.stderr
    for path in kept:
        tune("inspect", path)


def test_a_disk_that_is_too_small_is_found_before_the_first_step(job, tmp_path):
    one = sum(path.stat().st_size for path in (job.whole / f"checkpoint-{STEPS}").iterdir())
    unshare = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--user", "--map-root-user"])
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    script = 'mount -t tmpfs -o size=$0 tmpfs "$1" && "${@:2}"; code=$?; ls "$1/run"; exit $code'
    command = ["bash", "-c", script, str(2 * one + 2**20), tmp_path, BINARY, *job.arguments(tmp_path / "run")]
    done = subprocess.run([*unshare, *command], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert f"a run that adds {LIMIT + 1} checkpoints needs" in done.stderr and "MiB are free" in done.stderr, done.stderr
    assert "metrics.jsonl" not in done.stdout
