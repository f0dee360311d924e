"""`make ablate`: what each setting of the critic's training is worth, on the demo's tasks. It runs
`pilotfish-critic ablate` on the rollouts of `make retrain` and judges on those of
`make experiment`. Hours on two cores; taken up where it was left.

    python -m examples.bugfix.ablation
"""

from __future__ import annotations

import sys
from pathlib import Path

from critic.__main__ import main as critic
from critic.ablation import compare, read_found
from critic.reporting import ablation_plots, ablation_table
from examples.bugfix.recipe import BUILD, TUNED

FOLDER = BUILD / "ablation"
SEEDS = 3
ARGUMENTS = [
    *("--init", str(TUNED), "--data", str(BUILD / "round-1.jsonl"), "--share", "0.45"),
    *("--judge-on", str(BUILD / "experiment" / "k1-seed0.jsonl"), "--out", str(FOLDER)),
    *("--seeds", str(SEEDS)),
    *("--set", "epochs=1", "--set", "lr=4e-4", "--set", "batch_tokens=4000"),
    *("--set", "warm_lam=none"),
    *("--vary", "lam=0,0.5,0.9,1", "--vary", "gamma=0.9,0.95,0.99"),
    *("--vary", "loss=l2,hl_gauss", "--vary", "target_network=ema"),
    *("--vary", "ordering=0.3,1", "--vary", "data=0.25,0.5,0.75"),
]


def section(images: Path) -> str:
    """Markdown of what was found so far; nothing where nothing was."""
    compared = compare(list(read_found(FOLDER)))
    if not compared:
        return ""
    ablation_plots(compared, images)
    return "\n".join(
        ["## What the settings of training are worth", "", _INTRODUCTION,
         ablation_table(compared), "![Ablation](images/ablation.png)", ""]
    )  # fmt: skip


_INTRODUCTION = """\
`make ablate`: one pass from the policy's weights over its own trajectories on about 1,000 training
tasks (two each), so less than the shipped critic had; *base* is lambda 0.7, gamma 1, binary
cross-entropy on the online network's targets, no ordering term, all of that data. Judged on the
first 10 attempts at each held-out task. *Best of N*: percent solved by the critic's choice, mean
over seeds with the 95 % interval over tasks; *beyond base*: the difference, paired by task.
A gamma below 1 and lambda change Q before the last turn; selection reads only the last.
"""


def main() -> None:
    sys.argv = ["pilotfish-critic", "ablate", *ARGUMENTS, *sys.argv[1:]]
    critic()


if __name__ == "__main__":
    main()
