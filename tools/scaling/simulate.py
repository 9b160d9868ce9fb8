#!/usr/bin/env python3
"""What to expect of 8 to thousands of GPUs, on paper: docs/scaling.md says how it is computed and what is left out.

  tools/scaling/simulate.py --model llama-2-70b --strategy shard --gpus 8,64,512,4096 --tokens-per-gpu 8192
  tools/scaling/simulate.py --model all --strategy all --mode full --markdown
  tools/scaling/simulate.py --check measured.json
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

from expectation import Batch, Result, quickest, smallest_that_fits
from measured import MeasurementError, check
from network import H100, H200, Hardware, gloo
from shapes import SHAPES, Method, Shape, find_shape
from timeline import STRATEGIES, Job, Options

HARDWARE = {"h100": H100, "h200": H200}
GIB = 2.0**30


def number(kind: Callable[[str], float], least: float, below: bool = False) -> Callable[[str], float]:
    """For argparse: a number of at least, or above, `least`."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = -1
        if not value >= least or (below and value == least):
            raise argparse.ArgumentTypeError(f"{text!r} is no number {'above' if below else 'of at least'} {least}")
        return value

    return read


def gpu_list(text: str) -> list[int]:
    return [int(number(int, 1)(part)) for part in text.split(",")]


def read_arguments(arguments: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, count, rate = parser.add_argument, number(int, 1), number(float, 0, below=True)
    add("--model", default="all", help=f"some of {', '.join(shape.name for shape in SHAPES)}; default: all")
    add("--strategy", default="all", choices=[*STRATEGIES, "all"])
    add("--mode", default="lora", choices=["lora", "full"])
    add("--lora-r", type=count, default=16, help="rank, on all linear layers")
    add("--gpus", type=gpu_list, default=[8, 64, 512, 4096], help="such as 8,64,512,4096")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tokens-per-gpu", type=count, help="of a step (weak scaling; default 8192)")
    size.add_argument("--global-tokens", type=count, help="of a step, of all GPUs together (strong scaling)")
    add("--sequence", type=count, default=2048, help="tokens of a document")
    add("--micro-tokens", type=count, default=16384, help="the largest micro-batch; smaller where memory asks for it")
    add("--recompute", default="auto", choices=["auto", "yes", "no"], help="auto: whichever fits and is quicker")
    add("--hardware", default="h100", choices=[*HARDWARE, "gloo"], help="gloo: with the three options below")
    add("--flops", type=rate, help="operations a second that products reach")
    add("--bandwidth", type=rate, help="bytes a second of a ring (inside a node)")
    add("--latency", type=rate, help="seconds of a ring's step; gloo only")
    add("--shard-gpus", type=count, default=0, help="hybrid: GPUs that share one copy (default: a node)")
    add("--keep", action="store_true", help="keep what is gathered until the end of the step (ZeRO-2)")
    add("--prefetch", type=number(int, 0), default=1, help="layers gathered ahead")
    add("--no-overlap", action="store_true", help="computing and sending take turns")
    add("--hierarchical", action="store_true", help="gathers may go rail by rail, then over NVLink")
    add("--bucket-mib", type=rate, default=25.0, help="of small gradients")
    add("--gradient-bytes", type=rate, default=4.0, help="of a number, in memory and on the wire")
    add("--weight-bytes", type=rate, default=2.0, help="of a weight of a layer: 1 for fp8, 0.52 for NF4")
    add("--noise", type=number(float, 0), default=0.0, help="spread of the GPUs' speeds, such as 0.02")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="a row a model: efficiency and tokens a second and GPU")
    add("--check", type=Path, metavar="MEASURED.json", help="predict what was measured and compare")
    return parser, parser.parse_args(arguments)


