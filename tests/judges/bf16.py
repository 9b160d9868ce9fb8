"""PyTorch's bf16 at a bearable speed on every processor.

Without AVX-512, oneDNN refuses bf16 and ATen multiplies one number at a time, which is minutes a test. The same product,
bf16 factors, a sum in fp32 and one rounding, is fast there as a product of fp32 matrices that hold bf16 values.
"""

import contextlib
from unittest import mock

import torch


def through_fp32(product):
    def rounded_product(a, b, bias=None):
        with torch.autocast("cpu", enabled=False):
            value = product(a.bfloat16().float(), b.bfloat16().float()).bfloat16()
            return value if bias is None else value + bias.bfloat16()

    return rounded_product


@contextlib.contextmanager
def bf16_autocast(enabled=True, fast=torch.ops.mkldnn._is_mkldnn_bf16_supported()):
    with contextlib.ExitStack() as stack:
        if enabled and not fast:
            for module, name in ((torch.nn.functional, "linear"), (torch, "matmul")):
                stack.enter_context(mock.patch.object(module, name, through_fp32(getattr(module, name))))
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=enabled))
        yield
