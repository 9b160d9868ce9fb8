"""The simulator of docs/scaling.md against closed forms, published sizes, `tune models` and its own command line."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "scaling" / "simulate.py"
sys.path.insert(0, str(SCRIPT.parent))

import simulate  # noqa: E402
from expectation import Batch, evaluate, gathered_bytes, quickest, sharding  # noqa: E402
from measured import predict  # noqa: E402
from network import H100, H200, NCCL, Cost, Group, Hardware, all_reduce, gather, gloo  # noqa: E402
from shapes import SHAPES, Method, Sharding, find_shape, memory_bytes, model_flops  # noqa: E402
from shapes import trained_parameters, units  # noqa: E402
from timeline import Job, Options, Task, buckets, play, slowest, step  # noqa: E402

LORA, FULL = Method(), Method(lora_rank=0)
FREE = dataclasses.replace(
    H100, link=math.inf, nic=math.inf, protocols=(dataclasses.replace(NCCL[0], start=0, ring=(0, 0), tree=(0, 0)),)
)
SLOW = gloo(flops=1e12, bandwidth=1e9, latency=0)


def job(name: str, method: Method = LORA, hardware: Hardware = H100) -> Job:
    return Job(find_shape(name), method, hardware)


# --- sizes ---


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama-2-7b", 6.738), ("llama-2-13b", 13.016), ("llama-2-70b", 68.977), ("mixtral-8x7b", 46.703),
     ("solar-10.7b", 10.732), ("zephyr-7b", 7.242), ("code-llama-34b", 33.744)],
)  # fmt: skip
def test_parameters_are_the_published_ones(name, billions):
    assert round(find_shape(name).parameters() / 1e9, 3) == billions


def test_lora_trains_what_peft_says():
    # rank 16 on all linear layers of Llama 2 7B: 16 x (4 x (4096 + 4096) + 3 x (4096 + 11008)) x 32
    assert trained_parameters(find_shape("llama-2-7b"), LORA) == 39_976_960


def test_flops_are_six_and_four_a_weight():
    shape = find_shape("llama-2-7b")
    weights = shape.layers * sum(each.size for each in shape.linears()) + shape.table_parameters()
    attention = 3 * 2 * 2048 * shape.hidden * shape.layers
    assert model_flops(shape, FULL) == 6 * weights + attention
    assert model_flops(shape, LORA) == 4 * weights + 6 * trained_parameters(shape, LORA) + attention


def test_shapes_and_memory_are_those_of_tune_models():
    binary = Path(os.environ.get("TUNE_BINARY", ROOT / "build" / "tune"))
    if not binary.exists():
        pytest.skip("needs the program: TUNE_BINARY")
    said = json.loads(subprocess.run([binary, "models", "--json"], capture_output=True, check=True).stdout)
    known = {model["name"]: model for model in said}
    for shape in SHAPES:
        assert shape.parameters() == known[shape.name]["parameters"], shape.name
        for method, key in ((LORA, "lora"), (FULL, "full")):
            ours = memory_bytes(shape, method, 2048, recompute=True)
            assert ours == pytest.approx(known[shape.name]["memory_bytes"][key], rel=1e-3), (shape.name, key)


# --- collectives ---


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_ring_sends_and_takes_what_its_closed_form_says(ranks):
    wires, group, size = gloo(1e12, bandwidth=2e9, latency=1e-5), Group(1, ranks), 3e8
    summed, gathered = all_reduce(wires, group, size), gather(wires, group, size)
    assert summed.wire == pytest.approx(2 * (ranks - 1) / ranks * size)
    assert gathered.wire == pytest.approx((ranks - 1) / ranks * size)
    assert summed.seconds == pytest.approx(2 * (ranks - 1) * 1e-5 + summed.wire / 2e9)
    assert gathered.seconds == pytest.approx((ranks - 1) * 1e-5 + gathered.wire / 2e9)


def test_nodes_share_their_cards_and_a_ring_is_as_fast_as_its_slowest_link():
    large = 1e12  # so that nothing but bandwidth counts
    flat, rail = all_reduce(H100, Group(512, 8), large), all_reduce(H100, Group(512, 1), large)
    assert flat.seconds == pytest.approx(2 * large / 370e9, rel=0.01)
    assert rail.seconds == pytest.approx(2 * large / 47e9, rel=0.01)
    assert flat.network == pytest.approx(flat.wire / 8)
    assert all_reduce(H100, Group(1, 8), large).network == 0


def test_a_ring_starts_in_linear_a_tree_and_rails_in_logarithmic_time():
    small, group = 1e3, Group(512, 8)
    assert gather(H100, group, small).seconds > 3e-3
    assert all_reduce(H100, group, small).seconds < 2e-4
    rails = dataclasses.replace(H100, hierarchical=True)
    assert gather(rails, group, small).seconds < 2e-4


def test_one_rank_sends_nothing():
    assert all_reduce(H100, Group(1, 1), 1e9) == gather(H100, Group(1, 1), 1e9) == Cost()


# --- a step ---


def test_sending_hides_behind_computing_until_there_is_none_left():
    tasks = [Task(1.0, sends=[[("sum", Cost(0.6))]]), Task(1.0, sends=[[("sum", Cost(0.6))]])]
    assert play(tasks).seconds == pytest.approx(2.6)
    assert play(tasks, overlap=False).seconds == pytest.approx(3.2)


def test_a_gather_waits_for_its_place_and_is_waited_for():
    tasks = [Task(1.0, gather=Cost(0.4)) for _ in range(3)]
    assert play(tasks, prefetch=1).seconds == pytest.approx(3.4)
    assert play(tasks, prefetch=0).seconds == pytest.approx(4.2)
    assert play([Task(1.0, gather=Cost(2.0)) for _ in range(3)], prefetch=1).seconds == pytest.approx(7.0)


@pytest.mark.parametrize("strategy", ["ddp", "shard", "hybrid"])
@pytest.mark.parametrize("method", [LORA, FULL])
def test_without_overlap_a_step_is_computing_plus_sending(strategy, method):
    taken = step(job("zephyr-7b", method), Options(strategy, 64, overlap=False), 8192, 2, recompute=False)
    assert taken.seconds == pytest.approx(taken.compute + taken.cost.seconds)
    assert step(job("zephyr-7b", method), Options(strategy, 64), 8192, 2, recompute=False).seconds < taken.seconds


@pytest.mark.parametrize("method", [LORA, FULL])
@pytest.mark.parametrize("strategy", ["ddp", "shard", "hybrid"])
def test_free_communication_gives_an_efficiency_of_one(strategy, method):
    result = evaluate(job("llama-2-7b", method, FREE), Options(strategy, 512), Batch(4 * 512, 4, 8), 8, recompute=False)
    assert result.efficiency == pytest.approx(1.0)
    assert result.exposed_seconds == pytest.approx(0.0, abs=1e-12)


def test_what_a_strategy_sends():
    shape, n, head = find_shape("llama-2-7b"), 64, 2 * 32000 * 4096
    scalars = 2 * 2 * (n - 1) / n * 8

    def sent(method, options):
        return step(job("llama-2-7b", method), options, 2048, 1, recompute=False).cost

    trained = trained_parameters(shape, LORA)
    ring = 2 * (n - 1) / n * 4
    assert sent(LORA, Options("ddp", n)).wire == pytest.approx(ring * trained + scalars)
    assert sent(FULL, Options("ddp", n)).wire == pytest.approx(ring * shape.parameters() + scalars)
    layers = 2 * shape.layers * shape.layer_parameters()
    last = 2 * shape.layer_parameters()
    twice, once = 2 * layers - last + 2 * head, layers + 2 * head  # both tables and the last layer are gathered once
    part = (n - 1) / n
    assert sent(LORA, Options("shard", n)).wire == pytest.approx(part * twice + ring * trained + scalars)
    assert sent(FULL, Options("shard", n)).wire == pytest.approx(part * (twice + 4 * shape.parameters()) + scalars)
    kept = sent(FULL, Options("shard", n, keep=True)).wire
    assert kept == pytest.approx(part * (once + 4 * shape.parameters()) + scalars)
    hybrid = sent(FULL, Options("hybrid", n))
    between = 2 * 7 / 8 * 4 * shape.parameters() / 8
    assert hybrid.wire == pytest.approx(7 / 8 * (twice + 4 * shape.parameters()) + between + scalars)
    assert hybrid.network == pytest.approx(between + scalars / 8)


def test_gradients_are_sent_once_a_step_however_many_micro_batches():
    one, four = (step(job("llama-2-7b"), Options("ddp", 8), 2048, n, recompute=False).cost.wire for n in (1, 4))
    assert one == four


def test_buckets_are_those_of_gradient_sum():
    large, small = float(2 << 20), float(1 << 19)
    # five small ones make 2.5 MiB, which the limit of 1 MiB cuts after each two; the large one sends what is held
    assert buckets([(small,) * 5, (large,), (small,)], 1 << 20) == [[2 * small] * 2, [small, large], [small]]


def test_the_slowest_of_many_decides():
    assert slowest(0.0, 4096) == slowest(0.05, 1) == 1.0
    assert 1.1 < slowest(0.05, 64) < slowest(0.05, 4096) < 1.25


# --- memory ---


def test_sharded_state_is_inversely_proportional_to_the_gpus():
    shape = find_shape("llama-2-70b")

    def held(shards):
        return memory_bytes(shape, FULL, 2048, True, Sharding(4096, shards)) - memory_bytes(
            shape, FULL, 2048, True, Sharding(4096, 1 << 60)
        )

    assert held(1 << 3) == pytest.approx(8 * held(1 << 6), rel=1e-6)
    assert held(64) == pytest.approx(shape.parameters() * 18 / 64, rel=1e-6)  # weight, master, gradient, two moments


def test_hybrid_holds_more_than_shard_and_less_than_ddp():
    for method in (LORA, FULL):
        each = {
            strategy: memory_bytes(find_shape("llama-2-13b"), method, 2048, True,
                                   sharding(job("llama-2-13b", method), Options(strategy, 512)))
            for strategy in ("ddp", "hybrid", "shard")
        }  # fmt: skip
        assert each["shard"] < each["hybrid"] < each["ddp"]


def test_keeping_what_is_gathered_takes_the_whole_of_the_weights():
    weights = sum(unit.weight_bytes for unit in units(find_shape("llama-2-7b"), LORA))
    assert gathered_bytes(job("llama-2-7b"), Options("shard", 64, keep=True)) == weights
    assert gathered_bytes(job("llama-2-7b"), Options("shard", 64)) < weights / 8


# --- what is said ---


def test_speed_and_memory_measured_on_one_h200():
    """docs/performance.md: 17,600 tokens a second in 60.1 GiB, recomputed 12,110 in 16.5 GiB."""
    alone = Options("ddp", 1)
    kept = evaluate(job("llama-2-7b", LORA, H200), alone, Batch(8, 8, 8), 8, recompute=False)
    again = evaluate(job("llama-2-7b", LORA, H200), alone, Batch(4, 4, 4), 4, recompute=True)
    assert kept.tokens_per_second == pytest.approx(17_600, rel=0.03)
    assert again.tokens_per_second == pytest.approx(12_110, rel=0.03)
    assert kept.memory_bytes == pytest.approx(60.1 * 2**30, rel=0.05)
    assert again.memory_bytes == pytest.approx(16.5 * 2**30, rel=0.08)


def test_advice_names_what_stands_in_the_way():
    def advice(name, method, strategy, gpus, rows, hardware=H100):
        return quickest(job(name, method, hardware), Options(strategy, gpus), Batch(rows, rows, 8)).advice

    assert "shard" in advice("llama-2-70b", LORA, "ddp", 64, 256)
    assert "larger groups" in advice("llama-2-70b", FULL, "hybrid", 64, 256)
    assert "tensor or context parallelism" in advice("llama-2-7b", LORA, "ddp", 512, 256)
    assert advice("llama-2-7b", LORA, "ddp", 64, 512) == "scales"
    assert "ring of 4096" in advice("llama-2-7b", FULL, "shard", 4096, 4 * 4096)
    noisy = Options("ddp", 4096, noise=0.05)
    assert "slowest" in quickest(job("llama-2-7b"), noisy, Batch(4 * 4096, 4, 8)).advice
    assert "expert parallelism" in advice("mixtral-8x7b", FULL, "shard", 64, 64)


def test_quickest_takes_smaller_micro_batches_where_memory_asks_for_it():
    result = quickest(job("llama-2-70b"), Options("shard", 8), Batch(64, 8, 8))
    assert result.fits and result.micro_tokens < 8 * 2048


# --- against measurements, and the command line ---

CASE = {
    "model": "llama-2-7b", "strategy": "ddp", "mode": "full", "ranks": 2, "tokens_per_rank": 2048, "sequence": 512,
    "compute_seconds": 10.0, "bandwidth_bytes_per_second": 1e9, "latency_seconds": 0.0, "wire_bytes": 26.954e9,
    "step_seconds": 36.0,
}  # fmt: skip


def test_a_measured_case_is_predicted_between_its_bounds():
    said = predict(CASE)
    assert said["wire"] == pytest.approx(4 * 6738415616, rel=1e-6)  # 2 (n-1)/n x 4 bytes
    assert said["serial"] == pytest.approx(10 + 26.954, rel=1e-3)
    assert 26.954 < said["overlapped"] < said["serial"]
    assert predict({**CASE, "ranks": 1})["overlapped"] == pytest.approx(10.0)


@pytest.fixture
def run(capsys):
    """Within this process, which is quicker than a new one: exit code, what is printed, what is complained of."""

    def call(*arguments):
        try:
            code = simulate.main([*map(str, arguments)])
        except SystemExit as exit_:
            code = exit_.code
        return code, *capsys.readouterr()

    return call


def test_the_program_runs_by_itself():
    arguments = ["--model", "llama-2-70b", "--strategy", "shard", "--gpus", "8,4096", "--tokens-per-gpu", "8192"]
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("llama2-70b, lora, shard: fits from 2 GPUs")


def test_json_markdown_and_check_print_what_they_should(run, tmp_path):
    code, out, _ = run("--model", "mixtral-8x7b", "--global-tokens", 1 << 20, "--gpus", "8,64", "--json")
    assert code == 0 and [each["gpus"] for each in json.loads(out)] == [8, 64] * 3
    code, out, _ = run("--model", "llama-2-7b", "--strategy", "ddp", "--mode", "full", "--gpus", "8", "--markdown")
    assert code == 0 and "| llama2-7b | — | does not fit |" in out
    file = tmp_path / "measured.json"
    file.write_text(json.dumps([CASE]))
    code, out, _ = run("--check", file)
    assert code == 0 and "ddp, full" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--model", "llama-3-8b"], "no model is known as 'llama-3-8b'"),
     (["--gpus", "12"], "takes a multiple of 8"),
     (["--gpus", "8,x"], "'x' is no number"),
     (["--tokens-per-gpu", "100"], "less than one document of 2048"),
     (["--hardware", "gloo"], "needs --flops, --bandwidth, --latency"),
     (["--latency", "1e-5"], "belongs to --hardware gloo"),
     (["--strategy", "hybrid", "--gpus", "96", "--shard-gpus", "64"], "that divides --gpus 96"),
     (["--noise", "nan"], "'nan' is no number"),
     (["--check", "/nowhere.json"], "No such file"),
     (["--json", "--markdown"], "not allowed with")],
)  # fmt: skip
def test_wrong_arguments_end_with_two_and_say_why(run, arguments, complaint):
    code, _, said = run(*arguments)
    assert code == 2
    assert complaint in said


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"ranks": 0}, "ranks is 0, no whole number above 0"),
     ({"ranks": 2.5}, "ranks is 2.5"),
     ({"bandwith": 1}, "unknown bandwith"),
     ({"strategy": "zero"}, "strategy is 'zero'"),
     ({"step_seconds": "36"}, "step_seconds is '36'"),
     ({"model": {"hidden_size": 64}}, "model lacks num_hidden_layers")],
)  # fmt: skip
def test_a_wrong_measurement_ends_with_two_and_says_where(run, tmp_path, change, complaint):
    file = tmp_path / "measured.json"
    file.write_text(json.dumps([CASE, {**CASE, **change}]))
    code, _, said = run("--check", file)
    assert code == 2
    assert "case 2" in said and complaint in said
