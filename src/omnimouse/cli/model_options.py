"""Commands about models, with their options: from `demo` and `finetune` to `push` and `info`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from omnimouse.cli.options import (
    Command,
    Debugged,
    OnDevice,
    OnRecording,
    WithJson,
    argument,
    auto_or_flag,
    count,
    name_or_none,
    names,
    names_or_all,
    option,
    repeated,
    switch,
)
from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe
from omnimouse.training.shared.recipe import AskedPrecision

DEFAULT_CORE = "omnimouse-tiny"

SESSION_REVISION = "of the Hub repo that holds the session: branch, tag, commit, or refs/pr/1 (default: main)"

CACHE_VIDEO = "store the core's video features of these windows on disk, for when they are needed again"

TASK_HELP = """\
tasks, by what is predicted in windows of two seconds:
  forecasting   responses in the second half, from all responses in the first
  population    responses of most neurons, from those of a random quarter
  stimulus      responses, from the video
  behavior      pupil, gaze and running, from all responses
Names grow by what else is shown: forecasting+stimulus, population+stimulus+behavior, behavior+stimulus, ...
(`omnimouse info` lists them all). Behavior that is not shown is decoded too.

"""


class DemoSettings(Command):
    """What decides the result of a demonstration."""

    seed: int = option("which mouse", "N", 2026)  # seed of the simulated mouse, its stimuli and the training
    minutes: float = option("length of its recording", "N", 20.0)  # length of the recording
    n_neurons: int = option("neurons of its population", "N", 128, type=count)  # size of the population
    steps: int = option("training steps", "N", 500, type=count)  # training steps

    def __post_init__(self) -> None:
        # The simulation checks the rest at once; this would only be noticed after it.
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected 1 or more")


class Demo(DemoSettings, OnDevice, Debugged):
    """Adapt the shipped core to a mouse it has never seen, and score it."""

    module = "training_commands"
    examples = """\
examples:
  omnimouse demo                                   about five minutes on a laptop, results in omnimouse-demo/
  omnimouse demo --output other/ --seed 3          another mouse, another folder"""

    output: Path = option("folder to write", "FOLDER", Path("omnimouse-demo"))
    force: bool = switch("start anew in the folder of an earlier demo")


class Finetune(OnDevice, OnRecording, WithJson):
    """Train a session adapter for a recording."""

    module = "training_commands"
    examples = """\
examples:
  omnimouse finetune my-recording/ --output my-mouse/
  omnimouse finetune my-recording/ --output my-mouse/ --steps 2000 --masks forecasting,stimulus
  omnimouse finetune my-recording/ --output my-mouse/ --train-core --core-learning-rate 1e-4

`omnimouse evaluate --help` explains the tasks that --masks names; all 120 training masks are used without it.
A run that was interrupted goes on where it stopped when the same command is given again."""

    core: str = option("model with the core: a name, a folder or a Hub repo", "MODEL", DEFAULT_CORE)
    revision: str | None = option(
        "of a Hub repo that holds the core: branch, tag, commit, or refs/pr/1 (default: main)", "NAME"
    )
    output_dir: Path = option(
        "folder for the result (adapter/, or model/ with --train-core), the history and checkpoints",
        "FOLDER",
        flag="--output",
        required=True,
    )
    steps: int = option("optimizer steps of the whole run", "N", FinetuneRecipe.steps, type=count)
    batch_size: int = option("windows per step", "N", FinetuneRecipe.batch_size, type=count)
    session_learning_rate: float = option(
        "peak rate of the session adapter", "RATE", FinetuneRecipe.session_learning_rate
    )
    train_core: bool = switch("also train the core, and save the whole model")
    core_learning_rate: float = option("peak rate of the core", "RATE", FinetuneRecipe.core_learning_rate)
    masks: list[str] | None = option("tasks to train on, with commas between", "NAMES", type=names)
    train_tiers: list[str] = option("tiers to train on", "NAMES", ",".join(FinetuneRecipe.train_tiers), type=names)
    validation_tier: str | None = option(
        "tier that decides which weights are kept; none keeps the last ones; auto: the tier validation, or where there "
        "is none a tenth of the training trials, held out by stimulus",
        "NAME",
        FinetuneRecipe.validation_tier,
        type=name_or_none,
    )
    patience: int | None = option("stop after so many validations without improvement", "N", type=count)
    seed: int = option("decides windows and masks of every step", "N", FinetuneRecipe.seed)
    resume: bool = switch("go on from the checkpoint in the output folder, if there is one", True)
    start_from: Literal["auto", "match", "mean"] = option(
        "where new neurons begin: each at the core's known neuron that predicts it best (match), or all at the average "
        "neuron (mean); auto: match if the core comes with sessions",
        default=FinetuneRecipe.start_from,
    )
    on_device: str | bool = option(
        "cut windows on the device, from the recording held there: true, false, or auto for a GPU with room for it",
        "WHETHER",
        FinetuneRecipe.on_device,
        type=auto_or_flag,
    )
    compile_model: str | bool = option(
        "compile the element-wise parts of the blocks: true, false, or auto for a GPU and 2000 steps or more",
        "WHETHER",
        FinetuneRecipe.compile_model,
        type=auto_or_flag,
    )
    mixed_precision: AskedPrecision = option(
        "to compute in, no being float32 and bf16 bfloat16; auto: bfloat16 where the device has it",
        default=FinetuneRecipe.mixed_precision,
    )
    cache_video: bool = switch(CACHE_VIDEO)


class OfRecipe(WithJson):
    """A command that changes a recipe."""

    overrides: list[str] = repeated(
        "replace a field of the recipe, e.g. optimizer.core.learning_rate=1e-3 (may be given several times)",
        "NAME=VALUE",
        flag="--set",
    )


class Train(OfRecipe):
    """Train a core on many recordings, with the tables of their sessions."""

    module = "training_commands"
    examples = """\
