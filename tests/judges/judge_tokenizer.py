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
from transformers.tokenization_utils_base import generate_merges
from transformers.utils.chat_template_utils import render_jinja_template

from tune_program import BUILD, QUICKSTART, ROOT, SHARED, recipe_for, shown_rows, write_recipe

PROBE = BUILD / "tests" / "tokenizer_probe"
TEMPLATES = ROOT / "tests" / "fixtures" / "templates"
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

    def tokens(self, text):
        """Ids and the byte of the text where each begins."""
        ids, begins, at = [], [], 0
        for stretch, special in self.stretches(text):
            processor = self.with_prefix if self.legacy or at == 0 else self.without_prefix
            if special is None:
                pieces = processor.encode(stretch, return_type="proto").pieces
                ids += [piece.id for piece in pieces]
                begins += [at + piece.begin for piece in pieces]
            else:
                ids.append(special)
                begins.append(at)
            at += len(stretch.encode())
        return ids, begins

    def ids(self, text):
        return self.tokens(text)[0]

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


# ---- conversations: what others publish, with marks around what an answer is ----

# In each published template, how an answer is written, and the same with transformers' marks around it.
ANSWERS = {
    "zephyr": ("{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n", "{{ '<|assistant|>\n' }}GENERATION{{ '\n' }}"),
    "llama2": ("{{ ' '  + content.strip() + ' ' + eos_token }}", "{% generation %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endgeneration %}"),
    "chatml": (
        "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}",
        "{{'<|im_start|>' + message['role'] + '\\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}{{'\\n'}}",
    ),
    "alpaca": ("{{ message.content }}{{ eos_token }}", "{%- generation -%}{{ message.content }}{{ eos_token }}{%- endgeneration -%}"),
    "none": (
        "{{ message.content }}{%- if message.role == 'assistant' -%}{{ eos_token }}{%- endif -%}",
        "{%- if message.role == 'assistant' -%}{%- generation -%}{{ message.content }}{{ eos_token }}{%- endgeneration -%}"
        "{%- else -%}{{ message.content }}{%- endif -%}",
    ),
}


def published(template):
    return (TEMPLATES / f"{template}.jinja").read_text()


def marked(template, jinja):
    plain, with_marks = ANSWERS[template]
    assert jinja.count(plain) == 1
    whole = "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    return jinja.replace(plain, with_marks.replace("GENERATION", whole))


def answers_in(messages, template, jinja, specials):
    """The text and, in characters, where its answers are, by transformers."""
    texts, spans = render_jinja_template([messages], chat_template=marked(template, jinja), return_assistant_tokens_mask=True, **specials)
    return texts[0], spans[0]


def check_masks(model, template, jinja, conversations_, tokens, specials):
    """A token is trained where it begins in an answer: in each, in the last one, or anywhere."""
    for train_on in ("assistant", "last", "all"):
        requests = [{"messages": messages, "template": template, "train_on": train_on} for messages in conversations_]
        for messages, answer in zip(conversations_, probe(model, requests)):
            if "error" in answer:
                continue
            text, spans = answers_in(messages, template, jinja, specials)
            assert answer["text"] == text, messages
            ids, begins = tokens(text)
            spans = [(len(text[:begin].encode()), len(text[:end].encode())) for begin, end in spans]
            kept = {"assistant": spans, "last": spans[-1:], "all": [(0, len(text.encode()))]}[train_on]
            trained = [int(any(begin <= at < end for begin, end in kept)) for at in begins]
            assert answer["ids"] == ids, messages
            assert answer["trained"] == trained, (train_on, messages)
            if train_on != "all":
                assert sum(trained) >= len(kept)


