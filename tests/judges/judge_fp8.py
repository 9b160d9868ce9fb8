"""A base in fp8: logits, losses and the adapter's gradients against PEFT on linear layers that round as ours should.

The judge's products are sums in double of numbers that PyTorch rounded to e4m3, rounded to bf16. All else is in fp32, lest
what differs between two programs in bf16 moves numbers over the edge between two of e4m3: a few still are, and each moves
more of them a layer later.
"""

import functools

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from judge_model import SMALL_VOCAB, batches_for, judged
from tune_program import probe

SHARE = 0.1  # of what fp8 changes


def rounded(rows):
    """Each row times 448 / its largest magnitude as e4m3, and that factor's inverse."""
    largest = rows.float().abs().amax(-1, keepdim=True).clamp(min=1e-12)
    return (rows.float() * (448 / largest)).to(torch.float8_e4m3fn).double(), (largest / 448).double()


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, scales):
        ctx.save_for_backward(weight, scales)
        values, of_rows = rounded(x)
        return (values @ weight.T * of_rows * scales.T).bfloat16().to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        weight, scales = ctx.saved_tensors
        values, of_rows = rounded(gradient.float() * scales.T.float())
        return (values @ weight * of_rows).bfloat16().to(gradient.dtype), None, None


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
    logits, losses = judged(model, batches)
    everything = {f"logits.{i}": rows for i, rows in enumerate(logits)}
    everything |= {f"loss.{i}": torch.tensor([loss]) for i, loss in enumerate(losses)}
    gradients = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if p.requires_grad}
    return everything | {f"gradient.{name}": gradient for name, gradient in gradients.items()}


def distance(a, b, kind):
    """Of all tensors of a kind at once, as a share of their norm."""
    names = [name for name in b if name.startswith(kind)]
    difference, norm = (torch.cat([f(name).float().flatten() for name in names]).norm() for f in (lambda n: a[n] - b[n], b.get))
    return (difference / norm).item()


@pytest.mark.parametrize("name", ["llama-mha", "llama-gqa", "mistral-window"])
def test_a_base_in_fp8_computes_as_pytorch_rounds(name, tiny, rng, tmp_path):
    folder = tiny(name, vocab_size=SMALL_VOCAB, num_hidden_layers=2)
    batches = batches_for(rng, SMALL_VOCAB)
    fp8, exact = (everything_of(peft_on(folder, is_fp8, tmp_path / "adapter"), batches) for is_fp8 in (True, False))
    adapter = {"r": 5, "alpha": 15, "targets": ["all-linear"], "init": str(tmp_path / "adapter")}
    request = {"model": str(folder), "batches": batches, "adapter": adapter, "fp8_base": True}
    ours = probe(request, tmp_path / "out.safetensors")
    assert {key for key in ours if not key.startswith("value.")} == set(fp8)
    for kind in ("logits", "loss", "gradient"):
        off, all_of_fp8 = distance(ours, fp8, kind), distance(exact, fp8, kind)
        print(f"{kind}: off by {off:.1e}; fp8 changes {all_of_fp8:.1e}")
        assert off <= SHARE * all_of_fp8
