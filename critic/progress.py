"""How far a training is: its log, its best checkpoint, and where it can be taken up. Knows nothing
of losses."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from pydantic import BaseModel
from pydantic_core import to_json

from critic.checkpoint import CriticCard, write_card, write_trained_tasks
from critic.data import PlannedStep
from critic.errors import CriticInputError
from critic.files import write_whole
from critic.model import plain_weights

STATE = "state"
"""Folder of the states that a stopped training is taken up from; there until it is finished."""
_FINGERPRINT = f"{STATE}/fingerprint"


class TrainingRun:
    """A training's folder: ``metrics.jsonl``, ``tensorboard/``, the best checkpoint, and ``state/``
    as long as it goes on. On several processes only the first writes."""

    def __init__(
        self,
        out: Path,
        accelerator: Accelerator,
        settings: BaseModel,
        card: CriticCard,
        tokenizer: Any,
        plan: list[PlannedStep],
        *,
        tasks: set[str],
        init: str,
        patience: int | None,
        honest: bool,
    ) -> None:
        """``init``, ``settings`` and ``plan`` decide every step: a training is taken up only by
        one of the same. ``tasks``: all that it is trained on. ``patience``: evaluations without a
        better one after which it gives up. ``honest``: whether it is measured on other tasks."""
        self.out, self.accelerator, self.card, self.tokenizer = out, accelerator, card, tokenizer
        self.step = 0
        self.best: dict[str, float] = {}
        self._tasks, self._patience, self._honest = tasks, patience, honest
        self._worse = 0
        self._seconds = 0.0
        self._began = time.monotonic()
        self._fingerprint = _fingerprint(init, settings, plan)

    # ---- what accelerate saves with the weights

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best": self.best,
            "worse": self._worse,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.best, self._worse = state["step"], state["best"], state["worse"]
        self._seconds = state["seconds"]

    @property
    def seconds(self) -> float:
        """Of all goes."""
        return self._seconds + time.monotonic() - self._began

    @property
    def gave_up(self) -> bool:
        """Whether the last evaluations have all been worse than the best."""
        return self._patience is not None and self._worse >= self._patience

    @contextmanager
    def open(self, *also: Any) -> Iterator[None]:
        """Take up what was begun here, and keep the log while the training goes on. ``also`` is
        saved with the state.

        Raises: ``CriticInputError`` where it was begun with other settings or data.
        """
        self.accelerator.register_for_checkpointing(self, *also)
        self._resume()
        self._log = self._board = None
        if self.accelerator.is_main_process:
            from torch.utils.tensorboard import SummaryWriter

            (self.out / STATE).mkdir(parents=True, exist_ok=True)  # it is not finished
            (self.out / _FINGERPRINT).write_text(self._fingerprint)
            self._cut_log()
            self._log = (self.out / "metrics.jsonl").open("a")
            self._board = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.step)
        try:
            yield
        finally:
            if self._log is not None and self._board is not None:
                self._log.close()
                self._board.close()

    def stepped(self, epoch: int, metrics: dict[str, float]) -> None:
        """One more optimiser step."""
        self.step += 1
        self._write({"epoch": epoch, **metrics})

    def measured(self, model: Any, metrics: dict[str, float]) -> None:
        """An evaluation: the best so far is kept."""
        self._write(metrics)
        if self.best and not metrics["brier_last"] < self.best["brier_last"]:
            self._worse += 1
            return
        self._worse = 0
        failed_q = metrics["failed_q_last"]
        self.card.failed_q = failed_q if self._honest and not math.isnan(failed_q) else None
        weights = self.accelerator.get_state_dict(model)
        if self.accelerator.is_main_process:
            self._save_checkpoint(self.accelerator.unwrap_model(model).network, weights)
        self.best = metrics | {"step": float(self.step)}

    def save(self) -> None:
        """Save where it can be taken up, beside the last such place, which goes only when this one
        is whole."""
        place = self.out / STATE / str(self.step)
        fresh = place.with_suffix(".tmp")
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            fresh.rename(place)
            for other in place.parent.iterdir():
                if other.is_dir() and other != place:
                    shutil.rmtree(other)

    def finish(self) -> None:
        """The state is no longer needed."""
        if self.accelerator.is_main_process and (self.out / STATE).exists():
            gone = self.out / f"{STATE}.tmp"
            shutil.rmtree(gone, ignore_errors=True)
            (self.out / STATE).rename(gone)  # else a kill might leave half of one
            shutil.rmtree(gone)

    def _resume(self) -> None:
        told = self.out / _FINGERPRINT
        if told.exists() and told.read_text() not in ("", self._fingerprint):
            raise CriticInputError(
                f"{self.out} holds a training that was stopped, of other settings, data or number "
                f"of processes: give those again, or remove {told.parent}"
            )
        places = [place for place in told.parent.glob("*") if place.name.isdigit()]
        if places:
            self.accelerator.load_state(str(max(places, key=lambda place: int(place.name))))

    def _write(self, values: dict[str, float]) -> None:
        if self._log is None or self._board is None:
            return
        row = {"seconds": round(self.seconds, 2), "step": self.step, **values}
        self._log.write(to_json(row, inf_nan_mode="null").decode() + "\n")
        self._log.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, self.step)

    def _cut_log(self) -> None:
        """Leave out what was logged behind the place at which it is taken up."""
        path = self.out / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        # the last line may be half of one, where we were killed
        whole = [line for line in lines if self.step and line.endswith("}")]
        kept = [line for line in whole if json.loads(line)["step"] <= self.step]
        write_whole(path, "".join(f"{line}\n" for line in kept))

    def _save_checkpoint(self, network: Any, weights: dict[str, torch.Tensor]) -> None:
        """Write the whole checkpoint beside ``out``, then put it in place."""
        fresh = self.out / "checkpoint.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            plain = plain_weights({k.removeprefix("network."): v for k, v in weights.items()})
            stored = {name: weight.to(torch.bfloat16) for name, weight in plain.items()}
            # one file, so that it takes the place of the last one whole
            network.save_pretrained(fresh, state_dict=stored, max_shard_size="100TB")
            config = json.loads((fresh / "config.json").read_text())
            config |= {"dtype": "bfloat16", "attention_dropout": 0.0}
            (fresh / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            self.tokenizer.save_pretrained(fresh)
            write_trained_tasks(fresh, self._tasks)
            write_card(fresh, self.card)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        for file in fresh.iterdir():
            if file.is_dir():  # further chat templates, with some tokenizers
                shutil.rmtree(self.out / file.name, ignore_errors=True)
            file.replace(self.out / file.name)
        fresh.rmdir()


def _fingerprint(init: str, settings: BaseModel, plan: list[PlannedStep]) -> str:
    """Of what decides every step: where it begins, settings, and the data of the first pass, whose
    order tells that of the others."""
    digest = hashlib.blake2b(f"{init} {settings.model_dump_json()}".encode(), digest_size=16)
    for step in plan:
        if step.epoch > 0:
            break
        digest.update(f"step of {len(step.batches)}".encode())
        for example in (example for batch in step.batches for example in batch):
            digest.update(f"{example.task_id} {example.reward} {example.length}".encode())
            for ids in example.ids:
                digest.update(ids.tobytes())
    return digest.hexdigest()