@pytest.mark.parametrize("template", ["zephyr", "llama2", "alpaca", "none"])
def test_sentencepiece_conversations(sentencepiece, rng, template):
    requests = [
        {"messages": messages, "template": template, "generation": rng.random() < 0.5}
        for messages in conversations(rng, 600, alternate=template == "llama2")
    ]
    jinja = published(template)
    exported = probe(sentencepiece.folder, [{"jinja": template}])[0]["text"]
    answers = probe(sentencepiece.folder, requests)
    compared = [(r, a) for r, a in zip(requests, answers) if "error" not in a]
    for request, answer in zip(requests, answers):
        if "error" in answer:  # a system message alone has no user's turn to go into
            assert template == "llama2" and "role" in answer["error"], answer
    assert len(compared) >= 500
    texts = []
    for request, answer in compared:
        rendered = [
            sentencepiece.transformers.apply_chat_template(
                request["messages"], chat_template=text, add_generation_prompt=request["generation"], tokenize=False
            )
            for text in (jinja, exported)
        ]
        assert answer["text"] == rendered[0] == rendered[1], request
        texts.append(answer["text"])
    check_ids(sentencepiece, texts, [answer for _, answer in compared])
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    check_masks(sentencepiece.folder, template, jinja, [request["messages"] for request in requests], sentencepiece.tokens, specials)


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


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    file = QUICKSTART / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        pytest.skip(f"no SmolLM2: {file} is absent; tools/fetch-quickstart.sh fetches it")
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

        def tokens(text):
            encoding = judge(text, add_special_tokens=False, return_offsets_mapping=True)
            return encoding["input_ids"], [len(text[:begin].encode()) for begin, _ in encoding["offset_mapping"]]

        with_system = [[{"role": "system", "content": "S"}, *request["messages"]] for request in requests]
        check_masks(model, "chatml", published("chatml"), with_system, tokens, {})


def real_text():
    path = SHARED / "tinyshakespeare" / "input.txt"
    text = next((file.read_text() for file in [path, *sorted(path.parent.glob("*.txt"))] if file.is_file()), None)
    return text if text else "First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 6000


def long_text(rng):
    """Some hundred kB of what people write, of what nobody should, and of a script that has no spaces."""
    real = real_text()
    nasty = "".join(nasty_text(rng, 10).replace("\x00", "") for _ in range(1500))
    return real[:400_000] + nasty + "日本語のテキスト、改行なし。\n" * 4000 + real[400_000:500_000] + "  \n \n"


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_long_texts_are_one_text(sentencepiece, rng, tmp_path, kind):
    """Tokenised in stretches on all cores, and the ids are those of the whole."""
    check_long_text(sentencepiece.folder, sentencepiece.ids, rng, tmp_path, kind, bos=[1])


@pytest.mark.parametrize("model", ["gguf", "tokenizer.json"])
def test_smollm2_long_texts_are_one_text(smollm2, rng, tmp_path, model):
    folder = smollm2[0] if model == "gguf" else smollm2[1]
    check_long_text(folder, lambda text: smollm2[2].encode(text, add_special_tokens=False), rng, tmp_path, "txt", bos=[])


def check_long_text(model, ids_of, rng, tmp_path, kind, bos):
    text, file = long_text(rng), tmp_path / f"long.{kind}"
    file.write_bytes(text.encode() if kind == "txt" else (json.dumps({"text": text}) + "\n").encode())
    data = {"chat_template": "none", "overflow": "split", "max_length": 4096, "datasets": [{"path": str(file), "type": "text"}]}
    rows = shown_rows(write_recipe(tmp_path / "recipe.yaml", recipe_for(model, file, tmp_path / "run", data=data)))
    ids = rows[0]["ids"] + [token for row in rows[1:] for token in row["ids"][1:]]
    assert all(before["ids"][-1] == after["ids"][0] for before, after in zip(rows, rows[1:]))
    assert all(row["trained"] == [int(i > 0 or (row is rows[0] and not bos)) for i in range(len(row["ids"]))] for row in rows)
    wanted = bos + ids_of(text) + [2]
    differs = next((i for i, (a, b) in enumerate(zip(ids, wanted)) if a != b), None)
    assert differs is None and len(ids) == len(wanted), (differs, ids[(differs or 0) :][:8], wanted[(differs or 0) :][:8])


