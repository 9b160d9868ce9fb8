"""Exported ONNX decoders, driven by onnxruntime and onnxruntime-genai, and what transformers says to the same tokens."""

import numpy as np
import onnxruntime
import onnxruntime_genai
import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import SEED
from tune_program import tune

LOGITS = 1e-4
MODELS = {"llama-mha": {}, "llama-gqa": {}, "llama-gqa-tied": {"hidden_size": 128}, "mistral-window": {}, "mixtral": {}}
EXACT = {"session.qdq_matmulnbits_accuracy_level": "0"}  # onnxruntime rounds activations to 8 bits unless it is told not to
ROWS, LENGTH, PADDING = 2, 26, 5  # longer than the window of 7


def transformers_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    """exported(name, flavour, quant, ...) is the folder of that export, made once."""
    folders = {}

    def make(name, flavour="standard", quant="f32", *more):
        key = (name, flavour, quant, *map(str, more))
        if key not in folders:
            output = tmp_path_factory.mktemp("onnx") / "model"
            arguments = ["--format", "onnx", "--flavour", flavour, "--quant", quant, *more, "--output", output]
            tune("export", "--model", tiny(name, **MODELS[name]), *arguments)
            folders[key] = output
        return folders[key]

    return make


class Onnx:
    """A decoder with its cache, driven through optimum's names."""

    def __init__(self, folder, file="model.onnx", config=EXACT, adapter=None):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        self.session = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.run_options = onnxruntime.RunOptions()
        if adapter:
            self.adapter = onnxruntime.LoraAdapter()
            self.adapter.Load(str(adapter))
            self.run_options.add_active_adapter(self.adapter)

    def empty_past(self, rows):
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        return {
            name: np.zeros((rows, value.shape[1], 0, value.shape[3]), kinds[value.type])
            for name, value in self.inputs.items()
            if name.startswith("past_key_values.")
        }

    def step(self, ids, mask, positions, past):
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **past}
        feeds = {name: np.asarray(value) for name, value in feeds.items() if name in self.inputs}
        values = dict(zip(self.outputs, self.session.run(self.outputs, feeds, self.run_options)))
        return values.pop("logits"), {name.replace("present", "past_key_values"): value for name, value in values.items()}

    def logits(self, ids, mask, cuts=()):
        """Of all tokens, given in pieces that begin at `cuts`."""
        positions, past, pieces = positions_of(mask), self.empty_past(len(ids)), []
        edges = [0, *cuts, ids.shape[1]]
        for begin, end in zip(edges, edges[1:]):
            piece, past = self.step(ids[:, begin:end], mask[:, :end], positions[:, begin:end], past)
            pieces.append(piece)
        return np.concatenate(pieces, 1)

    def generate(self, ids, mask, count):
        past, new, tokens = self.empty_past(len(ids)), ids, []
        for _ in range(count):
            logits, past = self.step(new, mask, positions_of(mask)[:, -new.shape[1] :], past)
            new = torch.from_numpy(logits[:, -1].argmax(-1))[:, None]
            mask = torch.cat([mask, torch.ones_like(new)], 1)
            tokens.append(new)
        return torch.cat(tokens, 1)


def positions_of(mask):
    return (mask.cumsum(1) - 1).clamp(min=0)


def batch(side, rows=ROWS, length=LENGTH):
    """Random tokens; the first row has padding on that side, or on none."""
    ids = torch.randint(3, 32000, (rows, length), generator=torch.Generator().manual_seed(SEED))
    mask = torch.ones_like(ids)
    if side:
        mask[0, slice(0, PADDING) if side == "left" else slice(-PADDING, None)] = 0
    return ids, mask


def judged(model, ids, mask):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, position_ids=positions_of(mask)).logits.numpy()


def difference(ours, theirs, mask):
    real = mask.bool().numpy()
    assert np.isfinite(ours).all()
    return np.abs(ours - theirs)[real].max()


def genai_answers(folder, prompts, count, adapter=None):
    model = onnxruntime_genai.Model(str(folder))
    adapters = onnxruntime_genai.Adapters(model) if adapter else None
    if adapter:
        adapters.load(str(adapter), "tuned")
    for ids in prompts:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ids) + count, do_sample=False)
        generator = onnxruntime_genai.Generator(model, parameters)
        if adapter:
            generator.set_active_adapter(adapters, "tuned")
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        yield generator.get_sequence(0)[len(ids) :].tolist()


def until_end(tokens):
    return tokens[: tokens.index(2) + 1] if 2 in tokens else tokens