def hardware_of(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Hardware:
    if given.hardware == "gloo":
        if None in (given.flops, given.bandwidth, given.latency):
            parser.error("--hardware gloo needs --flops, --bandwidth, --latency (tune doctor --distributed)")
        return gloo(given.flops, given.bandwidth, given.latency)
    if given.latency is not None:
        parser.error("--latency belongs to --hardware gloo; NCCL's own constants are used otherwise")
    preset = HARDWARE[given.hardware]
    return dataclasses.replace(
        preset,
        flops=given.flops or preset.flops,
        link=given.bandwidth or preset.link,
        hierarchical=given.hierarchical,
    )


def shapes_of(parser: argparse.ArgumentParser, names: str) -> list[Shape]:
    if names == "all":
        return SHAPES
    shapes = []
    for name in names.split(","):
        shape = find_shape(name)
        if shape is None:
            parser.error(f"no model is known as {name!r}; they are {', '.join(each.name for each in SHAPES)}")
        shapes.append(shape)
    return shapes


def batch_of(given: argparse.Namespace, gpus: int) -> Batch:
    largest = max(1, given.micro_tokens // given.sequence)
    if given.global_tokens:
        rows = given.global_tokens // given.sequence
        return Batch(rows, rows, largest)
    own = (given.tokens_per_gpu or 8192) // given.sequence
    return Batch(own * gpus, own, largest)


def check_sizes(parser: argparse.ArgumentParser, given: argparse.Namespace, hardware: Hardware) -> None:
    tokens = given.global_tokens or given.tokens_per_gpu or 8192
    if tokens < given.sequence:
        parser.error(f"{tokens} tokens are less than one document of {given.sequence} (--sequence)")
    for gpus in given.gpus:
        if gpus > hardware.node and gpus % hardware.node:
            parser.error(f"--gpus {gpus}: more than one node takes a multiple of {hardware.node}")
        group = given.shard_gpus
        if group and (given.strategy == "ddp" or group % hardware.node or (gpus > group and gpus % group)):
            parser.error(f"--shard-gpus {group}: for hybrid, a multiple of {hardware.node} that divides --gpus {gpus}")


def cell(result: Result) -> str:
    return f"{result.efficiency:.0%}, {result.tokens_per_second:,.0f}" if result.fits else "does not fit"


def print_markdown(rows: list[tuple[Shape, int | None, list[Result]]], gpus: list[int]) -> None:
    print("| model | fits from | " + " | ".join(f"{n:,} GPUs" for n in gpus) + " |")
    print("|---|---|" + "---|" * len(gpus))
    for shape, smallest, results in rows:
        print(f"| {shape.name} | {smallest or '—'} | " + " | ".join(cell(result) for result in results) + " |")


def print_table(shape: Shape, strategy: str, mode: str, smallest: int | None, results: list[Result]) -> None:
    fits = f"fits from {smallest} GPU{'s' if smallest != 1 else ''}" if smallest else "fits on no number of GPUs"
    print(f"{shape.name}, {mode}, {strategy}: {fits}")
    heads = ["GPUs", "tokens", "micro", "recomp.", "step s", "exposed s", "tok/s/GPU", "effic.", "MFU"]
    print("".join(f"{head:>10}" for head in [*heads, "wire GB", "network", "GiB"]))
    for r in results:
        numbers = [f"{r.gpus}", f"{r.tokens}", f"{r.micro_tokens}", "yes" if r.recompute else "no"]
        numbers += [f"{r.step_seconds:.3f}", f"{r.exposed_seconds:.3f}", f"{r.tokens_per_second:.0f}"]
        numbers += [f"{r.efficiency:.1%}", f"{r.mfu:.1%}", f"{r.wire_bytes / 1e9:.2f}", f"{r.network_bytes / 1e9:.2f}"]
        print("".join(f"{text:>10}" for text in [*numbers, f"{r.memory_bytes / GIB:.1f}"]) + f"  {r.advice}")
    print()


def main(arguments: list[str] | None = None) -> int:
    parser, given = read_arguments(arguments)
    if given.check:
        try:
            return check(given.check)
        except MeasurementError as error:
            parser.error(str(error))
    hardware = hardware_of(parser, given)
    check_sizes(parser, given, hardware)
    rank = given.lora_r if given.mode == "lora" else 0
    method = Method(rank, given.sequence, given.weight_bytes, given.gradient_bytes)
    recompute = {"auto": None, "yes": True, "no": False}[given.recompute]
    said = []
    for strategy in STRATEGIES if given.strategy == "all" else [given.strategy]:
        rows = []
        for shape in shapes_of(parser, given.model):
            job, results = Job(shape, method, hardware), []
            for gpus in given.gpus:
                options = Options(
                    strategy, gpus, given.shard_gpus, given.keep, given.prefetch, not given.no_overlap,
                    given.bucket_mib * (1 << 20), given.noise,
                )  # fmt: skip
                results.append(quickest(job, options, batch_of(given, gpus), recompute))
            rows.append((shape, smallest_that_fits(job, options), results))
            head = {"model": shape.name, "strategy": strategy, "mode": given.mode}
            said += [head | dataclasses.asdict(result) for result in results]
            if not given.json and not given.markdown:
                print_table(shape, strategy, given.mode, rows[-1][1], results)
        if given.markdown:
            print(f"\n{strategy}, {given.mode}\n")
            print_markdown(rows, given.gpus)
    if given.json:
        print(json.dumps(said, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
