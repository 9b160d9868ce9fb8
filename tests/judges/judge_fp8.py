"""A base in fp8: logits and the adapter's gradients against PEFT on linear layers that round as ours should.

PyTorch rounds to e4m3 and multiplies. All else is in fp32, lest what differs between two programs in bf16 moves numbers over
the edge between two of e4m3: a few still are, and each moves more of them a layer later.
"""

import functools

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from judge_model import SMALL_VOCAB, batches_for, judged
from tune_program import probe

SHARES = {1: 0.02, 3: 0.25}  # of what fp8 changes, by the number of layers


def rounded(rows):
    """Each row times 448 / its largest magnitude as e4m3, and that factor's inverse."""
    largest = rows.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    return (rows * (448 / largest)).to(torch.float8_e4m3fn), largest / 448


def product(rows, weight, scales):
    values, of_rows = rounded(rows.flatten(0, -2))
    result = torch._scaled_mm(values, weight.T, scale_a=of_rows, scale_b=scales, out_dtype=torch.bfloat16)
    exact = (values.double() @ weight.double().T * of_rows * scales).bfloat16()
    assert (result != exact).float().mean() < 0.01, "its sums aren't rounded once"
    return result.to(rows.dtype).view(*rows.shape[:-1], -1)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, scales):
        ctx.save_for_backward(weight, scales)
        return product(x, weight, scales.T.contiguous())

    @staticmethod
    def backward(ctx, gradient):
        weight, scales = ctx.saved_tensors
        return product(gradient * scales.T, weight.T.contiguous(), torch.ones(1, weight.shape[1])), None, None


class Together:
    """Linear layers of one input are one product: on its way back their gradients have a scale in common."""

    def __init__(self, *linears):
        self.rows = [linear.out_features for linear in linears]
        self.weight = rounded(torch.cat([linear.weight.detach() for linear in linears]))
        for number, linear in enumerate(linears):
            linear.forward = functools.partial(self.forward, number)

    def forward(self, number, x):
        if number == 0:  # the model asks for it first
            self.results = Product.apply(x, *self.weight).split(self.rows, -1)
        return self.results[number]


def peft_on(folder, fp8, adapter):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    for layer in base.model.layers if fp8 else ():
        attention, mlp = layer.self_attn, layer.mlp
        Together(attention.q_proj, attention.k_proj, attention.v_proj)
        Together(attention.o_proj)
        Together(mlp.gate_proj, mlp.up_proj)
        Together(mlp.down_proj)
    torch.manual_seed(7)
    config = LoraConfig(r=5, lora_alpha=15, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(adapter)
    return model


def everything_of(model, batches):
    logits, _ = judged(model, batches)
    everything = {f"logits.{i}": rows for i, rows in enumerate(logits)}
    gradients = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if p.requires_grad}
    return everything | {f"gradient.{name}": gradient for name, gradient in gradients.items()}


def distance(a, b, kind):
    """Of all tensors of a kind at once, as a share of their norm."""
    names = [name for name in b if name.startswith(kind)]
    difference, norm = (torch.cat([f(name).float().flatten() for name in names]).norm() for f in (lambda n: a[n] - b[n], b.get))
    return (difference / norm).item()


@pytest.mark.parametrize("layers", SHARES)
@pytest.mark.parametrize("name", ["llama-mha", "llama-gqa", "mistral-window"])
def test_a_base_in_fp8_computes_as_pytorch_rounds(name, layers, tiny, rng, tmp_path):
    folder = tiny(name, vocab_size=SMALL_VOCAB, num_hidden_layers=layers)
    batches = batches_for(rng, SMALL_VOCAB)
    fp8, exact = (everything_of(peft_on(folder, is_fp8, tmp_path / "adapter"), batches) for is_fp8 in (True, False))
    adapter = {"r": 5, "alpha": 15, "targets": ["all-linear"], "init": str(tmp_path / "adapter")}
    request = {"model": str(folder), "batches": batches, "adapter": adapter, "fp8_base": True}
    ours = probe(request, tmp_path / "out.safetensors")
    assert {key for key in ours if not key.startswith(("value.", "loss."))} == set(fp8)
    for kind in ("logits", "gradient"):
        off, all_of_fp8 = distance(ours, fp8, kind), distance(exact, fp8, kind)
        print(f"{kind}: off by {off:.1e}; fp8 changes {all_of_fp8:.1e}")
        assert off <= SHARES[layers] * all_of_fp8
