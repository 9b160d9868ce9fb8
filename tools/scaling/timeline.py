"""One step, event by event: what a GPU computes, what it sends meanwhile, and what it waits for."""

import math
from dataclasses import dataclass, field
from statistics import NormalDist

from network import Cost, Group, Hardware, all_reduce, gather
from shapes import LARGE_GRADIENT, Method, Shape, Unit, trained_parameters, units

STRATEGIES = ("ddp", "shard", "hybrid")
OPTIMIZER_BYTES = 30  # that AdamW reads and writes a parameter


@dataclass(frozen=True)
class Job:
    shape: Shape
    method: Method
    hardware: Hardware


@dataclass(frozen=True)
class Options:
    strategy: str
    gpus: int
    shard_gpus: int = 0  # hybrid: that share one copy; 0: those of a node
    keep: bool = False  # what is gathered stays until the step's end (ZeRO-2), instead of twice a micro-batch
    prefetch: int = 1  # units gathered ahead
    overlap: bool = True
    bucket: float = 25 << 20  # bytes
    noise: float = 0.0  # sigma of the lognormal that a GPU's time is multiplied by; the slowest decides


# Messages of one stream go one after the other: "shard" gathers and scatters, "sum" all-reduces between replicas.
Message = tuple[str, Cost]


@dataclass
class Task:
    seconds: float
    gather: Cost | None = None
    sends: list[list[Message]] = field(default_factory=list)  # afterwards; those of one list in this order


@dataclass(frozen=True)
class Step:
    seconds: float
    compute: float
    cost: Cost  # of all messages, as if one after the other

    @property
    def exposed(self) -> float:
        return self.seconds - self.compute


def play(tasks: list[Task], prefetch: int = 1, overlap: bool = True) -> Step:
    """Gather i starts when task i - 1 - prefetch has ended and its stream is free; sends when their task has ended."""
    free: dict[str, float] = {}
    total = Cost()

    def send(stream: str, cost: Cost, ready: float) -> float:
        nonlocal total
        total += cost
        free[stream] = max(free.get(stream, 0.0), ready) + cost.seconds
        return free[stream]

    ahead = prefetch + 1 if overlap else 0
    gathered = [0.0] * len(tasks)

    def begin_gather(index: int, ready: float) -> None:
        if index < len(tasks) and tasks[index].gather is not None:
            gathered[index] = send("shard", tasks[index].gather, ready)

    for index in range(ahead):
        begin_gather(index, 0.0)
    clock = done = compute = 0.0
    for index, task in enumerate(tasks):
        if not overlap:
            begin_gather(index, clock)
        clock = max(clock, gathered[index]) + task.seconds
        compute += task.seconds
        if overlap:
            begin_gather(index + ahead, clock)
        for chain in task.sends:
            ready = clock
            for stream, cost in chain:
                ready = send(stream, cost, ready)
            done = max(done, ready)
        if not overlap:
            clock = max(clock, done)
    return Step(max(clock, done), compute, total)


def slowest(noise: float, gpus: int) -> float:
    """Median of the largest of so many lognormals of mean 1."""
    if noise == 0 or gpus == 1:
        return 1.0
    return max(1.0, math.exp(noise * NormalDist().inv_cdf(0.5 ** (1 / gpus)) - noise**2 / 2))