examples:
  omnimouse train recipe.yaml                                                        one process
  omnimouse train recipe.yaml --set steps=2000 --set optimizer.core.learning_rate=1e-3
  accelerate launch --multi_gpu --num_processes 4 -m omnimouse train recipe.yaml     four, on CPUs too
  omnimouse info runs/first                                                          where it stands

The smallest recipe:

  output: runs/first
  recordings: {paths: [data/*]}

A run that was interrupted goes on where it stopped when the same command is given again, on as many processes as you
like. docs/pretraining.md lists all fields of a recipe."""

    recipe: Path = argument("YAML file that says everything about the run", "RECIPE")
    resume: bool = switch("go on from the newest checkpoint in the recipe's output, if there is one", True)


class Anneal(OfRecipe):
    """Fork checkpoints of a pre-training and let the learning rate fall to near zero."""

    module = "training_commands"
    examples = """\
examples:
  omnimouse anneal runs/first --at 200000 400000 --steps 10000
  omnimouse anneal runs/first --at 200000 --steps 10000 --shape power --power 2
  accelerate launch --multi_gpu --num_processes 4 -m omnimouse anneal runs/first --at 200000

With x = (t + 1) / (T + 1) at step t of T, the rate of the constant phase is multiplied by
  1-sqrt        1 - sqrt(x)
  inverse-sqrt  (1 / sqrt(1 + 99 x) - 0.1) / 0.9
  power         (1 - x) ** power
Each fork ends as a model, in anneals/step-<at>-<shape>-<steps>/model of the run."""

    run: Path = argument("folder of a run of omnimouse train", "RUN")
    at: list[int] = option("checkpoints to fork", "STEP", nargs="+", required=True)
    steps: int = option("steps of the decay", "N", 10_000)
    shape: Literal["inverse-sqrt", "1-sqrt", "power"] = option("how the learning rate falls", default="1-sqrt")
    power: float = option("exponent of the shape power", "P", 1.0)


class Scaling(WithJson):
    """Compare annealed cores over sizes and sessions, and fit scaling curves."""

    module = "training_commands"
    examples = """\
examples:
  omnimouse scaling runs/*                              tables and a verdict
  omnimouse scaling runs/* --output scaling/            figures too
  omnimouse anneal runs/small --at 200000 --set 'evaluation.sessions=["29515-10-12"]'

Cores are compared after an anneal, on the same masks and held-out sessions; each anneal is scored at its end when the
recipe evaluates at all. docs/pretraining.md says how curves are fitted."""

    runs: list[Path] = argument("folder of a run with finished anneals, or of one anneal", "RUN", nargs="+")
    data_axis: Literal["sessions", "neurons"] = option("how data is counted in the curves", default="sessions")
    output: Path | None = option("write tables, JSON and figures there", "FOLDER")


class WithModel(OnDevice, OnRecording, WithJson):
    """A command that uses a model on windows of a recording."""

    session_adapter: str | None = option(
        "session adapter of this recording, a folder or a Hub repo; not needed when the model of --core holds its "
        "session",
        "ADAPTER",
    )
    core: str | None = option("model with the core: a name, a folder or a Hub repo (default: the adapter's)", "MODEL")
    revision: str | None = option(SESSION_REVISION, "NAME")
    tier: str | None = option(
        "tier whose trials are used (default: final_test, else the first of test, ..., oracle that is there)", "NAME"
    )
    stride: int | None = option("use every n-th possible window", "N", type=count)
    batch_size: int = option("windows per forward pass", "N", 8, type=count)
    max_windows: int | None = option("use at most so many windows", "N", type=count)
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "to compute in; auto: bfloat16 for published cores where it is measured to be clearly faster", default="auto"
    )


class Evaluate(WithModel):
    """Score a model on held-out trials of a recording."""

    module = "scoring_commands"
    examples = f"""\
{TASK_HELP}examples:
  omnimouse evaluate my-recording/ --session-adapter my-mouse/adapter
  omnimouse evaluate my-recording/ --session-adapter my-mouse/adapter --tasks forecasting,stimulus --tier validation
  omnimouse evaluate my-recording/ --core my-mouse/model --json > scores.json
  omnimouse evaluate static21067-10-18-GrayImageNet-....zip --session-adapter my-mouse/adapter --tier test"""

    stride: int = option("use every n-th possible window", "N", 30, type=count)
    tasks: str | list[str] = option(
        "tasks, with commas between, or all; of single images (SENSORIUM 2022) one, all being stimulus+behavior",
        "NAMES",
        "all",
        type=names_or_all,
    )
    output: Path | None = option("also write the scores, neuron by neuron, as JSON", "FILE")
    cache_video: bool = switch(CACHE_VIDEO)


class Predict(WithModel):
    """Write predictions for a recording."""

    module = "scoring_commands"
    examples = f"""\
{TASK_HELP}examples:
  omnimouse predict my-recording/ --session-adapter my-mouse/adapter --task stimulus+behavior --output predictions.npz
  omnimouse predict my-recording/ --session-adapter my-mouse/adapter --task forecasting+stimulus --rollout 4 \\
    --output four-seconds.npz
  python -c "import numpy; print(numpy.load('predictions.npz').files)"

Predictions are written as they come, into predictions.npz.partial/ until all are there. A command that was interrupted
goes on where it stopped when it is given again."""

    task: str = option("task to predict, e.g. stimulus+behavior", "NAME", required=True)
    output: Path = option(
        "the .npz file to write; of single images (SENSORIUM 2022) also a .csv file, a submission",
        "FILE",
        required=True,
    )
    rollout: int = option(
        "forecast so many target lengths (seconds, for the tasks above) by showing each window the predictions of the "
        "one before",
        "K",
        1,
        type=count,
    )
    resume: bool = switch("go on where the same command was interrupted", True)


class Convert(WithJson):
    """Turn a published checkpoint into a model folder."""

    module = "sharing_commands"
    examples = """\
examples:
  omnimouse convert omnimouse-80m my-80m/               fetch the authors' checkpoint from the Hub first
  omnimouse convert checkpoints/80M/ my-80m/ --size 80m

Nothing in the files is run: what is not tensors and plain data is refused. The folder opens like any other model, and
--core takes it. `--core omnimouse-80m` converts into a cache by itself."""

    source: str = argument("folder of rank_<r>.ckpt files, a published core (omnimouse-80m), or a repo", "SOURCE")
    out: Path = argument("model folder to write; it must not exist yet", "OUT")
    size: str | None = option("size that every tensor must fit, e.g. 80m (default: any)", "NAME")
    revision: str | None = option("revision of the repo (default: main)", "NAME")


class Push(WithJson):
    """Share a model or a session adapter on the Hub."""

    module = "sharing_commands"
    examples = """\
examples:
  omnimouse push my-mouse/adapter me/my-mouse --scores scores.json
  omnimouse push my-model/ me/my-model --private
  omnimouse push my-model/ me/my-model --sessions '29515-*' --revision more-mice

Log in once with `hf auth login`, or set HF_TOKEN. A repo that is created is public unless you say --private. An adapter
that was trained on a core of your own: push the core first, then the adapter with --base-model. A push that was
interrupted, when given again, sends only what is missing."""

    source: str = argument("model or session adapter: a folder, a name or a repo", "WHAT")
    repo: str = argument("repo to push to, user/name; it is created if needed", "REPO")
    sessions: str | list[str] = option(
        "of a model: sessions to push, with commas between (globs too), all, or none", "KEYS", "all", type=names_or_all
    )
    scores: list[Path] = repeated(
        "scores for the card, as `omnimouse evaluate --output` wrote them (may be given several times)",
        "FILE",
        flag="--scores",
    )
    license: str | None = option("licence for the card, e.g. cc-by-4.0", "NAME")
    tags: list[str] | None = option("more tags for the card, with commas between", "NAMES", type=names)
    base_model: str | None = option("of an adapter: repo of its core, if it is not known", "REPO")
    dtype: str | None = option("of an adapter: store it as bfloat16, half the size", "TYPE")
    prune: bool = switch("of a model: delete the repo's other sessions")
    private: bool | None = switch("make a repo that is created private", None)
    create_pr: bool = switch("open a pull request instead of committing")
    commit_message: str | None = option("first line of the commit", "TEXT")
    revision: str | None = option("branch to push to (default: main)", "NAME")


class Info(WithJson):
    """Say what a folder or a core is."""

    module = "sharing_commands"
    examples = """\
examples:
  omnimouse info                       versions, and the cores that come with the package
  omnimouse info omnimouse-tiny        a core: sizes, sessions
  omnimouse info my-mouse/adapter      a session adapter: whose, for which core
  omnimouse info my-recording/         a recording: neurons, tiers, windows
  omnimouse info runs/first            a pre-training: where it stands"""

    target: str | None = argument(
        "core, session adapter, recording or training run: a folder, a name or a Hub repo (default: versions)",
        "WHAT",
        nargs="?",
    )
    revision: str | None = option("of a Hub repo: branch, tag, commit, or refs/pr/1 (default: main)", "NAME")
