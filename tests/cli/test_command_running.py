"""How commands are run: what they load, what reaches standard output, and Ctrl-C while they start."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib import import_module

import pytest

from omnimouse.cli.main import main
from omnimouse.cli.parser import COMMANDS, build_parser

LIGHT = """
import sys
from omnimouse.cli.main import main

for argv in (["--help"], ["finetune", "--help"], ["--version"], ["finetune"], ["nonsense"], ["list", "--count", "x"],
             ["finetune", "r", "--output", "o", "--steps", "-3"], ["evaluate", "r", "--stride", "0"]):
    try:
        main(argv)
    except SystemExit as end:
        assert end.code == (0 if argv[-1].startswith("--") and "x" not in argv else 2), argv
print([name for name in ("torch", "transformers", "numpy", "huggingface_hub", "safetensors") if name in sys.modules])
"""

INTERRUPTED = """
import os, signal, sys, time


class Interrupted:
    "Ctrl-C in the middle of a library's import that catches everything."

    def find_spec(self, name, path=None, target=None):
        if name == "safetensors":
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
            except BaseException:
                print("caught")


signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what runs in the background
sys.meta_path.insert(0, Interrupted())
sys.argv = ["omnimouse", "info", "--json"]
from omnimouse.cli.main import main
sys.exit(main())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_help_and_wrong_usage_load_no_library():
    done = python(LIGHT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n[]\n")


def test_ctrl_c_while_a_command_starts_ends_it_without_a_traceback():
    done = python(INTERRUPTED)
    assert (done.returncode, done.stdout, done.stderr) == (
        130,
        '{"error": "interrupted"}\n',
        "omnimouse: interrupted\n",
    )


def test_every_command_has_what_runs_it():
    for command in COMMANDS:
        module = import_module(f"omnimouse.cli.commands.{command.module}")
        assert callable(getattr(module, f"{command.name()}_command")), command


def commands_with_json() -> list[str]:
    (subparsers,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [name for name, sub in subparsers.choices.items() if "--json" in sub._option_string_actions]


def test_all_commands_but_two_print_json():
    assert len(commands_with_json()) == len(set(commands_with_json())) >= 13
    assert not {"demo", "simulate"} & set(commands_with_json())


NOISY = """
import argparse, math, os, subprocess, sys, warnings
from omnimouse.cli.output import Said
from omnimouse.cli.running import run


def noisy(args):
    "A command whose libraries print: from Python, from C, in a child, as warnings."
    print("Loading weights")
    os.write(1, b"from C\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    warnings.warn("a warning")
    FAILURE
    return Said({"nan": math.nan, "numbers": [1.0, math.inf]}, "numbers", status=1)


status = run(noisy, argparse.Namespace(json=True, debug=True))
print("and standard output is back")
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("failure", "status", "content"),
    [
        ("", 1, {"nan": None, "numbers": [1.0, None]}),
        ("raise ValueError('bad')", 2, {"error": "bad"}),
        ("raise KeyboardInterrupt", 130, {"error": "interrupted"}),
        ("raise SystemExit(143)", 143, {"error": "terminated"}),
        ("{}['x']", 2, None),
    ],
)
def test_json_is_alone_on_standard_output_whatever_libraries_print(failure, status, content):
    done = python(NOISY.replace("FAILURE", failure))
    assert done.returncode == status, done.stderr
    document, _, rest = done.stdout.rpartition("}\n")
    assert rest == "and standard output is back\n"
    found = json.loads(document + "}")
    assert found == content if content is not None else "KeyError: 'x'" in found["error"]
    for noise in ("Loading weights", "from C", "from a child", "omnimouse: warning: a warning"):
        assert noise in done.stderr


@pytest.mark.parametrize("asked", ["--json", "--js"])
def test_wrong_usage_is_json_too_where_json_is_asked_for(asked, capsys):
    with pytest.raises(SystemExit) as end:
        main(["finetune", asked])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": "the following arguments are required: RECORDING, --output"}
    assert "usage: omnimouse finetune" in captured.err


@pytest.mark.parametrize("argv", [["list", "17797-*"], ["info"], ["info", "omnimouse-tiny"], ["info", "nowhere"]])
def test_commands_print_one_document(argv, capsys):
    status = main([*argv, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert ("error" in content) == (status == 2) == (argv[-1] == "nowhere")
