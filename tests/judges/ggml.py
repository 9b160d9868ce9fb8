"""ggml's own quantiser, from the library in the wheel xllamacpp, and tensors of GGUF files."""

import ctypes

import gguf
import numpy as np
import xllamacpp

library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
library.ggml_quantize_chunk.restype = ctypes.c_size_t
library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                                        ctypes.c_int64, ctypes.c_void_p]  # fmt: skip


def number_of(kind):
    return gguf.GGMLQuantizationType[kind.upper()]


def quantized(kind, values, importance=None):
    """values fp32 [rows, columns], importance fp32 [columns] -> the blocks' bytes."""
    block, size = gguf.GGML_QUANT_SIZES[number_of(kind)]
    result = np.empty(values.size // block * size, np.uint8)
    weights = importance.ctypes.data if importance is not None else None
    written = library.ggml_quantize_chunk(int(number_of(kind)), values.ctypes.data, result.ctypes.data, 0,
                                          values.shape[0], values.shape[1], weights)  # fmt: skip
    assert written == result.size
    return result


def tensors_of(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