# ---- tokenizer.json of Llama's kind ----


def saved(tokenizer, folder, **config):
    """What transformers makes of what it wrote itself; `config` says what it forgets to."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return AutoTokenizer.from_pretrained(folder)


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
    judge = saved(judge, folder, tokenizer_class="PreTrainedTokenizerFast")
    texts = [nasty_text(rng, 10) for _ in range(1000)]
    for text, answer in zip(texts, probe(folder, [{"encode": text} for text in texts])):
        assert answer["ids"] == judge.encode(text, add_special_tokens=False), repr(text)


@pytest.fixture(scope="module")
def published_json(tmp_path_factory):
    """Mistral's tokenizer.json as it is published: merges by score, the dummy prefix by a normalizer."""
    model = mistral_model()
    if model is None:
        pytest.skip("no tokenizer.model of mistral")
    folder = tmp_path_factory.mktemp("published")
    SentencePieceJudge(folder / "model", model, True).transformers.save_pretrained(folder / "json")
    file = json.loads((folder / "json" / "tokenizer.json").read_text())
    pieces = model_proto.ModelProto.FromString(model.read_bytes()).pieces
    vocabulary = {piece.piece: i for i, piece in enumerate(pieces)}
    merges = generate_merges(vocabulary, {piece.piece: piece.score for piece in pieces})
    file["model"].update(vocab=vocabulary, merges=[list(merge) for merge in merges])
    file["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}],
    }
    file["pre_tokenizer"] = None
    return model, json.dumps(file)


@pytest.mark.parametrize("legacy", [True, False, None])
@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_published_layouts(published_json, rng, tmp_path, model_type, tokenizer_class, legacy):
    """A tokenizer.json alone, and a tokenizer.model beside it, whose rules may contradict each other."""
    model, tokenizer_json = published_json
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": legacy, "tokenizer_class": tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer.json").write_text(tokenizer_json)
    judge = AutoTokenizer.from_pretrained(folder)
    texts = [nasty_text(rng, 10) for _ in range(150)] + ["a</s>b", "</s> c", "<s>x  y", "a  b"]
    for files in ("tokenizer.json", "both"):
        if files == "both":
            shutil.copy(model, folder / "tokenizer.model")
            judge = AutoTokenizer.from_pretrained(folder)
        agreed = 0
        for text, answer in zip(texts, probe(folder, [{"encode": text} for text in texts])):
            stretches = [stretch for stretch in SPECIAL.split(text) if stretch]
            # SentencePiece's own answer counts where its model is there, see above
            if files == "both" and ("\u2581" in text or any(stretch.startswith(" ") for stretch in stretches)):
                continue
            assert answer["ids"] == judge.encode(text, add_special_tokens=False), (files, text)
            agreed += 1
        assert agreed >= len(texts) // 3


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}, {"lstrip": True, "rstrip": True}])
def test_flags_of_added_tokens(tmp_path, rng, flags):
    from tokenizers import AddedToken

    model = mistral_model()
    if model is None:
        pytest.skip("no tokenizer.model of mistral")
    judge = SentencePieceJudge(tmp_path / "model", model, True).transformers
    judge.add_tokens([AddedToken("<step>", special=False, **{"normalized": False, **flags}), AddedToken("<step>>", normalized=False)])
    folder = tmp_path / "json"
    judge = saved(judge, folder, legacy=True)
    marks = ["<step>", " <step>", "<step> ", "  <step>  \n", "a<step>", "<step>b", "<step><step>", "<step>>", "\u3000<step>\u00a0", ".<step>,"]
    texts = ["".join(rng.choice([nasty_text(rng, 2), rng.choice(marks)]) for _ in range(8)) for _ in range(1000)]
    for text, answer in zip(texts, probe(folder, [{"encode": text} for text in texts])):
        assert answer["ids"] == judge.encode(text, add_special_tokens=False), repr(text)
