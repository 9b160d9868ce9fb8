"""Speed, efficiency and memory to expect of so many GPUs, and what stands in the way."""

from dataclasses import dataclass, replace

from network import bandwidth, gather
from shapes import Sharding, memory_bytes, model_flops, units
from timeline import Job, Options, groups, slowest, step, unit_seconds, update_seconds

GOOD = 0.9  # efficiency from which on nothing is advised


@dataclass(frozen=True)
class Batch:
    """In documents, which GPUs get whole. rows: of the whole step; alone: those of the GPU that efficiency is
    measured against; largest: of a micro-batch."""

    rows: int
    alone: int
    largest: int


@dataclass(frozen=True)
class Result:
    gpus: int
    tokens: int  # a GPU and step, of the one that has the most
    micro_tokens: int
    recompute: bool
    step_seconds: float
    exposed_seconds: float  # of them, in which nothing is computed
    efficiency: float  # speed of a GPU, beside one that has room for everything and nobody to talk to or wait for
    mfu: float
    tokens_per_second: float  # and GPU
    wire_bytes: float  # that a GPU sends in a step
    network_bytes: float  # of them, between nodes
    memory_bytes: float
    fits: bool
    gather_seconds: float  # of a layer's weights
    layer_seconds: float  # of its forward pass, which has to hide that
    advice: str = ""


def alone_speed(job: Job, options: Options, batch: Batch, recompute: bool) -> float:
    """Tokens a second of one GPU with as much memory as it takes. It updates as many parameters as the others do: that
    sharding spares updates is seen in MFU, and doesn't make up for what is lost to communication."""
    micro_batches = -(-batch.alone // batch.largest)
    tokens = batch.alone * job.method.sequence
    alone = Options("ddp", 1)
    seconds = step(job, alone, round(tokens / micro_batches), micro_batches, recompute).seconds
    return tokens / (seconds - update_seconds(job, alone) + update_seconds(job, options))


def sharding(job: Job, options: Options) -> Sharding:
    return Sharding(options.gpus, groups(job.hardware, options)[0].ranks, gathered_bytes(job, options))


def gathered_bytes(job: Job, options: Options) -> float:
    sharers, _ = groups(job.hardware, options)
    if sharers.ranks == 1:
        return 0.0
    parts = units(job.shape, job.method)
    weights = [part.weight_bytes for part in parts]
    gathered = sum(weights) if options.keep else (options.prefetch + 1) * max(weights)
    # a unit's gradients while it goes backward, and those that are being scattered
    return gathered + (2 * max(sum(part.gradients) for part in parts) if job.method.full else 0.0)


def evaluate(job: Job, options: Options, batch: Batch, micro_rows: int, recompute: bool) -> Result:
    sequence, own = job.method.sequence, -(-batch.rows // options.gpus)
    micro_rows = min(micro_rows, own)
    micro_batches = -(-own // micro_rows)
    done = step(job, options, round(own * sequence / micro_batches), micro_batches, recompute)
    sharers, _ = groups(job.hardware, options)
    memory = memory_bytes(job.shape, job.method, micro_rows * sequence, recompute, sharding(job, options))
    speed = batch.rows * sequence / done.seconds / options.gpus
    layer = units(job.shape, job.method)[1]
    return Result(
        gpus=options.gpus,
        tokens=own * sequence,
        micro_tokens=micro_rows * sequence,
        recompute=recompute,
        step_seconds=done.seconds,
        exposed_seconds=done.exposed,
        efficiency=speed / alone_speed(job, options, batch, recompute),
        mfu=speed * model_flops(job.shape, job.method) / job.hardware.peak_flops,
        tokens_per_second=speed,
        wire_bytes=done.cost.wire,
        network_bytes=done.cost.network,
        memory_bytes=memory,
        fits=memory <= job.hardware.memory,
        gather_seconds=gather(job.hardware, sharers, layer.weight_bytes).seconds,
        layer_seconds=unit_seconds(job.hardware, layer, micro_rows * sequence, recompute)[0],
    )


def quickest(job: Job, options: Options, batch: Batch, recompute: bool | None = None) -> Result:
    """Of all micro-batches and, unless it is given, with and without recomputation: the quickest that fits, else the
    smallest."""
    own = -(-batch.rows // options.gpus)
    sizes = [min(batch.largest, own)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    ways = (False, True) if recompute is None else (recompute,)
    results = [evaluate(job, options, batch, size, way) for way in ways for size in sizes]
    fitting = [result for result in results if result.fits]
    if fitting:
        best = max(fitting, key=lambda result: result.tokens_per_second)
    else:
        best = min(results, key=lambda result: result.memory_bytes)
    return replace(best, advice=advice(job, options, batch, best))


def advice(job: Job, options: Options, batch: Batch, result: Result) -> str:
    """One sentence: what would have to change, or nothing."""
    sharers, _ = groups(job.hardware, options)
    if not result.fits:
        if options.strategy == "ddp":
            return "does not fit: shard"
        if options.strategy == "hybrid":
            return f"does not fit into {sharers.ranks} GPUs: larger groups, or shard over all"
        return "does not fit: more GPUs"
    if batch.rows < options.gpus:
        return "fewer documents than GPUs: tensor or context parallelism"
    if result.efficiency >= GOOD:
        return "scales"
    if 1 - 1 / slowest(options.noise, options.gpus) > (1 - result.efficiency) / 2:
        return "the slowest GPU decides"
    if result.exposed_seconds < (1 - GOOD) / 2 * result.step_seconds:
        return "micro-batches too small: larger batch, or fewer GPUs"
    if sharers.ranks == 1:
        return "sum of gradients does not hide: larger batch, or tensor parallelism"
    if result.gather_seconds > result.layer_seconds:
        weights = units(job.shape, job.method)[1].weight_bytes
        start = result.gather_seconds - weights / bandwidth(job.hardware, sharers)
        if sharers.nodes > 1 and start > result.gather_seconds / 2:
            return f"a ring of {sharers.ranks} takes {start * 1e3:.0f} ms to start: hybrid, or gathers rail by rail"
        if job.shape.experts:
            return "idle experts are gathered, too: expert parallelism"
        return "gathers do not hide: tensor parallelism, or more tokens a GPU"
    if options.strategy == "hybrid":
        return "sum of gradients between nodes does not hide: larger batch, or expert or tensor parallelism"
    return "gradients do not hide: larger micro-batches, or expert or tensor parallelism"


def smallest_that_fits(job: Job, options: Options, largest: int = 1 << 13) -> int | None:
    """GPUs, with one document at a time and recomputation; None: not even the largest number."""
    gpus = 1
    while gpus <= largest:
        held = sharding(job, replace(options, gpus=gpus))
        memory = memory_bytes(job.shape, job.method, job.method.sequence, True, held)
        if memory <= job.hardware.memory:
            return gpus
        gpus *= 2
    return None
