"""What the critic costs to train and to score with, in ratios that are taken in one run.

    make bench-critic

A critic of random weights on data made on the spot: a small one on a CPU; on a GPU one of 0.6 B
parameters, with the share of the GPU's peak that training reaches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from benchmarks.critic_scoring import InProcess, ScoringPlan, measure_scoring, measure_vllm
from benchmarks.critic_training import measure_loop, measure_one_pass
from benchmarks.synthetic import SHAPES, Writer, make_critic
from search.errors import SearchError

Found = dict[str, dict[str, float]]
"""Figures by what was measured."""

PEAKS = {"H100": 989e12, "H200": 989e12}
"""Dense bf16 operations a second, by a part of the device's name: NVIDIA's data sheets of the SXM
modules, which give twice that with sparsity."""


class Row(NamedTuple):
    """A line of the table."""

    what: str
    part: str
    figure: str
    sign: Literal[">=", "<=", ""] = ""
    target: float | None = None


TABLE = [
    Row("one pass: times faster than a sequence per action", "one pass", "times_faster", ">=", 5),
    Row("one pass: difference of the loss, relative", "one pass", "loss_difference", "<=", 0.01),
    Row("training: share of bare forward and backward", "loop", "share_of_bare", ">=", 0.85),
    Row("training: real tokens a second", "loop", "tokens_per_second"),
    Row("training: share of the device's peak", "loop", "utilisation"),
    *(
        row
        for part in ("torch", "vllm")
        for row in (
            Row(f"{part}: K at turn 30 to K at turn 3", part, "late_to_early", "<=", 1.5),
            Row(f"{part}: without reuse to with it", part, "fresh_to_late", ">=", 8),
            Row(f"{part}: candidates' tokens a second", part, "candidate_tokens_per_second"),
            Row(f"{part}: tokens a second without reuse", part, "fresh_tokens_per_second"),
        )
    ),
]


class Scale(NamedTuple):
    """How much is measured."""

    batch_tokens: int
    trajectories: int
    """Of the loop; a pass of ``batch_tokens`` takes a dozen."""
    compared: int
    """Of one pass beside a sequence per action."""
    rounds: int
    steps: int
    scoring: ScoringPlan


SCALES = {
    "cpu": Scale(4096, 64, 2, 9, 15, ScoringPlan()),
    "cuda": Scale(16_384, 256, 32, 5, 20, ScoringPlan()),
}


def measure(
    folder: Path, scale: Scale, *, device: str, vllm: bool, peak: float | None = None
) -> Found:
    """All figures of the critic in ``folder``."""
    writer = Writer()
    found: Found = {}
    print("one pass beside a sequence per action...")
    compared = [writer.trajectory(number) for number in range(scale.compared)]
    found["one pass"] = measure_one_pass(folder, compared, scale.batch_tokens, scale.rounds)
    print("training beside a bare network...")
    trajectories = [writer.trajectory(number) for number in range(scale.trajectories)]
    with tempfile.TemporaryDirectory() as out:
        loop = measure_loop(folder, trajectories, Path(out), scale.batch_tokens, scale.steps)
    if peak:
        loop["utilisation"] = loop["flops_per_second"] / peak
    found["loop"] = loop
    print("scoring in process...")
    found["torch"] = asyncio.run(measure_scoring(InProcess(folder, device), scale.scoring))
    if device == "cuda":
        torch.cuda.empty_cache()  # for vLLM, which is another process
    if vllm:
        print("scoring on vLLM...")
        try:
            found["vllm"] = asyncio.run(measure_vllm(folder, scale.scoring))
        except SearchError as error:
            print(f"not measured on vLLM: {error}")
    return found


def table(found: Found) -> str:
    """The figures beside their targets."""
    lines = [f"{'':52} {'found':>10}  {'target':>8}  met"]
    for row in TABLE:
        value = found.get(row.part, {}).get(row.figure)
        if value is None:
            continue
        shown = f"{value:10,.0f}" if value >= 1000 else f"{value:10.3g}"
        line = f"{row.what:52} {shown}"
        if row.target is not None:
            met = value >= row.target if row.sign == ">=" else value <= row.target
            line += f"  {f'{row.sign} {row.target:g}':>8}  {'yes' if met else 'no'}"
        lines.append(line)
    return "\n".join(lines)


def _peak(device: str) -> float | None:
    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description="What the critic costs.")
    parser.add_argument("--size", choices=SHAPES, default="0.6b" if device == "cuda" else "16m")
    parser.add_argument("--peak", type=float, default=_peak(device),
                        help="the device's dense bf16 operations a second")  # fmt: skip
    parser.add_argument("--no-vllm", action="store_true", help="leave vLLM out")
    parser.add_argument("--out", type=Path, default=Path("build/bench/critic.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_critic(Path(folder), SHAPES[options.size])
        found = measure(
            Path(folder),
            SCALES[device],
            device=device,
            vllm=not options.no_vllm,
            peak=options.peak,
        )
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    print(f"critic of {options.size} on {name}\n\n{table(found)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"device": name, "size": options.size, **found}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
