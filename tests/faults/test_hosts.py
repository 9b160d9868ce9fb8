"""Ranks on several hosts: real TCP between network namespaces, with delay, loss and a link that goes down."""

import os
import random
import re
import shutil
import subprocess
import time

import pytest
import tiny_models
from conftest import SEED
from network import Network
from test_ranks import alive, complaints, heartbeat, wait_for_step
from tune_program import BINARY, recipe_for, relative, steps, tune, write_chats, write_recipe

TIMEOUT, STEPS = 6, 12

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="hosts need root and iproute2")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("hosts")
    rng = random.Random(SEED)
    model = tiny_models.make("llama-mha", root / "model", SEED)
    rows, evaluation = write_chats(root / "rows.jsonl", rng, 60), write_chats(root / "eval.jsonl", rng, 6)
    recipe = recipe_for(
        model, rows, root / "unset", evaluation, save={"save_steps": 4}, distributed={"timeout_seconds": TIMEOUT},
        train={"max_steps": STEPS, "global_batch_size": 6, "per_device_train_batch_size": 1},
    )  # fmt: skip
    recipe = write_recipe(root / "recipe.yaml", recipe)
    tune("run", "--recipe", recipe, "--set", f"output_dir={root / 'alone'}")
    return recipe, root / "alone"


def start(network, recipe, output, *more, ranks=1):
    def one(i):
        arguments = [BINARY, "run", "--recipe", recipe, "--set", f"output_dir={output}", f"--nproc={ranks}",
                     f"--nnodes={len(network.hosts)}", f"--node-rank={i}", "--master-addr=10.77.0.1", "--master-port=29511", *more]
        return subprocess.Popen(network.command(i, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    return [one(i) for i in range(len(network.hosts))]


def finish(jobs, timeout=180):
    told = [job.communicate(timeout=timeout)[1] for job in jobs]
    return [job.returncode for job in jobs], told


def same_curve(output, alone):
    mine, theirs = steps(output), steps(alone)
    assert len(mine) == len(theirs) == STEPS
    assert max(relative(a["loss"], b["loss"]) for a, b in zip(mine, theirs)) < 1e-5


def test_two_hosts_of_two_ranks(job, tmp_path):
    recipe, alone = job
    with Network(2) as network:
        codes, told = finish(start(network, recipe, tmp_path, ranks=2))
    assert codes == [0, 0], told
    assert "4 ranks on 2 hosts" in told[0] and "Written" in told[0]
    assert "Written" not in told[1]
    assert network.sent > 100
    same_curve(tmp_path, alone)


def test_three_hosts_with_delay_and_loss(job, tmp_path):
    recipe, alone = job
    with Network(3, delay=0.002, loss=0.01, seed=SEED) as network:
        codes, told = finish(start(network, recipe, tmp_path))
    assert codes == [0, 0, 0], told
    assert network.lost > 0
    same_curve(tmp_path, alone)


def test_a_link_that_comes_back_is_survived(job, tmp_path):
    recipe, alone = job
    with Network(3) as network:
        jobs = start(network, recipe, tmp_path)
        wait_for_step(jobs[0], tmp_path, 4)
        network.down = {2}
        time.sleep(TIMEOUT / 3)
        network.down = set()
        codes, told = finish(jobs)
    assert codes == [0, 0, 0], told
    same_curve(tmp_path, alone)


def test_a_link_that_stays_down_ends_the_run_and_the_next_one_goes_on(job, tmp_path):
    recipe, alone = job
    with Network(3) as network:
        jobs = start(network, recipe, tmp_path)
        wait_for_step(jobs[0], tmp_path, 6)
        pids = [heartbeat(tmp_path, rank)["pid"] for rank in range(3)]
        network.down = {1}
        begin = time.monotonic()
        codes, told = finish(jobs)
        seconds = time.monotonic() - begin
    assert codes == [1, 1, 1] and seconds < TIMEOUT + 5, (codes, seconds, told)
    assert not any(map(alive, pids))
    assert sum(len(complaints(text)) for text in told) == 1, told
    assert re.search(r"rank \d of 3 \(host\d, pid \d+\): waited for more than 6 s .*, but nothing passes between them", "".join(told)), told
    with Network(3) as network:
        codes, told = finish(start(network, recipe, tmp_path))
    assert codes == [0, 0, 0] and "going on from" in told[0], told
    same_curve(tmp_path, alone)


def test_a_killed_rank_on_another_host_is_named(job, tmp_path):
    recipe, _ = job
    with Network(2) as network:
        jobs = start(network, recipe, tmp_path, "--set=train.max_steps=100000", ranks=2)
        wait_for_step(jobs[0], tmp_path, 5)
        pids = [heartbeat(tmp_path, rank)["pid"] for rank in range(4)]
        os.kill(pids[3], 9)
        begin = time.monotonic()
        codes, told = finish(jobs)
        seconds = time.monotonic() - begin
    assert codes == [1, 1] and seconds < 8, (codes, seconds, told)
    assert not any(map(alive, pids))
    assert rf"(host2, pid {pids[3]})" in "".join(told), told
