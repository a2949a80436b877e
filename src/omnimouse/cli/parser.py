"""All commands of the shell with their options.

Every option is named like the argument of the function behind it, whose docstring is the full description; what the
commands do is in `commands.py`. Nothing here imports a library, so that help and wrong usage are answered at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from omnimouse.cli import (
    check_commands,
    commands,
    corpus_commands,
    export_commands,
    import_commands,
    training_commands,
)
from omnimouse.cli.demo import DemoSettings
from omnimouse.cli.options import DEFAULT_CORE, Parser, add_device, add_json
from omnimouse.support.version import __version__

DESCRIPTION = """\
Use OmniMouse, a model of mouse visual cortex, on a recording of your own.

A pretrained core knows mice in general. A session adapter (one vector per neuron, and a few more) makes it know one
recording. The way from a recording to scores:

  omnimouse check my-recording/                          is the folder sound?
  omnimouse finetune my-recording/ --output my-mouse/    train a session adapter, my-mouse/adapter
  omnimouse evaluate my-recording/ --session-adapter my-mouse/adapter
  omnimouse predict my-recording/ --session-adapter my-mouse/adapter --task stimulus --output predictions.npz

No recording at hand? `omnimouse demo` simulates a mouse and does all of that."""

TASK_HELP = """\
tasks, by what is predicted in windows of two seconds:
  forecasting   responses in the second half, from all responses in the first
  population    responses of most neurons, from those of a random quarter
  stimulus      responses, from the video
  behavior      pupil, gaze and running, from all responses
Names grow by what else is shown: forecasting+stimulus, population+stimulus+behavior, behavior+stimulus, ...
(`omnimouse info` lists them all). Behavior that is not shown is decoded too.

"""

EXAMPLES = {
    "demo": """\
examples:
  omnimouse demo                                   about five minutes on a laptop, results in omnimouse-demo/
  omnimouse demo --output other/ --seed 3          another mouse, another folder""",
    "simulate": """\
example:
  omnimouse simulate my-simulation/ --seed 3 --n-neurons 100 --minutes 10
  omnimouse check my-simulation/""",
    "check": check_commands.CHECK_EXAMPLES,
    "finetune": """\
examples:
  omnimouse finetune my-recording/ --output my-mouse/
  omnimouse finetune my-recording/ --output my-mouse/ --steps 2000 --masks forecasting,stimulus
  omnimouse finetune my-recording/ --output my-mouse/ --train-core --core-learning-rate 1e-4

`omnimouse evaluate --help` explains the tasks that --masks names; all 120 training masks are used without it.
A run that was interrupted goes on where it stopped when the same command is given again.""",
    "convert": """\
examples:
  omnimouse convert omnimouse-80m my-80m/               fetch the authors' checkpoint from the Hub first
  omnimouse convert checkpoints/80M/ my-80m/ --size 80m

Nothing in the files is run: what is not tensors and plain data is refused. The folder opens like any other model, and
--core takes it. `--core omnimouse-80m` converts into a cache by itself.""",
    "export": export_commands.EXPORT_EXAMPLES,
    "push": """\
examples:
  omnimouse push my-mouse/adapter me/my-mouse --scores scores.json
  omnimouse push my-model/ me/my-model --private
  omnimouse push my-model/ me/my-model --sessions '29515-*' --revision more-mice

