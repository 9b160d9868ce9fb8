"""Ranks that die, stop or disagree: the others end soon, one message says who it was, and the run goes on afterwards."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest
import tiny_models
from conftest import SEED
from tune_program import BINARY, recipe_for, steps, tune, write_chats, write_recipe

TIMEOUT = 5  # distributed.timeout_seconds
SHARD = "--set=distributed.strategy=shard"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks")
    rng = random.Random(SEED)
    model = tiny_models.make("llama-mha", root / "model", SEED)
    rows = write_chats(root / "rows.jsonl", rng, 60)
    recipe = recipe_for(
        model, rows, root / "unset", train={"max_steps": 100000, "global_batch_size": 4, "per_device_train_batch_size": 1},
        save={"save_steps": 5}, distributed={"timeout_seconds": TIMEOUT},
    )  # fmt: skip
    return root, write_recipe(root / "recipe.yaml", recipe)


def start(recipe, output, *more, ranks=3):
    arguments = [BINARY, "run", "--recipe", recipe, "--set", f"output_dir={output}", f"--nproc={ranks}", *more]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def heartbeat(output, rank):
    try:
        return json.loads((output / "ranks" / f"rank-{rank}.json").read_text())
    except (OSError, ValueError):
        return {"step": 0, "phase": ""}


def wait_for_step(job, output, step, rank=0):
    deadline = time.monotonic() + 120
    while heartbeat(output, rank)["step"] < step:
        assert job.poll() is None, job.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def at_step_seven(recipe, output, *more):
    """A job of three ranks and their processes."""
    run = start(recipe, output, *more)
    wait_for_step(run, output, 7)
    return run, [heartbeat(output, rank)["pid"] for rank in range(3)]


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def complaints(text):
    return [line for line in text.splitlines() if line.startswith("tune: ")]


@pytest.mark.parametrize("victim, more", [(0, []), (2, []), (1, [SHARD, "--set=adapter.type=none", "--set=save.save_steps=1"])])
def test_a_killed_rank_ends_the_others_within_five_seconds(job, tmp_path, victim, more):
    root, recipe = job
    run, pids = at_step_seven(recipe, tmp_path, *more)
    time.sleep(random.Random(SEED + victim).random() * 0.3)
    os.kill(pids[victim], signal.SIGKILL)
    begin = time.monotonic()
    _, told = run.communicate(timeout=30)
    seconds = time.monotonic() - begin
    assert run.returncode == 1 and seconds < 5, (run.returncode, seconds, told)
    assert not any(map(alive, pids))
    assert len(complaints(told)) == 1, told
    assert re.search(rf"rank {victim} of 3 \(.*, pid {pids[victim]}\) was ended by signal 9 .* in (training|saving), step \d+", told)
    last = steps(tmp_path)[-1]["step"]
    newest = max(int(folder.name.split("-")[1]) for folder in tmp_path.glob("checkpoint-*"))
    assert newest >= last - 5
    again = start(recipe, tmp_path, *more)
    wait_for_step(again, tmp_path, last + 3)
    again.send_signal(signal.SIGTERM)
    _, told = again.communicate(timeout=60)
    assert again.returncode == 75 and f"going on from {tmp_path / f'checkpoint-{newest}'}" in told, told


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_rank_is_named_after_the_timeout(job, tmp_path, victim):
    root, recipe = job
    run, pids = at_step_seven(recipe, tmp_path)
    os.kill(pids[victim], signal.SIGSTOP)
    begin = time.monotonic()
    _, told = run.communicate(timeout=60)
    seconds = time.monotonic() - begin
    assert run.returncode == 1, told
    assert TIMEOUT <= seconds < TIMEOUT + 5 + 3.5, seconds  # the others' end; then the launcher's grace for the stopped one
    assert not any(map(alive, pids))
    assert len(complaints(told)) == 1, told
    assert re.search(rf"rank {victim} of 3 \(.*, pid {pids[victim]}\) in \w+, step \d+ gives no sign of life", told), told


def test_cores_are_divided_and_no_core_computes_for_two(job, tmp_path):
    root, recipe = job
    ranks = len(os.sched_getaffinity(0))
    run = start(recipe, tmp_path, ranks=ranks)
    wait_for_step(run, tmp_path, 2)
    cores = [os.sched_getaffinity(heartbeat(tmp_path, rank)["pid"]) for rank in range(ranks)]
    run.send_signal(signal.SIGTERM)
    _, told = run.communicate(timeout=60)
    assert set.union(*cores) == os.sched_getaffinity(0) and sum(map(len, cores)) == ranks, cores
    assert "1 threads each" in told


@pytest.mark.parametrize("more", [[], [SHARD], [SHARD, "--set=adapter.type=none"]], ids=" ".join)
def test_a_stop_leaves_one_checkpoint_and_goes_on(job, tmp_path, more):
    root, recipe = job
    whole = ["--set=train.max_steps=30", "--set=save.save_steps=1000", *more]
    tune("run", "--recipe", recipe, "--set", f"output_dir={tmp_path / 'whole'}", "--nproc=3", *whole)
    run = start(recipe, tmp_path / "parts", *whole)
    wait_for_step(run, tmp_path / "parts", 9)
    run.send_signal(signal.SIGTERM)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 75, told
    assert told.count("stopped after step") == 1
    tune("run", "--recipe", recipe, "--set", f"output_dir={tmp_path / 'parts'}", "--nproc=3", *whole)
    one, other = (next((tmp_path / name / "final").glob("*.safetensors")).read_bytes() for name in ("parts", "whole"))
    assert one == other


def test_an_error_of_all_is_told_once(job, tmp_path):
    root, recipe = job
    done = tune("run", "--recipe", recipe, "--set", f"output_dir={tmp_path}", "--nproc=3", "--set=train.learning_rate=10",
                "--set=train.max_grad_norm=0", "--set=train.optim=sgd", "--set=adapter.type=none", "--set=train.max_steps=99", expect=1)
    assert len(complaints(done.stderr)) == 1, done.stderr
    assert re.search(r"rank \d of 3 \(.*\): step \d+: loss (nan|inf|\d)", done.stderr), done.stderr


def test_an_error_of_one_ends_all_with_its_code(job, tmp_path):
    root, recipe = job
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"messages": [{"role": "user", "content": "hello"}]}\nno json\n')
    done = tune("run", "--recipe", recipe, "--set", f"output_dir={tmp_path}", "--nproc=3", f"--set=data.datasets[0].path={broken}",
                expect=3)  # fmt: skip
    assert len(complaints(done.stderr)) == 1, done.stderr
    assert "broken.jsonl:2" in done.stderr


def test_doctor_measures_what_passes_between_ranks():
    shown = tune("doctor", "--distributed", "--nproc=3", "--device=cpu").stdout
    assert "3 ranks on 1 host" in shown
    sums = re.findall(r"^ +(\d+) +[\d.]+ +[\d.]+ +[\d.]+$", shown, re.MULTILINE)
    assert [int(size) for size in sums] == [1 << 10, 32 << 10, 1 << 20, 8 << 20, 64 << 20]
    assert re.findall(r"^ +(\d) +[\d.]+ +[\d.]+   .*, pid \d+$", shown, re.MULTILINE) == ["0", "1", "2"]
    assert "nobody to talk to" in tune("doctor", "--distributed", "--nproc=1", "--device=cpu", expect=2).stderr
    assert "--nproc belongs to --distributed" in tune("doctor", "--nproc=2", expect=2).stderr


def by_hand(recipe, output, rank, count, port, *more, folder=None, **environment):
    """One rank as a launcher that isn't ours would start it."""
    variables = {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(port), **environment}  # fmt: skip
    arguments = [BINARY, "run", "--recipe", recipe, "--set", f"output_dir={output}", "--set=train.max_steps=5", *more]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}, cwd=folder)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_noticed_without_our_launcher(job, tmp_path, victim):
    root, recipe = job
    port = free_port()
    ranks = [by_hand(recipe, tmp_path, rank, 3, port, "--set=train.max_steps=100000", LOCAL_WORLD_SIZE="3") for rank in range(3)]
    wait_for_step(ranks[0], tmp_path, 5)
    ranks[victim].kill()
    begin = time.monotonic()
    told = [rank.communicate(timeout=60)[1] for rank in ranks]
    seconds = time.monotonic() - begin
    assert [rank.returncode for i, rank in enumerate(ranks) if i != victim] == [1, 1] and seconds < 5, (seconds, told)
    assert sum(len(complaints(text)) for text in told) == 1, told
    assert re.search(rf"rank {victim} of 3 \(.*, pid {ranks[victim].pid}\).* is gone", "".join(told)), told


