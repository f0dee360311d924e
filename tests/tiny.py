"""Tiny models with random weights, made on the spot: real architectures, nothing downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from pilotfish import Candidate, Decision, Message, Step, Trajectory

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m.get('tool_calls') %}{% for c in m['tool_calls'] %}\n<tool_call>"
    "{{ c['function'] | tojson }}</tool_call>{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}"
    "<|im_end|>\n{% endfor %}"
)


def tokenizer(template: str = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level BPE without merges beyond a few: every text round-trips."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["```bash\nls\n``` submit the system user assistant"] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    fast.chat_template = template
    return fast


def causal_lm(folder: Path, *, seed: int = 0, hidden: int = 64, layers: int = 2) -> Path:
    """Write a random Qwen3 causal LM and its tokenizer to ``folder``."""
    torch.manual_seed(seed)
    tok = tokenizer()
    config = Qwen3Config(
        vocab_size=len(tok),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def trajectory(
    task_id: str, turns: list[str], *, reward: float | None = None, policy: str = "p"
) -> Trajectory:
    """A finished trajectory that says ``turns``; the last one submits."""
    steps = []
    for i, text in enumerate(turns):
        candidate = Candidate(index=0, message=Message.assistant(text), tokens=len(text))
        decision = Decision(candidates=[candidate], requested=1, chosen=0, reason="only")
        last = i == len(turns) - 1
        replies = [] if last else [Message.user(f"<output>{i}</output>")]
        steps.append(Step(decision=decision, replies=replies))
    return Trajectory(
        task_id=task_id,
        policy=policy,
        prefix=[Message.system("s"), Message.user(f"do {task_id}")],
        steps=steps,
        exit_status="Submitted",
        reward=reward,
    )
