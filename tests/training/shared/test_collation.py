"""Generic training code of Hugging Face trains, evaluates, saves and resumes a model with all of its sessions."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from small_models import build
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from omnimouse import OmniMouseModel, OmniMouseProcessor, WindowCollator, Windows, recording_from_arrays

KEY = "m1-1-1"
STRICT = OmniMouseProcessor(profile="strict")


@pytest.fixture(scope="module")
def windows():
    responses = np.random.default_rng(0).gamma(0.5, 1, (1500, 8)).astype("f4")
    recording = recording_from_arrays(responses, 15.0, session_key=KEY, behavior={"running_speed": responses[:, 0]})
    return Windows(recording, "train", stride=100, processor=STRICT)


@pytest.fixture
def make_trainer(windows, tmp_path):
    def make(name="run", masks=None, **options):
        model = build((KEY, 8, "m1"), ("other-1-1", 5, "other"))
        arguments = TrainingArguments(
            str(tmp_path / name), max_steps=4, save_steps=2, per_device_train_batch_size=2, learning_rate=1e-2,
            lr_scheduler_type="constant", report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=10, **options,
        )  # fmt: skip
        collate = WindowCollator(windows, model.config, masks=masks)
        return Trainer(model, arguments, train_dataset=windows, eval_dataset=windows, data_collator=collate)

    return make


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_trainer_resumes_to_the_weights_of_a_run_without_a_break(make_trainer, tmp_path):
    whole = make_trainer()
    start = copied(whole.model)
    whole.train()
    assert not torch.equal(whole.model.state_dict()[f"sessions.tables.s_{KEY}.neuron_embedding"],
                           start[f"sessions.tables.s_{KEY}.neuron_embedding"])  # fmt: skip
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    resumed = make_trainer()
    resumed.train(resume_from_checkpoint=True)
    assert same(resumed.model.state_dict(), whole.model.state_dict())


def test_trainer_evaluates_by_loss_and_loads_its_best_checkpoint_with_the_sessions(make_trainer, tmp_path):
    trainer = make_trainer(eval_strategy="steps", eval_steps=2, load_best_model_at_end=True)
    losses = [trainer.evaluate()["eval_loss"] for _ in range(2)]
    assert losses[0] == losses[1] and np.isfinite(losses[0])  # the same masks and neurons each time
    trainer.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        best = OmniMouseModel.from_pretrained(trainer.state.best_model_checkpoint, sessions="all")
    assert same(best.state_dict(), trainer.model.state_dict())


def test_trainer_predicts_one_task(make_trainer, windows):
    responses, behavior = make_trainer(masks=["population"]).predict(windows).predictions
    assert responses.shape[:2] == (len(windows), 30) and behavior.shape == (len(windows), 5, 40)


def test_a_checkpoint_of_trainer_is_a_model_folder_whose_core_is_the_core(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.save_model(str(tmp_path / "saved"))
    model = OmniMouseModel.from_pretrained(tmp_path / "saved", sessions=[KEY])
    assert model.session_keys == [KEY] and not model.core_has_changed()
    model.save_pretrained(tmp_path / "saved")  # the folder's other session is one of this core
    assert OmniMouseModel.from_pretrained(tmp_path / "saved", sessions="all").session_keys == [KEY, "other-1-1"]


def test_accelerate_saves_and_loads_sessions_with_everything_else(windows, tmp_path):
    accelerator = Accelerator(cpu=True)
    model = build((KEY, 8, "m1"))
    loader = DataLoader(windows, batch_size=2, collate_fn=WindowCollator(windows, model.config, masks=["population"]))
    prepared, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 1e-2), loader)
    for batch in loader:
        accelerator.backward(prepared(**batch).loss)
        optimizer.step()
        break
    accelerator.save_state(str(tmp_path / "state"))
    trained = copied(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    accelerator.load_state(str(tmp_path / "state"))
    assert same(model.state_dict(), trained)


def test_a_state_dict_that_is_given_is_what_is_saved(tmp_path):
    model = build((KEY, 8, "m1"), ("m1-2-1", 5, "m1"))
    averaged = {name: tensor + 0.5 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "model", state_dict=averaged)
    assert same(OmniMouseModel.from_pretrained(tmp_path / "model", sessions="all").state_dict(), averaged)
    model.save_pretrained(tmp_path / "one", state_dict=averaged, sessions=[KEY], max_shard_size="20KB")
    one = OmniMouseModel.from_pretrained(tmp_path / "one", sessions="all")
    assert one.session_keys == [KEY] and same(one.state_dict(), {n: averaged[n] for n in one.state_dict()})


@pytest.mark.parametrize("change, said", [("drop", "it lacks sessions.tables"), ("add", "the model has no extra")])
def test_a_state_dict_of_something_else_is_refused(tmp_path, change, said):
    model = build((KEY, 8, "m1"))
    state = dict(model.state_dict())
    if change == "drop":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("sessions.tables")}
    else:
        state["extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match=said):
        model.save_pretrained(tmp_path / "model", state_dict=state)
    assert not (tmp_path / "model").exists()


def test_a_collated_batch_is_a_function_of_seed_and_windows(windows):
    model = build((KEY, 8, "m1"))
    items = [windows[0], windows[1]]
    collate = WindowCollator(windows, model.config)
    first, again = collate(items), WindowCollator(windows, model.config)(items)
    assert first["session"] == KEY and "video" not in first and first["mask"] == again["mask"]
    assert torch.equal(first["neuron_ids"], again["neuron_ids"])
    assert not torch.equal(first["neuron_ids"][0], first["neuron_ids"][1])
    masks = {str(WindowCollator(windows, model.config, seed=seed)(items)["mask"]) for seed in range(8)}
    assert len(masks) > 1
    assert model(**first).loss.isfinite()
    without = model(**first, return_loss=False)
    assert without.loss is None and without.response_targets is not None