Log in once with `hf auth login`, or set HF_TOKEN. A repo that is created is public unless you say --private. An adapter
that was trained on a core of your own: push the core first, then the adapter with --base-model. A push that was
interrupted, when given again, sends only what is missing.""",
    "evaluate": f"""\
{TASK_HELP}examples:
  omnimouse evaluate my-recording/ --session-adapter my-mouse/adapter
  omnimouse evaluate my-recording/ --session-adapter my-mouse/adapter --tasks forecasting,stimulus --tier validation
  omnimouse evaluate my-recording/ --core my-mouse/model --json > scores.json
  omnimouse evaluate static21067-10-18-GrayImageNet-....zip --session-adapter my-mouse/adapter --tier test""",
    "predict": f"""\
{TASK_HELP}example:
  omnimouse predict my-recording/ --session-adapter my-mouse/adapter --task stimulus+behavior --output predictions.npz
  python -c "import numpy; print(numpy.load('predictions.npz').files)\"""",
    "import": import_commands.IMPORT_EXAMPLES,
    "list": corpus_commands.LIST_EXAMPLES,
    "download": corpus_commands.DOWNLOAD_EXAMPLES,
    "train": training_commands.TRAIN_EXAMPLES,
    "anneal": training_commands.ANNEAL_EXAMPLES,
    "scaling": training_commands.SCALING_EXAMPLES,
    "info": """\
examples:
  omnimouse info                       versions, and the cores that come with the package
  omnimouse info omnimouse-tiny        a core: sizes, sessions
  omnimouse info my-mouse/adapter      a session adapter: whose, for which core
  omnimouse info my-recording/         a recording: neurons, tiers, windows
  omnimouse info runs/first            a pre-training: where it stands""",
}


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples, and names every default that is worth naming."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(prog="omnimouse", description=DESCRIPTION, formatter_class=_HelpFormatter)
    parser.add_argument("--version", action="version", version=f"omnimouse {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: Callable[[argparse.Namespace], int], *imports: str, summary: str) -> Parser:
        """Adds a command; `imports` are the modules that are loaded before it runs, while Ctrl-C ends all at once."""
        sub = subparsers.add_parser(
            name,
            help=summary[0].lower() + summary[1:],
            description=f"{summary}.",
            epilog=EXAMPLES[name],
            formatter_class=_HelpFormatter,
        )
        sub.set_defaults(function=function, imports=[f"omnimouse.{module}" for module in imports])
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    summary = "Adapt the shipped core to a mouse it has never seen, and score it"
    _add_demo(command("demo", commands.demo, "training", "evaluation", summary=summary))
    _add_simulate(
        command("simulate", commands.simulate, "recordings.simulation.simulated", summary="Write a simulated recording")
    )
    summary = "Show the authors' corpus: sessions, animals, neurons; offline"
    corpus_commands.add_list(command("list", corpus_commands.list_sessions, summary=summary))
    summary = "Download recordings of the authors' corpus from the Hub"
    corpus_commands.add_download(command("download", corpus_commands.download, "corpus.downloading", summary=summary))
    summary = "Make a session folder of an NWB file"
    import_commands.add_import(command("import", import_commands.import_recording, "recordings", summary=summary))
    summary = "Say what is in a recording, and whether it is sound"
    check_commands.add_check(command("check", check_commands.check, "recordings", "cli.describe", summary=summary))
    summary = "Train a session adapter for a recording"
    _add_finetune(command("finetune", commands.finetune, "training", "model.modeling_omnimouse", summary=summary))
    summary = "Train a core on many recordings, with the tables of their sessions"
    training_commands.add_train(command("train", training_commands.train, "training", summary=summary))
    summary = "Fork checkpoints of a pre-training and let the learning rate fall to near zero"
    training_commands.add_anneal(command("anneal", training_commands.anneal, "training", summary=summary))
    summary = "Compare annealed cores over sizes and sessions, and fit scaling curves"
    training_commands.add_scaling(command("scaling", training_commands.scaling, "scaling", summary=summary))
    summary = "Score a model on held-out trials of a recording"
    _add_evaluate(command("evaluate", commands.evaluate, "evaluation", "model.modeling_omnimouse", summary=summary))
    summary = "Write predictions for a recording"
    _add_predict(command("predict", commands.predict, "evaluation", "model.modeling_omnimouse", summary=summary))
    summary = "Turn a published checkpoint into a model folder"
    _add_convert(
        command("convert", commands.convert, "pretrained.published.conversion", "cli.describe", summary=summary)
    )
    summary = "Write recordings as tables that the library datasets reads, or push them to the Hub"
    export_commands.add_export(
        command("export", export_commands.export, "recordings.formats.dataset_form.dataset_writer", summary=summary)
    )
    summary = "Share a model or a session adapter on the Hub"
    _add_push(command("push", commands.push, "model.modeling_omnimouse", summary=summary))
    _add_info(command("info", commands.info, "cli.describe", summary="Say what a folder or a core is"))
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    defaults = DemoSettings()
    parser.add_argument("--output", type=Path, default=Path("omnimouse-demo"), metavar="FOLDER", help="folder to write")
    parser.add_argument("--seed", type=int, metavar="N", default=defaults.seed, help="which mouse")
    parser.add_argument("--minutes", type=float, metavar="N", default=defaults.minutes, help="length of its recording")
    parser.add_argument(
        "--n-neurons", type=_count, metavar="N", default=defaults.n_neurons, help="neurons of its population"
    )
    parser.add_argument("--steps", type=_count, metavar="N", default=defaults.steps, help="training steps")
    parser.add_argument("--force", action="store_true", help="start anew in the folder of an earlier demo")
    add_device(parser)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write; it must not exist yet")
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="which mouse, and which stimuli")
    parser.add_argument("--n-neurons", type=_count, metavar="N", default=100, help="neurons of the population")
    parser.add_argument("--minutes", type=float, metavar="N", default=10.0, help="length of the recording")
    parser.add_argument("--animal", metavar="NAME", help="name of the animal (default: one for every seed)")


