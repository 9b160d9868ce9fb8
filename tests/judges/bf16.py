"""PyTorch's bf16 and fp16 at a bearable speed on every processor.

Without AVX-512, oneDNN refuses bf16 and ATen multiplies one number at a time, which is minutes a test; fp16 is quick on
few processors only. The same product, 16-bit factors, a sum in fp32 and one rounding, is fast everywhere as a product of
fp32 matrices that hold 16-bit values.
"""

import contextlib
from unittest import mock

import torch


def through_fp32(product, dtype):
    def rounded_product(a, b, bias=None):
        with torch.autocast("cpu", enabled=False):
            value = product(a.to(dtype).float(), b.to(dtype).float()).to(dtype)
            return value if bias is None else value + bias.to(dtype)

    return rounded_product


@contextlib.contextmanager
def autocast(dtype, fast):
    with contextlib.ExitStack() as stack:
        if not fast:
            for module, name in ((torch.nn.functional, "linear"), (torch, "matmul")):
                stack.enter_context(mock.patch.object(module, name, through_fp32(getattr(module, name), dtype)))
        stack.enter_context(torch.autocast("cpu", dtype))
        yield


def bf16_autocast(fast=torch.ops.mkldnn._is_mkldnn_bf16_supported()):
    return autocast(torch.bfloat16, fast)


def fp16_autocast():
    return autocast(torch.float16, fast=False)
