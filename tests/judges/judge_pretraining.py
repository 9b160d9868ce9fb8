"""Continued pre-training: text of any size in constant memory, documents that stay apart, chat data mixed in by weight."""

import json
import random
import re
import subprocess
import time
from pathlib import Path

import pytest
from conftest import SEED

from tune_program import BINARY, recipe_for, shown_rows, tune, write_chats, write_recipe

MIB = 2**20


def write_texts(path, size, words=400):
    rng, dictionary = random.Random(SEED), [f"word{number}" for number in range(3000)]
    with open(path, "w") as file:
        while file.tell() < size:
            file.write(json.dumps({"text": " ".join(rng.choice(dictionary) for _ in range(words))}) + "\n")
    return path


def text_recipe(model, path, output, *more, **sections):
    recipe = recipe_for(model, path, output, **sections)
    recipe["stage"] = "pretrain"
    recipe["data"].update(chat_template="none", packing=True, overflow="split", datasets=[{"path": str(path), "type": "text"}, *more])
    recipe["train"].update(max_steps=1, global_batch_size=1, per_device_train_batch_size=1)
    return recipe


def anonymous_memory(*arguments):
    """Bytes that are nobody's file: those of mapped ones are given back when others want them."""
    process, most = subprocess.Popen([BINARY, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True), 0
    while process.poll() is None:
        found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
        most = max(most, int(found[1]) * 1024 if found else 0)
        time.sleep(0.005)
    assert process.returncode == 0, process.stderr.read()
    return most


def test_memory_does_not_grow_with_the_text(tiny, tmp_path):
    most = []
    for size in (1 * MIB, 24 * MIB):
        recipe = text_recipe(tiny("llama-mha"), write_texts(tmp_path / f"{size}.jsonl", size), tmp_path / f"run-{size}")
        most.append(anonymous_memory("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe)))
    print([f"{bytes_ / MIB:.0f} MiB" for bytes_ in most])
    assert most[1] - most[0] < 12 * MIB  # half of what the text has grown by; its tokens are as many bytes


def test_chat_data_is_mixed_in_by_weight_and_documents_end(tiny, tmp_path):
    chats = write_chats(tmp_path / "chats.jsonl", random.Random(SEED), 60)
    chat = {"path": str(chats), "type": "chat", "weight": 2.0}
    recipe = text_recipe(tiny("llama-mha"), write_texts(tmp_path / "text.jsonl", MIB // 4), tmp_path / "run", chat)
    recipe["data"]["datasets"][0]["weight"] = 0.5
    path = write_recipe(tmp_path / "recipe.yaml", recipe)
    text, chat = (source["tokens"] for source in json.loads(tune("data", "stats", "--recipe", path, "--json").stdout)["sources"])
    epoch = json.loads(tune("plan", "--recipe", path, "--json").stdout)["tokens_per_epoch"]
    assert epoch == pytest.approx(0.5 * text + 2 * chat, rel=0.02)
    # of a text in pieces, the last one ends in EOS; everything is trained but what nothing comes before
    rows = shown_rows(path)
    last = {(row["file"], row["line"]): row for row in rows}
    assert len(last) < len(rows) and all(row["ids"][-1] == 2 for row in last.values())
    assert all(sum(row["trained"][1:]) >= len(row["ids"]) - 2 for row in rows)