def _add_finetune(parser: argparse.ArgumentParser) -> None:
    _add_recording(parser)
    parser.add_argument(
        "--core",
        metavar="MODEL",
        default=DEFAULT_CORE,
        help="model with the core: a name, a folder or a Hub repo",
    )
    _add_revision(parser, "of a Hub repo that holds the core: branch, tag, commit, or refs/pr/1")
    parser.add_argument(
        "--output", dest="output_dir", type=Path, required=True, metavar="FOLDER",
        help="folder for the result (adapter/, or model/ with --train-core), the history and checkpoints",
    )  # fmt: skip
    parser.add_argument("--steps", type=_count, metavar="N", default=1000, help="optimizer steps of the whole run")
    parser.add_argument("--batch-size", type=_count, metavar="N", default=8, help="windows per step")
    parser.add_argument(
        "--session-learning-rate", type=float, metavar="RATE", default=3e-3, help="peak rate of the session adapter"
    )
    parser.add_argument("--train-core", action="store_true", help="also train the core, and save the whole model")
    parser.add_argument("--core-learning-rate", type=float, metavar="RATE", default=1e-4, help="peak rate of the core")
    parser.add_argument("--masks", type=_names, metavar="NAMES", help="tasks to train on, with commas between")
    parser.add_argument("--train-tiers", type=_names, default="train", metavar="NAMES", help="tiers to train on")
    parser.add_argument(
        "--validation-tier", type=_name_or_none, default="auto", metavar="NAME",
        help="tier that decides which weights are kept; none keeps the last ones; auto: the tier validation, or where "
        "there is none a tenth of the training trials, held out by stimulus",
    )  # fmt: skip
    parser.add_argument(
        "--patience", type=_count, metavar="N", help="stop after so many validations without improvement"
    )
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="decides windows and masks of every step")
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True,
        help="go on from the checkpoint in the output folder, if there is one",
    )  # fmt: skip
    parser.add_argument(
        "--start-from", choices=("auto", "match", "mean"), default="auto",
        help="where new neurons begin: each at the core's known neuron that predicts it best (match), or all at the "
        "average neuron (mean); auto: match if the core comes with sessions",
    )  # fmt: skip
    parser.add_argument(
        "--mixed-precision", choices=("auto", "bf16", "no"), default="auto", help="auto: bf16 where the device has it"
    )
    add_device(parser)
    add_json(parser)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_recording(parser)
    _add_model(parser)
    parser.add_argument(
        "--tasks",
        type=_names_or_all,
        default="all",
        metavar="NAMES",
        help="tasks, with commas between, or all; of single images (SENSORIUM 2022) one, all being stimulus+behavior",
    )
    _add_windows(parser, stride=30)
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the scores, neuron by neuron, as JSON")
    add_device(parser)
    add_json(parser)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    _add_recording(parser)
    _add_model(parser)
    parser.add_argument("--task", required=True, metavar="NAME", help="task to predict, e.g. stimulus+behavior")
    _add_windows(parser, stride=None)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE",
        help="the .npz file to write; of single images (SENSORIUM 2022) also a .csv file, a submission",
    )  # fmt: skip
    add_device(parser)
    add_json(parser)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="folder of rank_<r>.ckpt files, a published core (omnimouse-80m), or a repo"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="model folder to write; it must not exist yet")
    parser.add_argument("--size", metavar="NAME", help="size that every tensor must fit, e.g. 80m (default: any)")
    _add_revision(parser, "revision of the repo")
    add_json(parser)


