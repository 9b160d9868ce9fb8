"""llama.cpp as a judge, through the wheel xllamacpp: log-probabilities of every next token.

Its server interface scores the next token only, so a text of n tokens takes n - 1 requests over one growing prompt.
"""

import numpy as np
import xllamacpp

COMMON_TOKEN = 272  # a whole word of Mistral's vocabulary: sampling it hides nothing from the list of probabilities


class LlamaCpp:
    def __init__(self, model, adapter=None, vocab=32000, sampled=COMMON_TOKEN):
        self.vocab, self.sampled = vocab, sampled
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(model)
        parameters.n_ctx, parameters.n_parallel, parameters.warmup = 512, 1, False
        parameters.cpuparams.n_threads = 1  # more would wait for each other, spinning, in models this small
        # nothing is rounded but what the file itself rounds
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        parameters.verbosity, parameters.fit_params = 0, False
        if adapter:
            parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        self.server = xllamacpp.Server(parameters)

    def next_token(self, ids):
        """log p [vocab] of what follows ids; NaN where the server leaves a token out (parts of a character)."""
        # The probabilities are reported before the bias is added, which only decides what is sampled.
        request = {"prompt": list(map(int, ids)), "n_predict": 1, "temperature": 0.0, "top_k": 1, "n_probs": self.vocab,
                   "cache_prompt": True, "logit_bias": [[self.sampled, 1e3]]}  # fmt: skip
        answer = self.server.handle_completions(request)
        assert "choices" in answer, str(answer)[:300]
        result = np.full(self.vocab, np.nan)
        for token in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            result[token["id"]] = token["logprob"]
        return result

    def log_probabilities(self, ids):
        return np.stack([self.next_token(ids[:n]) for n in range(1, len(ids))])


def divergence(ours, theirs):
    """Mean Kullback-Leibler divergence a token of `theirs` from `ours`, both log p [tokens, vocab], over what is known of
    theirs. Both are made to sum to one first: llama.cpp adds up its probabilities in fp32, which is off by 1e-6."""
    known = ~np.isnan(theirs)
    assert known.mean() > 0.99, "too few tokens are known to judge"
    ours, theirs = (np.where(known, values, -np.inf) for values in (ours, theirs))
    ours, theirs = (values - np.logaddexp.reduce(values, axis=1, keepdims=True) for values in (ours, theirs))
    return (np.exp(ours) * np.subtract(ours, theirs, where=known, out=np.zeros_like(ours))).sum(axis=1).mean()
