"""Small models with random weights, in the layouts that people have: Hugging Face folders and GGUF files.

Weights are drawn wide enough that logits are of order one and attention is far from uniform: a model whose layers hardly
matter would hide mistakes in them.
"""

import importlib.util
import json
import math
import shutil
from pathlib import Path

import gguf
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.utils.logging import disable_progress_bar

VOCAB = 32000  # of the real tokenizer
SHAPES = {
    "llama-mha": dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, intermediate_size=160),
    "llama-mha-wide": dict(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2, intermediate_size=96, rope_theta=1e6
    ),
    "llama-gqa": dict(hidden_size=96, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, intermediate_size=256),
    "llama-gqa-tied": dict(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=1, intermediate_size=192,
        tie_word_embeddings=True, rope_theta=5e5,
    ),
    "mistral-window": dict(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=160, sliding_window=7
    ),
    "mistral-window-deep": dict(
        hidden_size=96, num_hidden_layers=4, num_attention_heads=3, num_key_value_heads=1, intermediate_size=128, sliding_window=20
    ),
    "tinyllama": dict(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=16, num_key_value_heads=2, intermediate_size=352,
        max_position_embeddings=2048,
    ),
}  # fmt: skip
MODELS = list(SHAPES)
SHAPES["mixtral"] = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
    num_local_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.02, rope_theta=1e6, sliding_window=None,
)  # fmt: skip
SHAPES["mixtral-eight"] = dict(
    hidden_size=96, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, intermediate_size=64,
    num_local_experts=8, num_experts_per_tok=2, router_aux_loss_coef=0.02, rope_theta=1e6, sliding_window=None,
)  # fmt: skip


def mistral_tokenizer():
    """Mistral's own SentencePiece model, as the package mistral_common brings it along."""
    return Path(importlib.util.find_spec("mistral_common").origin).parent / "data" / "tokenizer.model.v1"


def build(name, seed, **changes):
    shape = dict(vocab_size=VOCAB, max_position_embeddings=1024, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2)
    shape.update(SHAPES[name])
    shape.update(changes)
    rope_theta = shape.pop("rope_theta", 1e4)
    shape["rope_parameters"] = {"rope_type": "default", "rope_theta": rope_theta}
    if name.startswith("mixtral"):
        model = MixtralForCausalLM(MixtralConfig(**shape, attn_implementation="eager", experts_implementation="eager"))
    elif name.startswith("mistral"):
        model = MistralForCausalLM(MistralConfig(**shape, attn_implementation="eager"))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="eager"))
    randomize(model, seed)
    return model.eval()


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
            else:
                parameter.normal_(0, 1.2 / math.sqrt(parameter.shape[-1]), generator=generator)


disable_progress_bar()


def make(name, folder, seed, shards=1, dtype=torch.float32, **changes):
    model = build(name, seed, **changes).to(dtype)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=size if shards == 1 else size // shards)
    add_tokenizer(folder)
    print(f"{name}: seed {seed}, {model.num_parameters()} parameters, {shards} shard(s), {folder}")
    return folder


def add_tokenizer(folder):
    token = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    config = {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "</s>", "legacy": True, "tokenizer_class": "LlamaTokenizer",
        "added_tokens_decoder": {str(i): {"content": text, **token} for i, text in enumerate(["<unk>", "<s>", "</s>"])},
    }  # fmt: skip
    shutil.copy(mistral_tokenizer(), folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


# ---- GGUF ----

GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{GGUF_NAMES[rest]}.weight"
    return GGUF_NAMES[stem] + ".weight"


def interleave_rope(weight, heads):
    """llama.cpp rotates neighbours where Hugging Face rotates halves: its rows of q and k lie in another order."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model, path, quantization):
    """The model as llama.cpp's converter would write it. quantization: a member of gguf.GGMLQuantizationType."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}".encode() for i in range(config.vocab_size)])
    writer.add_token_scores([0.0] * config.vocab_size)
    writer.add_token_types([1] * config.vocab_size)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if "q_proj" in name:
            values = interleave_rope(values, config.num_attention_heads)
        if "k_proj" in name:
            values = interleave_rope(values, config.num_key_value_heads)
        kind = quantization if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(values.copy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
