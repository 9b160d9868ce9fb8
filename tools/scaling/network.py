"""Links between GPUs and what a collective over them costs: alpha-beta, with NCCL's own constants (docs/scaling.md)."""

import math
from dataclasses import dataclass

MICRO = 1e-6


@dataclass(frozen=True)
class Protocol:
    """Seconds: of a start and of a step over NVLink or the network, for rings and trees; share of the bandwidth."""

    start: float
    ring: tuple[float, float]
    tree: tuple[float, float]
    bandwidth: float = 1.0


# LL, LL128 and Simple as in NCCL's src/graph/tuning.cc; it takes the one that it thinks the quickest, and so do we.
NCCL = (
    Protocol(6.6 * MICRO, (0.6 * MICRO, 2.7 * MICRO), (0.6 * MICRO, 5.0 * MICRO), 0.25),
    Protocol(14.0 * MICRO, (1.9 * MICRO, 4.0 * MICRO), (1.25 * MICRO, 8.5 * MICRO), 0.92),
    Protocol(8.4 * MICRO, (3.4 * MICRO, 14.0 * MICRO), (4.0 * MICRO, 14.0 * MICRO)),
)


@dataclass(frozen=True)
class Hardware:
    name: str
    flops: float  # a second, that products reach
    peak_flops: float  # that MFU is measured against
    hbm: float  # bytes a second
    memory: float  # bytes
    node: int  # GPUs
    link: float  # bytes a second and direction that a ring reaches inside a node
    nic: float  # the same, of the one network card of a GPU
    protocols: tuple[Protocol, ...] = NCCL
    launch_forward: float = 160 * MICRO  # seconds a layer in which nothing large is computed
    launch_backward: float = 340 * MICRO
    hierarchical: bool = False  # whether gathers may go rail by rail and then over NVLink, which NCCL doesn't do


# Sources: docs/scaling.md, "Where the figures come from".
H100 = Hardware("h100", 515e12, 989e12, 3.35e12, 78 * 2.0**30, 8, 370e9, 47e9)
H200 = Hardware("h200", 515e12, 989e12, 4.8e12, 139 * 2.0**30, 8, 370e9, 47e9)


def gloo(flops: float, bandwidth: float, latency: float) -> Hardware:
    """Ranks on CPUs, all alike: bandwidth is that of a bus (2 (n-1)/n x bytes / seconds of a sum), latency a step's.
    c10d's Gloo sums by rings only."""
    never = (math.inf, math.inf)
    protocol = Protocol(0, (latency, latency), never)
    return Hardware("gloo", flops, flops, math.inf, math.inf, 1 << 30, bandwidth, bandwidth, (protocol,), 0, 0)


@dataclass(frozen=True)
class Group:
    """Ranks that share a collective: so many on each of so many nodes. The other GPUs of the nodes are in groups alike,
    which use their own cards at the same time."""

    nodes: int
    per_node: int

    @property
    def ranks(self) -> int:
        return self.nodes * self.per_node


@dataclass(frozen=True)
class Cost:
    seconds: float = 0.0
    wire: float = 0.0  # bytes that a GPU sends
    network: float = 0.0  # of which leave the node

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.wire + other.wire, self.network + other.network)


def bandwidth(hardware: Hardware, group: Group) -> float:
    """What each link of a ring carries. Between nodes every GPU of the group brings its own card."""
    if group.nodes == 1:
        return hardware.link
    across = hardware.nic * group.per_node
    return min(hardware.link, across) if group.per_node > 1 else across


def _ring(hardware: Hardware, group: Group, bytes_: float, rounds: int) -> float:
    n, across = group.ranks, rounds * (group.nodes - 1) if group.nodes > 1 else 0
    inside = rounds * (n - 1) - across
    rate = bandwidth(hardware, group)
    return min(
        p.start + inside * p.ring[0] + across * p.ring[1] + rounds * (n - 1) / n * bytes_ / (rate * p.bandwidth)
        for p in hardware.protocols
    )


def _tree(hardware: Hardware, group: Group, bytes_: float) -> float:
    rate = 0.9 * bandwidth(hardware, group)
    return min(
        p.start
        + 2 * ((group.per_node - 1) * p.tree[0] + math.ceil(math.log2(group.nodes)) * p.tree[1])
        + 2 * bytes_ / (rate * p.bandwidth)
        for p in hardware.protocols
    )


def _rails(hardware: Hardware, group: Group, bytes_: float) -> float:
    """Each GPU's part to the GPUs of its number in logarithmically many steps, then the parts over NVLink."""
    across, share = Group(group.nodes, 1), bytes_ / group.per_node
    rate = bandwidth(hardware, across)
    network = min(
        p.start + math.ceil(math.log2(group.nodes)) * p.tree[1] + (1 - 1 / group.nodes) * share / (rate * p.bandwidth)
        for p in hardware.protocols
    )
    return network + _ring(hardware, Group(1, group.per_node), bytes_, 1)


def _sent(group: Group, bytes_: float, rounds: int) -> tuple[float, float]:
    wire = rounds * (group.ranks - 1) / group.ranks * bytes_
    return wire, wire / group.per_node if group.nodes > 1 else 0.0


def gather(hardware: Hardware, group: Group, bytes_: float) -> Cost:
    """All-gather to `bytes_`; a reduce-scatter of as many costs the same."""
    if group.ranks == 1 or bytes_ == 0:
        return Cost()
    seconds = _ring(hardware, group, bytes_, 1)
    if hardware.hierarchical and group.nodes > 1 and group.per_node > 1:
        seconds = min(seconds, _rails(hardware, group, bytes_))
    return Cost(seconds, *_sent(group, bytes_, 1))


def all_reduce(hardware: Hardware, group: Group, bytes_: float) -> Cost:
    if group.ranks == 1 or bytes_ == 0:
        return Cost()
    seconds = _ring(hardware, group, bytes_, 2)
    if group.nodes > 1:
        seconds = min(seconds, _tree(hardware, group, bytes_))
    return Cost(seconds, *_sent(group, bytes_, 2))
