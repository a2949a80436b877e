"""The same fine-tune with `transformers.Trainer`: for loops, callbacks and schedules of your own.

`omnimouse.finetune` needs less of you: it starts neurons at known ones that resemble them, validates by task and keeps
the best weights. Here the session's tables are trained on a frozen core, and checkpoints hold both.

python examples/trainer.py path/to/session-folder
python examples/trainer.py              # simulates a mouse first
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import Trainer, TrainingArguments

from omnimouse import OmniMouseModel, WindowCollator, Windows, evaluate, open_recording, simulate_recording

TASKS = ["forecasting+stimulus+behavior", "population+stimulus+behavior", "stimulus+behavior"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", type=Path, help="session folder; simulated if left out")
    parser.add_argument("--output", type=Path, default=Path("my-mouse-trainer"), help="folder for what is written")
    parser.add_argument("--steps", type=int, default=100, help="training steps")
    parser.add_argument("--minutes", type=float, default=6, help="length of a simulated recording")
    parser.add_argument("--n-neurons", type=int, default=64, help="neurons of a simulated recording")
    arguments = parser.parse_args()

    folder = arguments.recording
    if folder is None:
        folder = arguments.output / "recording"
        if not folder.exists():
            simulate_recording(folder, seed=7, n_neurons=arguments.n_neurons, minutes=arguments.minutes)
    recording = open_recording(folder)

    model = OmniMouseModel.from_pretrained("omnimouse-tiny")
    model.add_session(recording)
    trained = {name for name, _ in model.session_named_parameters(recording.session_key)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)

    windows = Windows(recording, "train", processor=model.processor)
    held_out = Windows(recording, "validation", stride=30, processor=model.processor)
    trainer = Trainer(
        model,
        TrainingArguments(
            str(arguments.output / "checkpoints"),
            max_steps=arguments.steps,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            weight_decay=1e-3,
            eval_strategy="steps",
            eval_steps=max(1, arguments.steps // 4),
            save_steps=max(1, arguments.steps // 4),
            load_best_model_at_end=True,
            report_to=[],
        ),
        train_dataset=windows,
        eval_dataset=held_out,
        data_collator=WindowCollator(windows, model.config, masks=TASKS),
    )
    trainer.train()
    print(f"validation loss {trainer.evaluate()['eval_loss']:.4f}")
    print(evaluate(model, recording, tasks=TASKS, tier="final_test").table())
    print(f"saved {model.save_session(recording.session_key, arguments.output / 'adapter')}")


if __name__ == "__main__":
    main()
