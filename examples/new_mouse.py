"""A new mouse from start to end: open its recording, adapt a core to it, score it, save the session adapter.

python examples/new_mouse.py path/to/session-folder
python examples/new_mouse.py            # simulates a mouse first
"""

from __future__ import annotations

import argparse
from pathlib import Path

from omnimouse import OmniMouseModel, evaluate, finetune, open_recording, predict, simulate_recording


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", type=Path, help="session folder; simulated if left out")
    parser.add_argument("--output", type=Path, default=Path("my-mouse"), help="folder for what is written")
    parser.add_argument("--steps", type=int, default=300, help="training steps")
    parser.add_argument("--minutes", type=float, default=6, help="length of a simulated recording")
    parser.add_argument("--n-neurons", type=int, default=64, help="neurons of a simulated recording")
    arguments = parser.parse_args()

    folder = arguments.recording
    if folder is None:
        folder = arguments.output / "recording"
        if not folder.exists():
            simulate_recording(folder, seed=7, n_neurons=arguments.n_neurons, minutes=arguments.minutes)
    recording = open_recording(folder)

    # The core, and the sessions it was trained on: the new neurons begin at known ones that resemble them.
    model = OmniMouseModel.from_pretrained("omnimouse-tiny", sessions="all")
    result = finetune(model, recording, steps=arguments.steps, output_dir=arguments.output / "finetune")
    print(f"validation loss {result.initial_validation_loss:.4f} -> {result.best_validation_loss:.4f}")

    scores = evaluate(model, recording, tasks=["forecasting", "stimulus+behavior", "behavior"], tier="final_test")
    print(scores.table())
    predict(model, recording, "stimulus+behavior", tier="final_test", output=arguments.output / "predictions.npz")

    adapter = model.save_session(recording.session_key, arguments.output / "adapter")
    again = OmniMouseModel.from_pretrained("omnimouse-tiny")
    again.load_session(adapter)
    print(f"saved {adapter}: {[f'{p.name} {p.stat().st_size} bytes' for p in sorted(adapter.iterdir())]}")


if __name__ == "__main__":
    main()
