"""Every family's hand-over: the published config.json, made small, through judge_export's own tests; and what its GGUF says.

Mixtral's is in judge_export itself.
"""

import random

import gguf
import pytest
from conftest import SEED

from judge_export import (  # noqa: F401  tests of theirs on the models of here
    Run,
    test_llama_cpp_applies_the_gguf_adapter,
    test_llama_cpp_computes_what_was_trained,
    test_peft_applies_the_adapter,
    test_transformers_loads_the_merged_model,
)
from judge_families import make_model, published, shrunken  # noqa: F401

# What a GGUF of each has to say, beside what all have; SOLAR's depth is the real one.
FAMILIES = {
    "Llama-2-70b-chat-hf": {"llama.context_length": 4096, "llama.rope.freq_base": 1e4},
    "zephyr-7b-beta": {"llama.context_length": 32768},
    "SOLAR-10.7B-Instruct-v1.0": {"llama.block_count": 48, "llama.context_length": 4096},
    "CodeLlama-7b-hf": {
        "llama.context_length": 16384, "llama.rope.freq_base": 1e6, "llama.vocab_size": 32016,
        "tokenizer.ggml.fim_pre_token_id": 32007, "tokenizer.ggml.fim_suf_token_id": 32008,
        "tokenizer.ggml.fim_mid_token_id": 32009, "tokenizer.ggml.eot_token_id": 32010,
    },
    "CodeLlama-34b-Instruct-hf": {"llama.rope.freq_base": 1e6, "llama.vocab_size": 32000},
}  # fmt: skip


@pytest.fixture(scope="module", params=list(FAMILIES))
def run(request, published, tmp_path_factory):  # noqa: F811
    root = tmp_path_factory.mktemp("handover")
    config = shrunken(dict(published[request.param]["config"]))
    if request.param.startswith("SOLAR"):
        config["num_hidden_layers"] = 48
    make_model(root / "base", config, SEED % 1000)
    return Run(request.param, root / "base", random.Random(SEED), root)


def test_a_gguf_says_what_the_family_is(run):
    fields = gguf.GGUFReader(run.file("model-f32.gguf")).fields
    said = {key: fields[key].contents() for key in FAMILIES[run.name] if key in fields}
    assert said == {key: pytest.approx(value) for key, value in FAMILIES[run.name].items()}
    assert any(key.startswith("tokenizer.ggml.fim") for key in fields) == (run.name == "CodeLlama-7b-hf")