def _add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="WHAT", help="model or session adapter: a folder, a name or a repo")
    parser.add_argument("repo", metavar="REPO", help="repo to push to, user/name; it is created if needed")
    parser.add_argument(
        "--sessions", type=_names_or_all, default="all", metavar="KEYS",
        help="of a model: sessions to push, with commas between (globs too), all, or none",
    )  # fmt: skip
    parser.add_argument(
        "--scores", type=Path, action="append", default=[], metavar="FILE",
        help="scores for the card, as `omnimouse evaluate --output` wrote them (may be given several times)",
    )  # fmt: skip
    parser.add_argument("--license", metavar="NAME", help="licence for the card, e.g. cc-by-4.0")
    parser.add_argument("--tags", type=_names, metavar="NAMES", help="more tags for the card, with commas between")
    parser.add_argument("--base-model", metavar="REPO", help="of an adapter: repo of its core, if it is not known")
    parser.add_argument("--dtype", metavar="TYPE", help="of an adapter: store it as bfloat16, half the size")
    parser.add_argument("--prune", action="store_true", help="of a model: delete the repo's other sessions")
    parser.add_argument("--private", action="store_true", default=None, help="make a repo that is created private")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--commit-message", metavar="TEXT", help="first line of the commit")
    _add_revision(parser, "branch to push to")
    add_json(parser)


def _add_revision(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--revision", metavar="NAME", help=f"{what} (default: main)")


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        nargs="?",
        metavar="WHAT",
        help="core, session adapter, recording or training run: a folder, a name or a Hub repo (default: versions)",
    )
    _add_revision(parser, "of a Hub repo: branch, tag, commit, or refs/pr/1")
    add_json(parser)


def _add_recording(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recording", metavar="RECORDING", type=Path, help="folder of the recording; never written to")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--session-adapter", metavar="ADAPTER",
        help="session adapter of this recording, a folder or a Hub repo; not needed when the model of --core holds "
        "its session",
    )  # fmt: skip
    parser.add_argument(
        "--core",
        metavar="MODEL",
        help="model with the core: a name, a folder or a Hub repo (default: the adapter's)",
    )
    _add_revision(parser, "of the Hub repo that holds the session: branch, tag, commit, or refs/pr/1")


def _add_windows(parser: argparse.ArgumentParser, *, stride: int | None) -> None:
    parser.add_argument(
        "--tier", metavar="NAME",
        help="tier whose trials are used (default: final_test, else the first of test, ..., oracle that is there)",
    )  # fmt: skip
    parser.add_argument("--stride", type=_count, metavar="N", default=stride, help="use every n-th possible window")
    parser.add_argument("--batch-size", type=_count, metavar="N", default=8, help="windows per forward pass")
    parser.add_argument("--max-windows", type=_count, metavar="N", help="use at most so many windows")


def _count(text: str) -> int:
    """A whole number, 1 or more; others are refused here, before anything is loaded."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _names_or_all(text: str) -> str | list[str]:
    return text if text == "all" else _names(text)


def _name_or_none(text: str) -> str | None:
    return None if text == "none" else text
