"""Predicts runs that were measured on Gloo ranks and prints both: docs/scaling.md, "Against measurements"."""

import json
import math
from pathlib import Path
from typing import Any

from network import gloo
from shapes import Method, Shape, find_shape, model_flops
from timeline import STRATEGIES, Job, Options, step

SHAPE_KEYS = {
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "inner",
    "vocab_size": "vocabulary",
    "num_local_experts": "experts",
    "num_experts_per_tok": "active_experts",
}
# name: whether it has to be there
FIELDS = {
    "name": False,
    "model": True,
    "strategy": True,
    "mode": True,
    "ranks": True,
    "tokens_per_rank": True,
    "sequence": True,
    "micro_batches": False,
    "lora_r": False,
    "weight_bytes": False,
    "gradient_bytes": False,
    "recompute": False,
    "alone_tokens_per_second": False,
    "compute_seconds": False,
    "bandwidth_bytes_per_second": True,
    "latency_seconds": True,
    "wire_bytes": True,
    "step_seconds": True,
}
WHOLE = ("ranks", "tokens_per_rank", "sequence", "micro_batches", "lora_r")
POSITIVE = ("ranks", "tokens_per_rank", "sequence", "micro_batches", "bandwidth_bytes_per_second", "step_seconds")


class MeasurementError(Exception):
    """The file says something that can't be, or not enough."""


def read_shape(model: Any, where: str) -> Shape:
    if isinstance(model, str):
        shape = find_shape(model)
        if shape is None:
            raise MeasurementError(f"{where}: no model is known as {model!r}; give its config.json's sizes instead")
        return shape
    if not isinstance(model, dict):
        raise MeasurementError(f"{where}: model is a name or a config.json's sizes")
    sizes = {ours: model[theirs] for theirs, ours in SHAPE_KEYS.items() if theirs in model}
    if wrong := [f"{key} is {size!r}" for key, size in sizes.items() if type(size) is not int or size < 0]:
        raise MeasurementError(f"{where}: {', '.join(wrong)}, no whole number")
    missing = [theirs for theirs, ours in SHAPE_KEYS.items() if ours not in sizes and "expert" not in ours]
    if missing:
        raise MeasurementError(f"{where}: model lacks {', '.join(missing)}")
    if 0 in (sizes["heads"], sizes["hidden"]) or sizes["hidden"] % sizes["heads"]:
        raise MeasurementError(f"{where}: hidden_size is no multiple of num_attention_heads")
    if model.get("tie_word_embeddings"):
        raise MeasurementError(f"{where}: models with tied embeddings are not modelled")
    return Shape("measured", **sizes)


def read_case(case: Any, where: str) -> dict[str, Any]:
    if not isinstance(case, dict):
        raise MeasurementError(f"{where} is no object")
    if unknown := [key for key in case if key not in FIELDS]:
        raise MeasurementError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(FIELDS)}")
    if missing := [key for key, needed in FIELDS.items() if needed and key not in case]:
        raise MeasurementError(f"{where} lacks {', '.join(missing)}")
    if "compute_seconds" not in case and "alone_tokens_per_second" not in case:
        raise MeasurementError(f"{where} needs compute_seconds or alone_tokens_per_second")
    numbers = [key for key in case if key not in ("name", "model", "strategy", "mode", "recompute")]
    for key in numbers:
        value, least = case[key], "above" if key in POSITIVE else "of at least"
        good = type(value) in ((int,) if key in WHOLE else (int, float)) and math.isfinite(value)
        if not good or value < 0 or (key in POSITIVE and value == 0):
            kind = "whole number" if key in WHOLE else "number"
            raise MeasurementError(f"{where}: {key} is {value!r}, no {kind} {least} 0")
    for key, known in (("strategy", STRATEGIES), ("mode", ("lora", "full"))):
        if case[key] not in known:
            raise MeasurementError(f"{where}: {key} is {case[key]!r}; it is one of {', '.join(known)}")
    return case


def read(path: Path) -> list[dict[str, Any]]:
    """A list of cases, or one."""
    try:
        cases = json.loads(path.read_text())
    except OSError as error:
        raise MeasurementError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise MeasurementError(f"{path} is no JSON: {error}") from error
    cases = cases if isinstance(cases, list) else [cases]
    if not cases:
        raise MeasurementError(f"{path} holds no case")
    return [read_case(case, f"{path}: case {index}") for index, case in enumerate(cases, 1)]


def predict(case: dict[str, Any], where: str = "case") -> dict[str, float]:
    """Seconds of a step, with everything overlapped that can be and with nothing; bytes that a rank sends."""
    ranks, tokens = case["ranks"], case["tokens_per_rank"]
    compute = case.get("compute_seconds", tokens / case.get("alone_tokens_per_second", math.inf))
    if compute <= 0:
        raise MeasurementError(f"{where}: compute_seconds is {compute}, no number above 0")
    lora_rank = case.get("lora_r", 16) if case["mode"] == "lora" else 0
    method = Method(lora_rank, case["sequence"], case.get("weight_bytes", 4), case.get("gradient_bytes", 4))
    shape, recompute = read_shape(case["model"], where), bool(case.get("recompute", False))
    micro_batches = case.get("micro_batches", 1)
    # The self-test's smallest sum is all latency: 2 (n - 1) steps of a ring.
    latency = case["latency_seconds"] / (2 * (ranks - 1)) if ranks > 1 else 0.0

    def run(flops: float, overlap: bool, count: int) -> Any:
        job = Job(shape, method, gloo(flops, case["bandwidth_bytes_per_second"], latency))
        options = Options(case["strategy"], count, overlap=overlap)
        return step(job, options, round(tokens / micro_batches), micro_batches, recompute)

    # Operations a second follow from the seconds that all of them took.
    rough = model_flops(shape, method) * tokens / compute
    flops = rough * run(rough, True, 1).seconds / compute
    overlapped, serial = run(flops, True, ranks), run(flops, False, ranks)
    seconds = {"overlapped": overlapped.seconds, "serial": serial.seconds, "compute": compute}
    return seconds | {"wire": overlapped.cost.wire}


SECONDS = ("compute s", "measured s", "overlapped", "ratio", "in turns", "ratio")
COLUMNS = ("ranks", *SECONDS, "sent MB", "predicted", "ratio")


def check(path: Path) -> int:
    print(f"{'':<28}" + "".join(f"{column:>11}" for column in COLUMNS))
    for index, case in enumerate(read(path), 1):
        said = predict(case, f"{path}: case {index}")
        measured, wire = case["step_seconds"], case["wire_bytes"]
        seconds = [f"{said['compute']:.3f}", f"{measured:.3f}"]
        for kind in ("overlapped", "serial"):
            seconds += [f"{said[kind]:.3f}", f"{measured / said[kind]:.2f}"]
        ratio = f"{wire / said['wire']:.3f}" if said["wire"] else "-"
        numbers = [f"{case['ranks']}", *seconds, f"{wire / 1e6:.2f}", f"{said['wire'] / 1e6:.2f}", ratio]
        name = case.get("name", f"{case['strategy']}, {case['mode']}")
        print(f"{name:<28}" + "".join(f"{number:>11}" for number in numbers))
    print("\nratio: measured over predicted. overlapped: sent while computing, as far as that goes; in turns: never.")
    return 0