def groups(hardware: Hardware, options: Options) -> tuple[Group, Group]:
    """Those that share one copy of the weights, and those that hold the same part of it."""
    node = min(hardware.node, options.gpus)
    nodes = options.gpus // node
    if options.strategy == "shard":
        return Group(nodes, node), Group(1, 1)
    if options.strategy == "hybrid":
        across = max(1, min(options.shard_gpus, options.gpus) // node)
        return Group(across, node), Group(nodes // across, 1)
    return Group(1, 1), Group(nodes, node)


def unit_seconds(hardware: Hardware, unit: Unit, tokens: float, recompute: bool) -> tuple[float, float]:
    """Forwards and backwards. A pass takes at least as long as reading the weights does."""
    read = unit.weight_bytes / hardware.hbm if unit.forward else 0.0
    forward = max(unit.forward * tokens / hardware.flops, read)
    backward = max(unit.backward * tokens / hardware.flops, read) if unit.backward else 0.0
    if unit.passes == 2:
        forward, backward = forward + hardware.launch_forward, backward + hardware.launch_backward
        backward += forward if recompute else 0.0
    return forward, backward


def buckets(per_unit: list[tuple[float, ...]], limit: float) -> list[list[float]]:
    """Messages after each unit: large gradients alone, small ones together; a large one sends what has gathered."""
    messages: list[list[float]] = []
    held = 0.0
    for sizes in per_unit:
        now: list[float] = []
        for size in sizes:
            if size >= LARGE_GRADIENT:
                now += [held, size] if held else [size]
                held = 0.0
                continue
            held += size
            if held >= limit:
                now.append(held)
                held = 0.0
        messages.append(now)
    if held:
        messages[-1].append(held)
    return messages


def backward_order(parts: list[Unit]) -> list[int]:
    """The head, the layers from the last to the first, the embedding if it is trained."""
    layers = [i for i in reversed(range(len(parts) - 1)) if parts[i].passes == 2 or parts[i].gradients]
    return [len(parts) - 1, *layers]


def step_tasks(job: Job, options: Options, tokens: int, micro_batches: int, recompute: bool) -> list[Task]:
    """tokens: of a micro-batch. The head goes backward as soon as it has gone forward, on one gather."""
    method, hardware = job.method, job.hardware
    parts = units(job.shape, method)
    head, order = len(parts) - 1, backward_order(parts)
    sharers, replicas = groups(hardware, options)
    everyone = Group(sharers.nodes * replicas.nodes, sharers.per_node * replicas.per_node)
    sharded, factor = sharers.ranks > 1, slowest(options.noise, options.gpus)
    gathers = [gather(hardware, sharers, part.weight_bytes) if sharded else None for part in parts]
    seconds = [[factor * each for each in unit_seconds(hardware, part, tokens, recompute)] for part in parts]
    messages = buckets([parts[i].gradients for i in order], options.bucket)
    # sums between nodes are sent beside gathers inside of them; otherwise both take turns on the same links
    stream = "shard" if sharers.nodes > 1 else "sum"

    def sends(position: int, last: bool) -> list[list[Message]]:
        if method.full and sharded:
            size = sum(parts[order[position]].gradients)
            chain = [("shard", gather(hardware, sharers, size))]
            return [[*chain, (stream, all_reduce(hardware, replicas, size / sharers.ranks))] if last else chain]
        return [[(stream, all_reduce(hardware, everyone, size))] for size in messages[position]] if last else []

    tasks: list[Task] = []
    for micro in range(micro_batches):
        gathers_now = sharded and (micro == 0 or not options.keep)
        for i in range(head):
            tasks.append(Task(seconds[i][0], gathers[i] if gathers_now else None))
        for position, i in enumerate(order):
            kept = options.keep or position == 1  # the last layer waits for its backward pass
            again = gathers_now and (i == head or (parts[i].passes == 2 and not kept))
            own = sum(seconds[i]) if i == head else seconds[i][1]
            tasks.append(Task(own, gathers[i] if again else None, sends(position, micro == micro_batches - 1)))
    return tasks


def update_seconds(job: Job, options: Options) -> float:
    sharers, _ = groups(job.hardware, options)
    own = trained_parameters(job.shape, job.method) / (sharers.ranks if job.method.full else 1)
    return own * OPTIMIZER_BYTES / job.hardware.hbm


def step(job: Job, options: Options, tokens: int, micro_batches: int, recompute: bool) -> Step:
    """With the sums of the loss and of the gradients' norm, and the update of what this GPU keeps."""
    played = play(step_tasks(job, options, tokens, micro_batches, recompute), options.prefetch, options.overlap)
    sharers, replicas = groups(job.hardware, options)
    everyone = Group(sharers.nodes * replicas.nodes, sharers.per_node * replicas.per_node)
    update = update_seconds(job, options)
    scalars = all_reduce(job.hardware, everyone, 8)
    scalars = scalars + scalars
    return Step(played.seconds + scalars.seconds + update, played.compute + update, played.cost + scalars)
