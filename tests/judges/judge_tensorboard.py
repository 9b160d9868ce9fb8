"""TensorBoard's own reader finds in the event files what metrics.jsonl says."""

import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tune_program import metrics, recipe_for, tune, write_chats, write_recipe


def test_scalars_equal_metrics_jsonl(tiny, rng, tmp_path):
    rows, evaluation = (write_chats(tmp_path / name, rng, 12) for name in ("rows.jsonl", "eval.jsonl"))
    recipe = recipe_for(tiny("llama-gqa"), rows, tmp_path / "run", evaluation, train={"max_steps": 6}, eval={"eval_steps": 2})
    tune("run", "--recipe", write_recipe(tmp_path / "recipe.yaml", recipe))
    # An attempt that was killed before its first checkpoint: a second run begins anew beside its event file.
    events = next((tmp_path / "run" / "tensorboard").iterdir())
    shutil.copy(events, tmp_path / "older")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run" / "tensorboard").mkdir(parents=True)
    shutil.copy(tmp_path / "older", tmp_path / "run" / "tensorboard" / events.name)
    tune("run", "--recipe", tmp_path / "recipe.yaml")
    reader = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    tags = {tag: tag.rsplit("/", 1)[-1] for tag in reader.Tags()["scalars"]}
    assert {"loss", "eval_loss", "learning_rate", "grad_norm"} <= set(tags.values())
    for tag, key in tags.items():
        lines = [(line["step"], line[key]) for line in metrics(tmp_path / "run") if key in line]
        events = [(event.step, event.value) for event in reader.Scalars(tag)]
        assert [step for step, _ in events] == [step for step, _ in lines], tag
        assert [value for _, value in events] == pytest.approx([value for _, value in lines], rel=1e-6), tag
