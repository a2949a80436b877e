"""What a pretrained core is worth: an unseen mouse from `omnimouse-tiny`, and from scratch on that mouse alone.

    python benchmarks/adaptation.py --work adaptation                # about 35 minutes on one CPU core
    python benchmarks/adaptation.py --work adaptation --part core    # only one of both; the last one writes the results

One simulated mouse that no core has seen. From the core, frozen, its session adapter is trained; from scratch, core and
adapter, for half as many steps again. Both train on the same first 2, 5, 10 or 20 minutes of training trials, keep the
weights that score best on the validation trials, and are scored on the same held-out trials. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
import yaml
from floor import floor
from machine import HERE, markdown_table, replace_file
from running import conditions, describe_run, report, write_results

from omnimouse import OmniMouseConfig, OmniMouseModel, simulate_recording
from omnimouse.cli.demo import TASKS
from omnimouse.evaluation import evaluate
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import open_recording
from omnimouse.recordings.simulation.simulated import truth_folder
from omnimouse.support.drawing import as_svg, drawing
from omnimouse.training import finetune
from omnimouse.training.pretraining.initialization import open_stimulus_path

MINUTES = (2, 5, 10, 20)
SEED, N_NEURONS, RECORDED_MINUTES, ANIMAL = 2026, 128, 34, "unseen"
BATCH = 4
FROM_CORE = {"steps": 400, "session_learning_rate": 3e-2}
FROM_SCRATCH = {"steps": 600, "train_core": True, "core_learning_rate": 1.5e-3, "session_learning_rate": 1.2e-2}
SHOWN = tuple(task for task in TASKS if task != "behavior")
PARTS = {"core": "from `omnimouse-tiny`, frozen", "scratch": "from scratch, on this mouse alone"}


def limit_training(source: Path, target: Path, minutes: float) -> float:
    """Copies a recording as links, but for the tier of training trials beyond the first minutes.

    Returns:
        Minutes of training trials left.
    """
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, copy_function=os.link)
    truth = truth_folder(target)
    truth.unlink(missing_ok=True)
    truth.symlink_to(truth_folder(source))
    used = 0.0
    trials = sorted((target / "screen" / "meta").glob("[0-9]*.yml"))
    for path in trials:
        meta = yaml.safe_load(path.read_text())
        if meta.get("tier") != "train":
            continue
        length = meta["num_frames"] / 30 / 60
        if used + length > minutes + 1e-6:
            path.unlink()  # a link: the source keeps its file
            path.write_text(yaml.safe_dump({**meta, "tier": "unused"}))
        else:
            used += length
    return used


def start(part: str, core: str) -> OmniMouseModel:
    """The model that a part begins with."""
    if part == "core":
        return OmniMouseModel.from_pretrained(core, sessions="all")
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny"))
    open_stimulus_path(model)
    model.processor = OmniMouseProcessor(profile="strict")
    return model


def carry_out(part: str, minutes: float, work: Path, core: str) -> None:
    """Trains and scores one case, unless that was done before."""
    result = work / f"{part}-{minutes}.json"
    if result.exists():
        return
    folder = work / f"first-{minutes}-minutes-{part}"
    used = limit_training(work / "mouse", folder, minutes)
    recording = open_recording(folder)
    model = start(part, core)
    trained = finetune(
        model, recording, batch_size=BATCH, masks=TASKS, seed=1, mixed_precision="bf16",
        output_dir=work / f"{part}-{minutes}", **(FROM_CORE if part == "core" else FROM_SCRATCH),
    )  # fmt: skip
    scores = evaluate(model, recording, tasks=TASKS, tier="final_test")
    document = {
        "part": part, "minutes": minutes, "training_minutes": used, "best_step": trained.best_step,
        "seconds": trained.seconds, "neurons": recording.n_neurons,
        "scores": {task: scores.tasks[task].score for task in SHOWN},
        "ceilings": {task: scores.tasks[task].ceiling.score for task in SHOWN},
        "running": scores.tasks["behavior"].behavior["running_speed"],
    }  # fmt: skip
    replace_file(result, json.dumps(document, indent=2))
    print(json.dumps(document), flush=True)


def draw(rows: list[dict]) -> str:
    """Scores over minutes, both starts in every panel."""
    with drawing(8.6, 2.6) as figure:
        panels = figure.subplots(1, len(SHOWN), sharex=True)
        for axes, task in zip(panels, SHOWN, strict=True):
            for part, colour in zip(PARTS, ("#d55e00", "#0072b2"), strict=True):
                chosen = [row for row in rows if row["part"] == part]
                values = [row["scores"][task] for row in chosen]
                label = PARTS[part].replace("`", "")
                axes.plot([row["minutes"] for row in chosen], values, "o-", color=colour, markersize=4, label=label)
            axes.set_title(task.replace("+", "\n+ ", 1), fontsize=8)
            axes.set_xscale("log")
            axes.set_xticks(MINUTES, [str(m) for m in MINUTES])
            axes.minorticks_off()
            axes.set_xlabel("minutes of training trials")
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        panels[0].set_ylabel("single-trial correlation")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
        return as_svg(figure)


def as_text(rows: list[dict]) -> str:
    """The table."""
    table = [
        [PARTS[row["part"]], f"{row['minutes']}", f"{row['best_step']}", f"{row['seconds']:.0f}"]
        + [f"{row['scores'][task]:.3f}" for task in SHOWN]
        + [f"{row['running']:.2f}"]
        for row in rows
    ]
    table.append(["*ceiling of the simulation*", "", "", "", *(f"{rows[0]['ceilings'][t]:.3f}" for t in SHOWN), ""])
    shown = {name: value for name, value in describe_run(floor()).items() if name != "started"}
    return report(
        "An unseen mouse, from a pretrained core and from scratch",
        "adaptation.py",
        [
            f"One simulated mouse (seed {SEED}, {N_NEURONS} neurons, default settings). Correlation of predicted with "
            "recorded responses on held-out trials, mean over neurons; running as decoded from all responses. One "
            "training of each, so differences of about 0.01 mean nothing."
        ],
        markdown_table(["start", "minutes", "best step", "seconds", *SHOWN, "running"], table),
        ["![scores over minutes](adaptation.svg)"],
        ["Seconds were measured while the machine did other things too.", "", *conditions(shown)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("adaptation"), help="folder for the mouse and the trainings")
    parser.add_argument("--core", default="omnimouse-tiny", help="the pretrained core")
    parser.add_argument("--part", choices=PARTS, help="only trainings of one kind")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for table and figure")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = arguments.work
    if not (work / "mouse").exists():
        simulate_recording(work / "mouse", SEED, n_neurons=N_NEURONS, minutes=RECORDED_MINUTES, animal=ANIMAL)
    for part in PARTS if arguments.part is None else [arguments.part]:
        for minutes in MINUTES:
            carry_out(part, minutes, work, arguments.core)
    files = [work / f"{part}-{minutes}.json" for part in PARTS for minutes in MINUTES]
    if all(path.exists() for path in files):
        rows = [json.loads(path.read_text()) for path in files]
        text = as_text(rows)
        write_results(arguments.output, "adaptation", text, rows)
        replace_file(arguments.output / "adaptation.svg", draw(rows))
        print(text)


if __name__ == "__main__":
    main()
