"""What a model is made of, as far as its cost goes: parameters, floating point operations, bytes a GPU holds.

The shapes are those of `tune models`, memory is counted as `tune plan` does (train/plan/memory.cpp), operations as in
docs/performance.md: 2 a weight and token forwards, as many for each of the two gradients, attention as half its square.
"""

from dataclasses import dataclass

LARGE_GRADIENT = 1 << 20  # bytes; what is larger travels as it lies (train/parallel/gradient_sum.cpp)
CONTEXT = (512 << 20) + (40 << 20)  # bytes; of CUDA and cuBLAS


@dataclass(frozen=True)
class Linear:
    rows: int
    columns: int
    count: int = 1  # in a layer
    active: int = 1  # of which a token passes so many
    router: bool = False

    @property
    def size(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int = 32000
    experts: int = 0
    active_experts: int = 0

    @property
    def query(self) -> int:
        return self.hidden  # heads x head_dim, in all of these

    @property
    def key(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    def linears(self) -> list[Linear]:
        h, f, q, kv = self.hidden, self.inner, self.query, self.key
        attention = [Linear(q, h), Linear(kv, h), Linear(kv, h), Linear(h, q)]
        if not self.experts:
            return [*attention, Linear(f, h), Linear(f, h), Linear(h, f)]
        e, a = self.experts, self.active_experts
        return [*attention, Linear(e, h, router=True), Linear(f, h, e, a), Linear(f, h, e, a), Linear(h, f, e, a)]

    def layer_parameters(self) -> int:
        return 2 * self.hidden + sum(each.count * each.size for each in self.linears())

    def table_parameters(self) -> int:
        return self.vocabulary * self.hidden

    def parameters(self) -> int:
        return 2 * self.table_parameters() + self.layers * self.layer_parameters() + self.hidden


_7B, _13B = (4096, 32, 32, 32, 11008), (5120, 40, 40, 40, 13824)
_34B, _70B, _MISTRAL = (8192, 48, 64, 8, 22016), (8192, 80, 64, 8, 28672), (4096, 32, 32, 8, 14336)
INFILLING = 32016  # Llama 2's vocabulary and tokens around gaps

SHAPES = [
    Shape("llama2-7b", *_7B),
    Shape("llama2-13b", *_13B),
    Shape("llama2-70b", *_70B),
    Shape("zephyr-7b-beta", *_MISTRAL),
    Shape("solar-10.7b", 4096, 48, 32, 8, 14336),
    Shape("mixtral-8x7b", *_MISTRAL, experts=8, active_experts=2),
    Shape("code-llama-7b", *_7B, INFILLING),
    Shape("code-llama-13b", *_13B, INFILLING),
    Shape("code-llama-34b", *_34B),
    Shape("code-llama-70b", *_70B, INFILLING),
]


def find_shape(name: str) -> Shape | None:
    """Hyphens and case don't count: llama-2-70b is llama2-70b. zephyr-7b is zephyr-7b-beta."""

    def plain(text: str) -> str:
        return text.lower().replace("-", "").removesuffix("beta")

    return next((shape for shape in SHAPES if plain(shape.name) == plain(name)), None)


@dataclass(frozen=True)
class Method:
    """How a model is trained. Bytes are those of one number."""

    lora_rank: int = 16  # on all linear layers but routers; 0: full fine-tuning, routers frozen
    sequence: int = 2048  # tokens of a document
    weight_bytes: float = 2  # of the layers' weights
    gradient_bytes: float = 4  # as they lie and as they travel

    @property
    def full(self) -> bool:
        return self.lora_rank == 0


@dataclass(frozen=True)
class Unit:
    """What is gathered, computed and released as one: the embedding, a layer, the head."""

    weight_bytes: float
    forward: float  # operations a token
    backward: float
    gradients: tuple[float, ...]  # bytes of each trained tensor, as the backward pass completes them
    passes: int = 2  # 1: backwards follows forwards at once, or there is no backward pass


def layer_unit(shape: Shape, method: Method) -> Unit:
    linears, rank = shape.linears(), method.lora_rank
    products = sum(2 * each.active * each.size for each in linears)
    factors = sum(2 * each.active * rank * (each.rows + each.columns) for each in linears if not each.router)
    attention = 2 * method.sequence * shape.query
    forward = products + factors + attention
    backward = products * (2 if method.full else 1) + 2 * factors + 2 * attention
    sizes: list[int] = []
    for each in linears:
        if each.router:
            continue
        sizes += ([each.size] if method.full else [rank * each.columns, rank * each.rows]) * each.count
    if method.full:
        sizes += [shape.hidden, shape.hidden]
    gradients = tuple(size * method.gradient_bytes for size in reversed(sizes))
    return Unit(shape.layer_parameters() * method.weight_bytes, forward, backward, gradients)


def units(shape: Shape, method: Method) -> list[Unit]:
    """In the order of the forward pass. Tables are at least bf16, however few bits the layers have."""
    table, full, value = shape.table_parameters(), method.full, max(2.0, method.weight_bytes)
    gradient = table * method.gradient_bytes
    embedding = Unit(value * table, 0, 0, (gradient,) if full else (), 1)
    norm = shape.hidden * method.gradient_bytes
    head = Unit(value * table, 2 * table, (4 if full else 2) * table, (gradient, norm) if full else (), 1)
    return [embedding, *[layer_unit(shape, method)] * shape.layers, head]


def trained_parameters(shape: Shape, method: Method) -> int:
    return round(sum(sum(unit.gradients) for unit in units(shape, method)) / method.gradient_bytes)


def model_flops(shape: Shape, method: Method) -> float:
    """A token's; what is recomputed doesn't count."""
    return sum(unit.forward + unit.backward for unit in units(shape, method))


def tape_bytes(shape: Shape, method: Method) -> int:
    """A token and layer, that the backward pass needs of the forward pass."""
    active = max(1, shape.active_experts)
    elements = 2 * shape.hidden + 2 * shape.query + 2 * shape.key + 2 * active * shape.inner
    elements += sum(each.active * method.lora_rank for each in shape.linears() if not each.router)
    routing = 4 * shape.experts + active * 28 if shape.experts else 0
    return 2 * elements + 4 * (shape.heads + 2) + routing


def working_bytes(shape: Shape, method: Method, tokens: int) -> float:
    """The larger of the loss and a layer's backward pass, which take turns."""
    row, active, experts = 2 * tokens, max(1, shape.active_experts), max(1, shape.experts)
    loss = 2 * min(tokens, 1024) * shape.vocabulary + 3 * shape.hidden * row
    documents = -(-tokens // method.sequence)
    parts = -(-132 // (documents * shape.heads))  # FlashAttention's exact backward pass: a sum for every part
    head_dim = shape.hidden // shape.heads
    attention = (5 * shape.query + 2 * shape.key) * row
    attention += parts * (tokens + 128 * documents) * shape.heads * head_dim * 4
    layer = 4 * shape.hidden * row + max(2 * active * shape.inner * row, attention)
    if shape.experts:
        layer += (3 * shape.inner + 2 * shape.hidden) * active * row
    if method.full:
        layer += 4 * experts * shape.inner * shape.hidden
        loss += 2 * shape.table_parameters()
    return max(loss, layer)


def merged_b_bytes(shape: Shape, method: Method) -> int:
    """Matrices B of the linear layers that share an input lie in one."""
    pairs = shape.experts or 1
    qkv = (shape.query + 2 * shape.key) * 3 * method.lora_rank
    return 2 * shape.layers * (qkv + 2 * shape.inner * 2 * pairs * method.lora_rank)


@dataclass(frozen=True)
class Sharding:
    gpus: int = 1
    shards: int = 1  # parts that the weights lie in; with full fine-tuning gradients, masters and AdamW's state as well
    gathered: float = 0.0  # bytes, at a time


def memory_bytes(shape: Shape, method: Method, tokens: int, recompute: bool, sharding: Sharding = Sharding()) -> float:
    """Of one GPU at the peak, with micro-batches of that many tokens."""
    trained, tape = trained_parameters(shape, method), tape_bytes(shape, method) * tokens
    weights = shape.layers * shape.layer_parameters() * method.weight_bytes
    weights += 2 * max(2.0, method.weight_bytes) * shape.table_parameters()
    state = 4 + method.gradient_bytes + 8  # master, gradient, AdamW's two moments
    if method.full:
        held = (weights + trained * state) / sharding.shards
    else:
        held = weights / sharding.shards + trained * (state + 2) + merged_b_bytes(shape, method)
    if sharding.gpus > 1 and not (method.full and sharding.shards > 1):  # buckets
        held += sum(size for unit in units(shape, method) for size in unit.gradients if size < LARGE_GRADIENT)
    kept = shape.layers * shape.hidden * 2 * tokens + tape if recompute else shape.layers * tape
    return CONTEXT + held + sharding.gathered + kept + working_bytes(shape, method, tokens)
