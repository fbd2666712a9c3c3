r"""The program `cmm`: verbs as a person would say them, then options as key=value."""

__all__ = ["main"]

import errno
import importlib
import os
import shlex
import sys

from collections.abc import Sequence

from . import signals
from .catalogue import config_file, experiments
from .errors import DataError, Interrupted, UsageError, UserError, nearest

VERBS = {
    "train": "trains a run; the same command again goes on with it",
    "sample": "draws samples from a run or a bundle",
    "evaluate": "scores a run or a bundle, step by step",
    "synth": "turns a run or a bundle into a data set that other models are trained on",
    "verify": "finds what is missing or changed in such a data set",
    "edit": "completes what is known of samples, or walks between two",
    "tune-steps": "searches where a few steps should lie",
    "export": "writes the bundle to share",
    "benchmark": "measures a suite of cases, and goes on where it was stopped",
    "doctor": "says what this machine can do",
}
LONG = ("train", "synth")  # what the same command goes on with
NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
EXAMPLES = {
    "train": ("experiment=image/digits name=first", "data=folder data.folder=my/pictures name=mine"),
    "sample": ("run=runs/first steps=2 n=64 seed=0", "run=runs/first solver=euler steps=100 label=3"),
    "evaluate": ("run=runs/first steps=[1,2,4,8]", "run=runs/first steps=[1,2] diagonal=[2,100]"),
    "synth": ("run=runs/first n=10000 steps=2 out=data/synth", "run=runs/first n=5000 out=data/tar format=webdataset"),
    "verify": ("out=data/synth",),
    "edit": ("run=runs/first mask=left steps=2", "run=runs/first how=interpolate 'between=[0,10]' label=3"),
    "tune-steps": ("run=runs/first steps=4", "run=runs/first steps=10 solver=dpm_solver_pp evaluations=100"),
    "export": ("run=runs/first out=bundle/",),
    "benchmark": ("suite=ground_truth", "suite=digits 'only=[mean_flow,shortcut]'"),
    "doctor": ("",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code.

    Arguments:
        arguments: The words after `cmm`; those of the command line unless given.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("--help", "-h", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(importlib.import_module("importlib.metadata").version("cm-multimodal"))
        return 0
    try:
        with signals.listening():
            return _run(words[0], words[1:])
    except Interrupted as error:
        alone = "WORLD_SIZE" not in os.environ
        more = (
            f" The same command goes on{f': cmm {shlex.join(words)}' if alone else '.'}"
            if words[0] in ("train", "synth")
            else ""
        )
        print(f"cmm: {error}{more}", file=sys.stderr)
        return error.exit_code
    except UserError as error:
        print(f"cmm: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        print(
            f"cmm: {error}. Make room or choose another place; what was finished before is untouched.", file=sys.stderr
        )
        return DataError.exit_code


def _run(verb: str, words: list[str]) -> int:
    if verb not in VERBS:
        raise UsageError(f"There is no command '{verb}'; {nearest(verb, VERBS)}")
    if any(word in ("--help", "-h") for word in words):
        print(_verb_help(verb))
        return 0
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(f"'{word}' is not of the form key=value; see cmm {verb} --help.")
    from .config import compose

    config = compose(verb, words)
    importlib.import_module(f".commands.{verb.replace('-', '_')}", __package__).run(config)
    return 0


def _help() -> str:
    rows = "\n".join(f"  {verb:10} {what}" for verb, what in VERBS.items())
    return f"cmm: few-step generators, learned from scratch\n\n{rows}\n\n  cmm VERB --help shows the options of one of them."


def _verb_help(verb: str) -> str:
    examples = "\n".join(f"  cmm {verb} {words}" for words in EXAMPLES[verb])
    options = "".join(f"  {line}\n" for line in config_file(verb).read_text().splitlines())
    more = f"\nexperiments: {', '.join(experiments())}" if verb == "train" else ""
    return f"cmm {verb}: {VERBS[verb]}\n\n{examples}\n\noptions and their defaults:\n{options}{more}".rstrip()
