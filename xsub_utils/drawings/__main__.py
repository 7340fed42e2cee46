"""Every figure below a folder, drawn again from the CSV beside it: `python -m xsub_utils.drawings FOLDER`."""

import argparse
import sys
from pathlib import Path

from xsub_utils.plots import redraw


def main(arguments: list[str] | None = None) -> int:
    """Draw them and say how many; the exit status is 1 if there were none."""
    parser = argparse.ArgumentParser("python -m xsub_utils.drawings", description="Draw figures from their CSVs.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    drawn = redraw(folder)
    print(f"{len(drawn)} figures redrawn in {folder}")
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
