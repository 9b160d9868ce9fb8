"""Fixtures of judges and faults. A failing run is repeated with the seed that it prints: TUNE_SEED=..."""

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "judges"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SEED = int(os.environ.get("TUNE_SEED", "20261123"))


def pytest_report_header():
    return f"seed {SEED} (TUNE_SEED)"


@pytest.fixture
def rng():
    return random.Random(SEED)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """tiny(name) is the folder of that model of tiny_models.SHAPES, made once a session."""
    folders = {}

    def make(name, **changes):
        import tiny_models  # takes seconds, which only those pay that need it

        key = (name, tuple(sorted(changes.items())))
        if key not in folders:
            folders[key] = tiny_models.make(name, tmp_path_factory.mktemp(name), SEED, **changes)
        return folders[key]

    return make