def test_a_missing_rank_is_named(job, tmp_path):
    root, recipe = job
    port = free_port()
    ranks = [by_hand(recipe, tmp_path, rank, 3, port) for rank in (0, 2)]
    told = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], told
    assert "rank 1 of 3 did not come within 5 s" in "".join(told)
    assert sum(len(complaints(text)) for text in told) == 1, told


def test_a_port_that_is_taken_is_named(job, tmp_path):
    root, recipe = job
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        rank = by_hand(recipe, tmp_path, 0, 2, taken.getsockname()[1])
        told = rank.communicate(timeout=60)[1]
    assert rank.returncode == 2 and "MASTER_PORT" in told, told


def test_a_master_that_is_not_there_is_named(job, tmp_path):
    root, recipe = job
    rank = by_hand(recipe, tmp_path, 1, 2, free_port())
    told = rank.communicate(timeout=60)[1]
    assert rank.returncode == 2 and re.search(r"rank 1 of 2 .* can't reach rank 0 at 127.0.0.1:\d+ within 5 s", told), told


def test_ranks_with_different_recipes_are_refused(job, tmp_path):
    root, recipe = job
    port = free_port()
    ranks = [by_hand(recipe, tmp_path, 0, 2, port), by_hand(recipe, tmp_path, 1, 2, port, "--set=train.seed=7")]
    told = "".join(rank.communicate(timeout=60)[1] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [2, 2], told
    assert re.search(r'rank 1 of 2 .* has another recipe than rank 0 .*: "seed: 7", not "seed: 42"', told), told


@pytest.mark.parametrize("what, key", [("model", "model.base_model"), ("rows.jsonl", "data.datasets")])
def test_ranks_that_see_other_files_are_refused(job, tmp_path, what, key):
    root, recipe = job
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder in folders:
        folder.mkdir()
        (folder / "model").symlink_to(root / "model")
        (folder / "rows.jsonl").symlink_to(root / "rows.jsonl")
    (folders[1] / what).unlink()
    if what == "model":
        tiny_models.make("llama-mha", folders[1] / "model", SEED + 1)
    else:
        write_chats(folders[1] / "rows.jsonl", random.Random(SEED + 1), 60)
    port, same = free_port(), ["--set=model.base_model=model", "--set=data.datasets[0].path=rows.jsonl"]
    ranks = [by_hand(recipe, tmp_path / "run", rank, 2, port, *same, folder=folders[rank]) for rank in range(2)]
    told = "".join(rank.communicate(timeout=60)[1] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [3, 3], told
    assert f"rank 1 finds something else under {key} than rank 0" in told and len(complaints(told)) == 1, told


@pytest.mark.parametrize(
    "variables, says",
    [({"RANK": "x"}, "RANK is \"x\", not a number"), ({"RANK": "5", "WORLD_SIZE": "2"}, "rank 5 of 2"),
     ({"WORLD_SIZE": "2"}, "RANK is not")],
)  # fmt: skip
def test_variables_that_make_no_sense_are_refused(job, tmp_path, variables, says):
    root, recipe = job
    done = tune("run", "--recipe", recipe, "--set", f"output_dir={tmp_path}", expect=2, **variables)
    assert says in done.stderr, done.stderr


@pytest.mark.parametrize(
    "options, says",
    [(["--nproc=0"], "--nproc is 0"), (["--nproc=9"], "a step has 4 rows"), (["--nnodes=2"], "several hosts have to meet"),
     (["--nproc=2", "--nnodes=2", "--node-rank=2"], "--node-rank 2 of --nnodes 2")],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(job, tmp_path, options, says):
    root, recipe = job
    done = tune("run", "--recipe", recipe, "--set", f"output_dir={tmp_path}", *options, expect=2)
    assert says in done.stderr, done.stderr
    assert len(complaints(done.stderr)) == 1, done.stderr
    shutil.rmtree(tmp_path)
