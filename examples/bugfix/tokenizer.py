"""The policy's tokenizer: byte-level BPE learned from demonstrations; knows no tasks or model.

Digits stand alone, so that line numbers and values can be copied. The frame that every turn has
is merged into few tokens by showing it to the trainer often; it is still plain text.

python -m examples.bugfix.tokenizer
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
VOCABULARY = 2048
CONTEXT = 2048
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_FRAMES = (
    "```bash\n",
    "\n```",
    "<returncode>0</returncode>\n<output>\n",
    "</output>",
    "<returncode>",
    "</returncode>\n<output>\n",
    "assistant\n",
    "user\n",
    "system\n",
)
_SPLIT = (
    r"```bash\n|\n```|<returncode>0</returncode>\n<output>\n|</?output>|</?returncode>"
    r"|assistant\n|user\n|system\n|[0-9]| ?[A-Za-z]+|_[A-Za-z]+| ?[^\sA-Za-z0-9_]{1,3}|\n *|\s+|_"
)


def learn_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with a chat template that only ever appends."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        additional_special_tokens=[START],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def demonstration_texts(path: Path) -> Iterator[str]:
    """Every message of the demonstrations, and the frames of turns many times over."""
    for line in path.open():
        messages = json.loads(line)["messages"]
        for message in messages:
            yield message["content"]
        yield from (f"{message['role']}\n" for message in messages[:3])
        yield from _FRAMES


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn the tokenizer from demonstrations.")
    parser.add_argument("--data", type=Path, default=Path("build/bugfix/demonstrations.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("build/bugfix/tokenizer"))
    options = parser.parse_args()
    tokenizer = learn_tokenizer(demonstration_texts(options.data))
    tokenizer.save_pretrained(options.out)
    print(f"{len(tokenizer)} tokens in {options.out}")


if __name__ == "__main__":
    main()
