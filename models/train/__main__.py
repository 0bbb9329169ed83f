"""Train the bundled model: `python -m models.train`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.train.recipe import STEPS, Recipe
from momalisa.settings import BUNDLED_MODEL, ROOT
from momalisa.telemetry import logging

PACKAGES = ROOT / ".venv" / "train-packages" / "node_modules"
WORK = ROOT / ".momalisa" / "train"


def main(arguments: Sequence[str]) -> None:
    """Run all steps, or one."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("step", nargs="?", choices=STEPS, help="run only this step")
    parser.add_argument("--hours", type=float, help="duration of each step")
    parser.add_argument(
        "--continue", dest="continues", action="store_true", help="start from the weights of the bundled denoiser"
    )
    options = parser.parse_args(arguments)
    logging.configure()
    recipe = Recipe(PACKAGES, WORK, Path(BUNDLED_MODEL), continues=options.continues)
    steps = [options.step] if options.step else STEPS
    for step in steps:
        recipe.make(step, options.hours)
    if STEPS[-1] in steps:
        print(f"The model is in {recipe.model}; try it: MODEL={recipe.model} make walk")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
