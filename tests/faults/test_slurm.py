"""`tune slurm` on a real Slurm: a job that is preempted or signalled goes on by itself and ends in the same bits."""

import random
import re
import shutil
import subprocess
import time

import pytest
import tiny_models
from cluster import Cluster, missing_programs
from conftest import SEED
from tune_program import recipe_for, steps, tune, write_chats, write_recipe

STEPS = 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    assert not missing_programs(), f"{missing_programs()}: apt install slurm-wlm munge, or run ./tools/test.sh, which does"
    with Cluster(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    model = tiny_models.make("llama-mha", root / "model", SEED)
    rows = write_chats(root / "rows.jsonl", random.Random(SEED), 60)
    sections = {"train": {"max_steps": STEPS, "global_batch_size": 4, "per_device_train_batch_size": 1}, "save": {"save_steps": 1000}}
    return write_recipe(root / "recipe.yaml", recipe_for(model, rows, root / "unset", **sections))


def submit(cluster, recipe, output, *more):
    """Two ranks, one core each, as `tune slurm` writes them."""
    script = output.with_suffix(".sbatch")
    tune("slurm", "--recipe", recipe, "--set", f"output_dir={output}", "--gpus-per-node=0", "--ntasks-per-node=2",
         "--cpus-per-task=1", "--time=10", "--signal-seconds=60", "--partition=normal", "--output", script, *more)  # fmt: skip
    return cluster.submit(script)


def log(output):
    return "".join(path.read_text() for path in output.glob("slurm-*.out"))


def being_requeued(cluster, job, state):
    """A job that requeues itself looks failed for a moment."""
    if state["JobState"] != "FAILED":
        return False
    time.sleep(2)
    return cluster.job(job)["JobState"] != "FAILED"


def wait_for(cluster, job, output, states, seconds=90):
    deadline = time.monotonic() + seconds
    while (state := cluster.job(job))["JobState"] not in states or being_requeued(cluster, job, state):
        assert time.monotonic() < deadline, f"{state}\n{log(output)}\n{cluster.logs()}"
        if state["JobState"] == "PENDING" and state.get("Restarts", "0") != "0":
            # Slurm lets a requeued job wait for two minutes: its last start must have ended everywhere by then
            time.sleep(4)
            cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
        time.sleep(0.2)
    return state


def wait_for_step(cluster, job, output, step):
    deadline = time.monotonic() + 60
    while not (output / "metrics.jsonl").exists() or len(steps(output)) < step:
        assert time.monotonic() < deadline, f"{cluster.job(job)}\n{log(output)}\n{cluster.logs()}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(cluster, recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    job = submit(cluster, recipe, output)
    state = wait_for(cluster, job, output, ("COMPLETED", "FAILED"))
    assert state["JobState"] == "COMPLETED", log(output)
    assert "2 ranks on 1 host, by Slurm's variables" in log(output)
    return (output / "final" / "adapter_model.safetensors").read_bytes()


def expect_whole(cluster, job, output, whole):
    state = wait_for(cluster, job, output, ("COMPLETED", "FAILED"))
    assert state["JobState"] == "COMPLETED" and state["Restarts"] == "1", f"{state}\n{log(output)}"
    assert log(output).count("stopped after step") == 1 and "going on from" in log(output), log(output)
    assert (output / "final" / "adapter_model.safetensors").read_bytes() == whole
    assert [line["step"] for line in steps(output)] == list(range(1, STEPS + 1))


def test_a_job_that_is_warned_goes_on_by_itself(cluster, recipe, whole, tmp_path):
    output = tmp_path / "run"
    job = submit(cluster, recipe, output)
    wait_for_step(cluster, job, output, 5)
    cluster.run("scancel", "--signal=USR1", job)  # what --signal=USR1@60 sends a minute before the end
    expect_whole(cluster, job, output, whole)


def test_a_preempted_job_goes_on_by_itself(cluster, recipe, whole, tmp_path):
    output = tmp_path / "run"
    job = submit(cluster, recipe, output)
    wait_for_step(cluster, job, output, 5)
    urgent = tmp_path / "urgent.sbatch"
    urgent.write_text("#!/bin/bash\n#SBATCH --partition=urgent\n#SBATCH --ntasks=2\n#SBATCH --output=/dev/null\nsleep 1\n")
    more_urgent = cluster.submit(urgent)
    wait_for(cluster, more_urgent, output, ("COMPLETED",))
    expect_whole(cluster, job, output, whole)


def test_a_failed_job_is_not_requeued(cluster, recipe, tmp_path):
    output = tmp_path / "run"
    job = submit(cluster, recipe, output, "--set", "data.datasets[0].path=/nowhere.jsonl")
    state = wait_for(cluster, job, output, ("COMPLETED", "FAILED"))
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "3:0", "0"), log(output)


def test_a_job_that_gets_nowhere_ends(cluster, recipe, tmp_path):
    """It is warned in each start before it has done a step: twice it is requeued, then it has failed."""
    output = tmp_path / "run"
    rows = write_chats(tmp_path / "eval.jsonl", random.Random(SEED), 12000)  # seconds of evaluation before the first step
    job = submit(cluster, recipe, output, "--set", f"data.eval_datasets[0].path={rows}", "--set", "data.eval_datasets[0].type=chat")
    for start in range(3):
        deadline = time.monotonic() + 90
        while log(output).count("2 ranks on 1 host") <= start:
            state = wait_for(cluster, job, output, ("RUNNING", "COMPLETING", "FAILED"))
            assert state["JobState"] != "FAILED" and time.monotonic() < deadline, log(output)
            time.sleep(0.01)
        cluster.run("scancel", "--signal=USR1", job)
        while cluster.job(job)["JobState"] == "RUNNING":
            assert time.monotonic() < deadline, log(output)
            time.sleep(0.1)
    state = wait_for(cluster, job, output, ("COMPLETED", "FAILED"))
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "1:0", "2"), f"{state}\n{log(output)}"
    assert "stopped at step 0 3 times in a row" in log(output)


def test_the_file_quotes_what_bash_would_read(recipe, tmp_path):
    awkward = shutil.copy(recipe, tmp_path / "it's a $HOME recipe.yaml")
    done = tune("slurm", "--recipe", awkward, "--set", "output_dir=" + str(tmp_path / "run"), "--set", "eval.sample_prompts=[\"it's `id`\"]")
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("srun ")]
    words = subprocess.run(["bash", "-c", "printf '%s\\n' " + line.removeprefix('srun --cpus-per-task="$SLURM_CPUS_PER_TASK" ').removesuffix(" &")], capture_output=True, text=True)
    assert str(awkward) in words.stdout.splitlines() and "eval.sample_prompts=[\"it's `id`\"]" in words.stdout.splitlines()
    for directive in ("nodes=1", "gpus-per-node=8", "ntasks-per-node=8", "signal=USR1@120", "requeue", "open-mode=append"):
        assert f"#SBATCH --{directive}\n" in done.stdout


@pytest.mark.parametrize(
    "options, says",
    [(["--nodes=0"], "--nodes is 0"), (["--time=1 day"], '--time is "1 day"'), (["--ntasks-per-node=2"], "one rank a GPU"),
     (["--gpus-per-node=-1"], "--gpus-per-node is -1"), (["--partition=a b"], '--partition is "a b"')],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(recipe, tmp_path, options, says):
    done = tune("slurm", "--recipe", recipe, "--set", f"output_dir={tmp_path / 'run'}", *options, expect=2)
    assert re.search(re.escape(says), done.stderr), done.stderr
