"""LoRA on the fusion stack with peft: a few small matrices adapt the core to one mouse, the core itself stays as it is.

The simulated mouse shows how, not that it pays: with these settings the LoRA raises its scores by 0.001, and training
its vectors for as many steps more, without a LoRA, by 0.002 to 0.005.

pip install -e ".[peft]"
python examples/lora.py path/to/session-folder
python examples/lora.py                 # simulates a mouse first
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from peft import LoraConfig, PeftModel, get_peft_model

from omnimouse import OmniMouseModel, evaluate, finetune, open_recording, predict, simulate_recording

# A regular expression over full names, because encoder and decoder have layers of the same names.
FUSION_STACK = r"fusion\.\d+\.(query_key_value|output|feed_forward\.(up|gate|down))"
TASKS = ["forecasting+stimulus+behavior", "population+stimulus+behavior", "stimulus+behavior"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", type=Path, help="session folder; simulated if left out")
    parser.add_argument("--output", type=Path, default=Path("my-mouse-lora"), help="folder for what is written")
    parser.add_argument("--steps", type=int, default=150, help="training steps, before the LoRA and again with it")
    parser.add_argument("--rank", type=int, default=8, help="rank of the LoRA")
    parser.add_argument("--minutes", type=float, default=6, help="length of a simulated recording")
    parser.add_argument("--n-neurons", type=int, default=64, help="neurons of a simulated recording")
    arguments = parser.parse_args()

    folder = arguments.recording
    if folder is None:
        folder = arguments.output / "recording"
        if not folder.exists():
            simulate_recording(folder, seed=7, n_neurons=arguments.n_neurons, minutes=arguments.minutes)
    recording = open_recording(folder)

    # First the mouse's own vectors, with all of the core frozen.
    model = OmniMouseModel.from_pretrained("omnimouse-tiny", sessions="all")
    finetune(model, recording, masks=TASKS, steps=arguments.steps)
    print(evaluate(model, recording, tasks=TASKS).table())

    # Then a LoRA. peft puts it into `model` and freezes all the rest: the core that finetune now trains is the LoRA.
    lora = get_peft_model(
        model, LoraConfig(r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=FUSION_STACK)
    )
    lora.print_trainable_parameters()
    finetune(model, recording, masks=TASKS, steps=arguments.steps, train_core=True, core_learning_rate=1e-3)
    print(evaluate(model, recording, tasks=TASKS).table())
    expected = predict(model, recording, "stimulus+behavior").predictions

    # Two small adapters: the LoRA as peft writes it, and the session. There are no embedding layers to save; left to
    # find that out by itself, peft would ask the Hub about the core.
    lora.save_pretrained(arguments.output / "lora", save_embedding_layers=False)
    model.save_session(recording.session_key, arguments.output / "adapter")
    again = OmniMouseModel.from_pretrained("omnimouse-tiny")
    PeftModel.from_pretrained(again, arguments.output / "lora")
    again.load_session(arguments.output / "adapter")
    found = predict(again, recording, "stimulus+behavior").predictions
    print(f"loaded again: largest difference {np.abs(found - expected).max():.2g}")

    # Or one model without peft, its LoRA added to the core's weights.
    # Only this mouse's session goes along: the others fit the core as it was.
    lora.merge_and_unload().save_pretrained(arguments.output / "model", sessions=[recording.session_key])
    merged = OmniMouseModel.from_pretrained(arguments.output / "model", sessions=[recording.session_key])
    found = predict(merged, recording, "stimulus+behavior").predictions
    print(f"merged: largest difference {np.abs(found - expected).max():.2g}")
    print(f"wrote lora/, adapter/ and model/ in {arguments.output}")


if __name__ == "__main__":
    main()
