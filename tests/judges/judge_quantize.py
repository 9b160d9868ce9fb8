"""Blocks of every quantised GGUF type, byte for byte as ggml's own quantiser makes them, and back as gguf-py reads them."""

import ctypes
import subprocess

import gguf
import numpy as np
import pytest
import xllamacpp  # its library holds ggml

from tune_program import BUILD

TYPES = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"]
COLUMNS = 1280  # five super-blocks: an odd number, 40 blocks of 32: no multiple of 16


@pytest.fixture(scope="module")
def ggml():
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                                            ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]  # fmt: skip
    return library


def number_of(kind):
    return getattr(gguf.GGMLQuantizationType, kind.upper())


def reference(ggml, kind, values, importance=None):
    block, size = gguf.GGML_QUANT_SIZES[number_of(kind)]
    result = np.empty(values.size // block * size, np.uint8)
    weights = importance.ctypes.data if importance is not None else None
    written = ggml.ggml_quantize_chunk(int(number_of(kind)), values.ctypes.data, result.ctypes.data, 0,
                                       values.shape[0], values.shape[1], weights)  # fmt: skip
    assert written == result.size
    return result


def probe(*arguments):
    done = subprocess.run([BUILD / "tests/quantize_probe", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ours(tmp_path, kind, values, importance=None):
    values.tofile(tmp_path / "values")
    more = []
    if importance is not None:
        importance.tofile(tmp_path / "importance")
        more = [tmp_path / "importance"]
    probe("encode", kind, tmp_path / "values", tmp_path / "blocks", *more)
    return np.fromfile(tmp_path / "blocks", np.uint8)


def rows(random):
    """Rows as weights have them, and those that a search stumbles over."""
    values = random.standard_normal((48, COLUMNS)).astype(np.float32)
    values[8:16] = random.standard_t(2, (8, COLUMNS))  # outliers
    values[16] = 0
    values[17, ::7] = 0
    values[18] = 0.25  # one value: without a spread
    values[19] = -0.25
    values[20] = np.abs(values[20])  # no minimum below zero
    values[21] = -np.abs(values[21])
    values[22] *= 1e-12
    values[23] *= 1e-17  # nothing, to a search
    values[24] *= 1e-30
    values[25] *= 1e4
    values[26, 32:64] = 0
    values[27] = np.round(values[27] * 2) / 2  # ties
    values[28:36] = (values[0:8].view(np.uint32) >> 16 << 16).view(np.float32)
    return np.ascontiguousarray(values)


@pytest.mark.parametrize("kind", TYPES)
def test_bytes_are_ggmls(ggml, tmp_path, kind):
    values = rows(np.random.default_rng(TYPES.index(kind)))
    np.testing.assert_array_equal(ours(tmp_path, kind, values), reference(ggml, kind, values))


@pytest.mark.parametrize("kind", TYPES)
def test_bytes_with_an_importance_matrix_are_ggmls(ggml, tmp_path, kind):
    random = np.random.default_rng(100 + TYPES.index(kind))
    values = rows(random)
    importance = (random.standard_normal(COLUMNS).astype(np.float32) ** 2 * 10).astype(np.float32)
    importance[64:72] = 0  # inputs that were never seen
    np.testing.assert_array_equal(ours(tmp_path, kind, values, importance), reference(ggml, kind, values, importance))


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_are_read_as_gguf_reads_them(ggml, tmp_path, kind):
    blocks = reference(ggml, kind, rows(np.random.default_rng(200)))
    blocks.tofile(tmp_path / "blocks")
    probe("decode", kind, tmp_path / "blocks", tmp_path / "values")
    decoded = np.fromfile(tmp_path / "values", np.float32)
    np.testing.assert_array_equal(decoded, gguf.quants.dequantize(blocks, number_of(kind)).reshape(-1))
