"""A small model, rows and a recipe, for a test to spoil; the exit codes that it expects then."""

import json
import resource
import shutil
import subprocess

import pytest
from safetensors.torch import load_file, save_file
from tune_program import BINARY, recipe_for, tune, write_chats, write_recipe

FAILED, RECIPE, DATA = 1, 2, 3


class Place:
    """A small model, rows and a recipe in a folder of their own, for a test to spoil."""

    def __init__(self, tiny, root, rng):
        self.root, self.model, self.rows = root, root / "model", root / "rows.jsonl"
        shutil.copytree(tiny("llama-gqa"), self.model)
        write_chats(self.rows, rng, 12)
        self.recipe = recipe_for(self.model, self.rows, root / "run")

    def line(self, number, text):
        lines = self.rows.read_bytes().splitlines()
        lines[number - 1] = text if isinstance(text, bytes) else text.encode()
        self.rows.write_bytes(b"\n".join(lines) + b"\n")

    def chat(self, number, *turns):
        self.line(number, json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))

    def weights(self, change, model=None):
        path = (model or self.model) / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    def config(self, **values):
        path = self.model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def refused(self, code, *words, verb="run", arguments=()):
        path = write_recipe(self.root / "recipe.yaml", self.recipe)
        done = tune(verb, "--recipe", path, *arguments, expect=code)
        for word in words:
            assert str(word) in done.stderr, f"{word!r} is missing in\n{done.stderr}"
        assert done.stderr.count("tune: ") == 1
        assert not list(self.root.glob("run/checkpoint-*"))
        assert done.stdout == ""


@pytest.fixture
def place(tiny, tmp_path, rng):
    return Place(tiny, tmp_path, rng)


def on_a_small_disk(size, *arguments):
    """The program where no file can become larger than `size` bytes: a write fails as on a full disk."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    # Python ignores SIGXFSZ, and so does its child
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, preexec_fn=limit, restore_signals=False)
