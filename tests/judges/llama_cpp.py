"""llama.cpp as a judge: log-probabilities of every next token, through the C interface of the library in the wheel xllamacpp."""

import ctypes

import numpy as np
import xllamacpp

CONTEXT = 512
AUTOMATIC, DISABLED, F32, F16 = -1, 0, 0, 1


class Parameters(ctypes.Structure):
    """llama_context_params and llama_model_params as 32-bit words; larger than either. They go and come by value."""

    _fields_ = [("words", ctypes.c_int32 * 64)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)), ("embd", ctypes.c_void_p),
                ("pos", ctypes.POINTER(ctypes.c_int32)), ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]  # fmt: skip


def opened():
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    pointer = ctypes.c_void_p
    signatures = {
        "llama_model_default_params": (Parameters, []), "llama_context_default_params": (Parameters, []),
        "llama_model_load_from_file": (pointer, [ctypes.c_char_p, Parameters]),
        "llama_init_from_model": (pointer, [pointer, Parameters]),
        "llama_adapter_lora_init": (pointer, [pointer, ctypes.c_char_p]),
        "llama_set_adapters_lora": (ctypes.c_int32, [pointer, ctypes.POINTER(pointer), ctypes.c_size_t,
                                                     ctypes.POINTER(ctypes.c_float)]),
        "llama_model_get_vocab": (pointer, [pointer]), "llama_vocab_n_tokens": (ctypes.c_int32, [pointer]),
        "llama_batch_init": (Batch, [ctypes.c_int32] * 3), "llama_batch_free": (None, [Batch]),
        "llama_decode": (ctypes.c_int32, [pointer, Batch]), "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [pointer]),
        "llama_get_memory": (pointer, [pointer]), "llama_memory_clear": (None, [pointer, ctypes.c_bool]),
        "llama_free": (None, [pointer]), "llama_model_free": (None, [pointer]), "llama_log_set": (None, [pointer, pointer]),
    }  # fmt: skip
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class LlamaCpp:
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)

    def __init__(self, model, adapter=None):
        self.library = library = opened()
        library.llama_log_set(self.silent, None)
        self.model = library.llama_model_load_from_file(str(model).encode(), library.llama_model_default_params())
        assert self.model, f"llama.cpp can't load {model}"
        self.vocab = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))
        self.context = library.llama_init_from_model(self.model, self.parameters())
        assert self.context
        if adapter:
            lora = library.llama_adapter_lora_init(self.model, str(adapter).encode())
            assert lora, f"llama.cpp can't load {adapter}"
            one = ctypes.c_float(1.0)
            assert library.llama_set_adapters_lora(self.context, ctypes.byref(ctypes.c_void_p(lora)), 1, ctypes.byref(one)) == 0

    def parameters(self):
        """Nothing is rounded but what the file itself rounds: no flash attention, a cache in fp32."""
        words = (result := self.library.llama_context_default_params()).words
        known = {0: 512, 1: 2048, 7: 4, 8: 4, 13: AUTOMATIC, 26: F16, 27: F16}
        assert all(words[at] == value for at, value in known.items()), "llama_context_params is another one in this version"
        words[0] = CONTEXT
        words[7] = words[8] = 1  # threads; more would wait for each other, spinning, in models this small
        words[13] = DISABLED
        words[26] = words[27] = F32  # of the cache's keys and values
        return result

    def __del__(self):
        if getattr(self, "context", None):
            self.library.llama_free(self.context)
        if getattr(self, "model", None):
            self.library.llama_model_free(self.model)

    def log_probabilities(self, ids):
        """log p [tokens - 1, vocab] of what follows each token but the last."""
        library = self.library
        library.llama_memory_clear(library.llama_get_memory(self.context), True)
        batch = library.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for at, token in enumerate(ids):
            batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = int(token), at, 1, 1
            batch.seq_id[at][0] = 0
        assert library.llama_decode(self.context, batch) == 0
        logits = np.ctypeslib.as_array(library.llama_get_logits(self.context), (len(ids), self.vocab)).astype(np.float64)
        library.llama_batch_free(batch)
        return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))[:-1]


def divergence(ours, theirs):
    """Mean Kullback-Leibler divergence a token of `theirs` from `ours`, both log p [tokens, vocab]."""
    return (np.exp(ours) * (ours - theirs)).sum(axis=1).mean()
