"""Supervised training of the policy on trajectories; knows nothing of servers or sandboxes.

One linear program: read, pack, train, save after every pass. What is unusual:
1. The loss counts agent turns fully and everything else a little: learning to read code and
   outputs helps to copy from them, but there is far more of it.
2. Trajectories are sorted by length within a window and padded to the longest of the batch;
   batches are cut by tokens.
3. Muon moves the matrices, AdamW the rest. In one short run of each on the same data (200,000
   tokens) the validation loss was 1.54 with Muon and 1.89 with AdamW, whose rate was not tuned.
4. Training stops early on purpose: see README.md.

python -m examples.bugfix.policy_training --data build/bugfix/demonstrations.jsonl \
    --tokenizer build/bugfix/tokenizer --out build/bugfix/policy
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from critic.data import by_length
from examples.bugfix.tokenizer import CONTEXT, END, START

IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """The settings of one training."""

    passes: int = 4
    batch_tokens: int = 3000
    peak_rate: float = 5e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.1
    other_weight: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """One trajectory as tokens; `own` marks those that the agent wrote."""

    ids: list[int]
    own: list[bool]
    rows = 1

    @property
    def length(self) -> int:
        return len(self.ids)


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> Example:
    """The same tokens as the chat template gives, with the agent's marked."""
    ids: list[int] = []
    own: list[bool] = []
    for message in messages:
        head = tokenizer.encode(f"{START}{message['role']}\n", add_special_tokens=False)
        body = tokenizer.encode(f"{message['content']}{END}", add_special_tokens=False)
        tail = tokenizer.encode("\n", add_special_tokens=False)
        mine = message["role"] == "assistant"
        ids += head + body + tail
        own += [False] * len(head) + [mine] * len(body) + [False] * len(tail)
    return Example(ids, own)


def read_examples(
    path: Path, tokenizer: PreTrainedTokenizerFast, solved_only: bool = False
) -> list[Example]:
    rows = [json.loads(line) for line in path.open()]
    rows = [row for row in rows if row["reward"] > 0 or not solved_only]
    examples = [encode(tokenizer, row["messages"]) for row in rows]
    return [example for example in examples if len(example.ids) <= CONTEXT]


def collate(
    batch: list[Example], pad: int, other: float, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, next tokens and the weight of each next token."""
    longest = max(len(example.ids) for example in batch)
    ids_BT = torch.full((len(batch), longest), pad)
    weight_BT = torch.zeros(len(batch), longest)
    for row, example in enumerate(batch):
        length = len(example.ids)
        ids_BT[row, :length] = torch.tensor(example.ids)
        weight_BT[row, :length] = torch.where(torch.tensor(example.own), 1.0, other)
    ids_BT, weight_BT = ids_BT.to(device), weight_BT.to(device)
    return ids_BT[:, :-1], ids_BT[:, 1:], weight_BT[:, 1:]


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A policy with random weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        rope_theta=10000.0,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def loss_of(model: Qwen3ForCausalLM, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The weighted mean loss, and the plain mean over the agent's tokens."""
    ids_BT, next_BT, weight_BT = batch
    with torch.autocast(ids_BT.device.type, torch.bfloat16):
        logits = model(input_ids=ids_BT, use_cache=False).logits
    each = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), next_BT.flatten(), reduction="none"
    )
    weight = weight_BT.flatten()
    own = (weight == 1).float()
    return (each * weight).sum() / weight.sum(), (each * own).sum().detach() / own.sum()


def rate_at(share: float, recipe: Recipe) -> float:
    """The learning rate after this share of all steps: warm-up, then a cosine to a tenth."""
    if share < recipe.warmup_share:
        return recipe.peak_rate * share / recipe.warmup_share
    done = (share - recipe.warmup_share) / (1 - recipe.warmup_share)
    return recipe.peak_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def optimizers_of(model: Qwen3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    named = list(model.named_parameters())
    inner = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(
            inner,
            lr=recipe.peak_rate,
            weight_decay=recipe.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(outer, lr=recipe.peak_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def save_policy(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """A Hugging Face checkpoint that any server loads, in bfloat16."""
    copy = Qwen3ForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.bfloat16)
    copy.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    copy.save_pretrained(path)
    tokenizer.save_pretrained(path)


def train(
    examples: list[Example],
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    recipe: Recipe,
    start: Path | None = None,
    device: str = "cpu",
) -> None:
    """Train; leaves `pass-1`, `pass-2`, ... and metrics.jsonl in `out`, and goes on from there."""
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    model = (
        Qwen3ForCausalLM.from_pretrained(start, dtype=torch.float32)
        if start
        else new_model(tokenizer)
    )
    model.to(device).train()
    optimizers = optimizers_of(model, recipe)
    done = 0
    state_path = out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        done = state["passes"]
    pad = int(tokenizer.pad_token_id)
    began = time.monotonic()
    with Progress() as progress, (out / "metrics.jsonl").open("a") as metrics:
        for number in range(done, recipe.passes):
            cut = by_length(examples, recipe.batch_tokens, seed=f"{recipe.seed}:{number}")
            bar = progress.add_task(f"pass {number + 1}", total=len(cut))
            for step, rows in enumerate(cut):
                rate = rate_at((number + step / len(cut)) / recipe.passes, recipe)
                set_rate(optimizers, rate)
                data = collate(rows, pad, recipe.other_weight, device)
                loss, own = loss_of(model, data)
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                progress.advance(bar)
                if step % 10 == 0:
                    row = {
                        "pass": number + 1,
                        "step": step,
                        "of": len(cut),
                        "rate": rate,
                        "loss": loss.item(),
                        "agent_loss": own.item(),
                        "seconds": round(time.monotonic() - began, 1),
                    }
                    metrics.write(json.dumps(row) + "\n")
                    metrics.flush()
            save_policy(model, tokenizer, out / f"pass-{number + 1}")
            part = state_path.with_suffix(".part")
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "passes": number + 1,
            }
            torch.save(state, part)
            part.replace(state_path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the policy on trajectories.")
    parser.add_argument(
        "--data", type=Path, nargs="+", default=[Path("build/bugfix/demonstrations.jsonl")]
    )
    parser.add_argument("--tokenizer", type=Path, default=Path("build/bugfix/tokenizer"))
    parser.add_argument("--out", type=Path, default=Path("build/bugfix/policy"))
    parser.add_argument("--start", type=Path, help="a checkpoint to start from (default: none)")
    parser.add_argument("--passes", type=int, default=Recipe.passes)
    parser.add_argument("--batch-tokens", type=int, default=Recipe.batch_tokens)
    parser.add_argument("--rate", type=float, default=Recipe.peak_rate)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--count", type=int, help="use only the first so many trajectories")
    parser.add_argument("--solved-only", action="store_true", help="leave out what failed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.tokenizer)
    examples = [
        example
        for file in options.data
        for example in read_examples(file, tokenizer, options.solved_only)
    ][: options.count]
    lengths = [len(example.ids) for example in examples]
    print(f"{len(examples)} trajectories, {sum(lengths)} tokens, longest {max(lengths)}")
    recipe = Recipe(
        passes=options.passes,
        batch_tokens=options.batch_tokens,
        peak_rate=options.rate,
        seed=options.seed,
    )
    train(examples, tokenizer, options.out, recipe, options.start, options.device)


if __name__ == "__main__":
    main()
