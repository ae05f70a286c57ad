"""The guide's command line, ``python tkbc/learner.py --dataset ICEWS14 --model TNTPairRE --rank 64 …``.

Flags and defaults are those of the original tkbc learner; planning, checking and evaluation are memplan's.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memplan.app.request import SearchRequest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="learner.py",
        description="Train a temporal knowledge-graph embedding: the same run as memplan train --auto-fit-gpu, with "
        "the original learner's flags.",
    )
    parser.add_argument("--dataset", default=None, help="catalog name, folder, or demo (the default)")
    parser.add_argument("--data_dir", type=Path, default=None, help="where datasets lie; else $TKBC_DATA")
    parser.add_argument(
        "--model", default="TNTPairRE", help="TNTPairRE (the default), or another that memplan models lists"
    )
    parser.add_argument("--max_epochs", type=int, default=50, help="epochs (50)")
    parser.add_argument("--valid_freq", type=int, default=5, help="validate every this many epochs (5)")
    parser.add_argument("--rank", type=int, default=100, help="d (100)")
    parser.add_argument("--batch_size", type=int, default=1000, help="examples per step (1000)")
    parser.add_argument("--learning_rate", type=float, default=0.1, help="learning rate (0.1)")
    parser.add_argument("--optimizer", default="adagrad", help="adagrad (the default) or adam")
    parser.add_argument("--emb_reg", type=float, default=0.0, help="weight of N3 (0)")
    parser.add_argument("--time_reg", type=float, default=0.0, help="weight of the time regularizer (0)")
    parser.add_argument("--no_time_emb", action="store_true", help='keep the last timestamp ("no time") out of it')
    parser.add_argument("--seed", type=int, default=0, help="random seed (0)")
    parser.add_argument("--device", default=None, help="cpu or cuda; else the GPU present, else cpu")
    parser.add_argument("--budget", default=None, help="memory that the run may take, such as 8GiB")
    parser.add_argument("--run_dir", type=Path, default=None, help="the run's folder; else a new one in runs/")
    return parser


def _request(options: argparse.Namespace) -> SearchRequest:
    """Return the options as memplan's commands take them.

    Raises:
        UsageError: there is no such model.
    """
    from memplan.app.request import SearchRequest, find_model
    from memplan.workload import TRAITS

    is_pairre = not TRAITS[find_model(options.model)].is_complex
    return SearchRequest(
        dataset=options.dataset,
        data_dir=options.data_dir,
        model=options.model,
        rank=str(options.rank),
        batch_size=str(options.batch_size),
        optimizer=options.optimizer,
        emb_reg=options.emb_reg,
        time_reg=options.time_reg,
        no_time_emb=options.no_time_emb or None,
        # The model as its specification has it, whatever recipe a dataset has by now.
        unit_norm=True if is_pairre else None,
        n3_parts=False if is_pairre else None,
        rules=False,
        device=options.device,
        budget=options.budget,
    )


def _with_our_flags(message: str) -> str:
    """Return an error's text with this command line's flags: underscores where memplan's have dashes."""
    ours, memplan, its_command = message.partition("memplan ")
    ours = re.sub(r"--[a-z]+(-[a-z]+)+", lambda flag: "--" + flag[0][2:].replace("-", "_"), ours)
    return ours + memplan + its_command


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    from memplan.app.streams import lose_no_output

    lose_no_output()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # "--batch_size 200 \  # smaller" escapes the blank, not the line break: the shell hands us a blank argument, and
    # the comment ends the command, so that flags on later lines never arrive.
    blank = [argument for argument in arguments if not argument.strip()]
    if blank:
        print(  # noqa: T201 - the command line's own voice
            "learner.py: a comment after a backslash ended the command; flags on the lines below it were not seen",
            file=sys.stderr,
        )
    options = _parser().parse_args([argument for argument in arguments if argument.strip()])

    from memplan.app.jobs.train import run_command
    from memplan.errors import MemplanError

    settings = {name: getattr(options, name) for name in ("learning_rate", "max_epochs", "valid_freq", "seed")}
    settings["cooldown"] = 0.0
    try:
        run_command(_request(options), settings, auto_fit=True, run_folder=options.run_dir)
    except MemplanError as error:
        print(f"learner.py: {_with_our_flags(str(error))}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    # Python puts this file's folder first on the path, where tkbc's own modules would pass for top-level ones.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    sys.exit(main())
