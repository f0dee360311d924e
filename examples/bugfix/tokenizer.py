"""The policy's tokenizer: byte-level BPE learned from demonstrations; knows no tasks or model.

What an agent copies has the same tokens wherever it stands: digits stand alone, and a space is
never part of the word after it, but for common words that nobody copies. The frames of turns are
pieces of their own and become single tokens; they are still plain text.

python -m examples.bugfix.tokenizer
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
VOCABULARY = 2048
CONTEXT = 2048
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + ('user' if message['role'] == 'tool' else message['role']) + '\n' }}"
    "{{ message['content'] or '' }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{% set given = call['function']['arguments'] %}"
    "{{ '\n```bash\n' if message['content'] else '```bash\n' }}"
    "{{ given if given is string else (given.values() | list | first) }}"
    "{{ '\n```' }}"
    "{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A call of a tool is the command in a fence that the policy learned, whatever the tool's name, and
what a tool gives is a user's message: so agents with tools can have this policy
(``vllm_tools.py``)."""
_FRAMES = (
    "\n```bash\n",
    "```bash\n",
    "\n```",
    "<returncode>0</returncode>\n<output>\n",
    "<returncode>",
    "</returncode>\n<output>\n",
    "</output>",
    "assistant\n",
    "user\n",
    "system\n",
    "sed -i '",
    "sed -i -e '",
    "sed -n '",
    "' -e '",
    "' | grep -Fx \"",
    'grep -n -A8 "def ',
    'grep -n -A10 "def ',
    'grep -Hn "def ',
    '" *.py',
    "python3 -Bc 'from ",
    " import ",
    "; print(",
    ".py",
    '"""',
    "' ",
    '" ',
)
_WORDS = (
    "the of is a an to should be give gives returns raises instead expected from got get must but "
    "it found does not work wrong result results rely on over all both how many with whether that "
    "and then each after by so such as line output matches done at out up uses used start value "
    "this there somewhere behind mistake fails first last than no"
)
_SPLIT = "|".join(
    [
        *map(re.escape, _FRAMES),
        rf" (?:{'|'.join(_WORDS.split())})(?![A-Za-z_(\[.])",
        r"(?:def|class|return|for|if|elif|not|from|import|lambda) ",
        r" (?:in|and|or|if|for|else) ",
        r" [-+*/<>=!|%&]{1,3} ",
        r"[0-9]",
        r"[A-Za-z]+",
        r"_[A-Za-z]+",
        r"\(\[\{\"|\[\{\"|\", \"|\": |, \"|, |: |\(\"|\"\)|\(\[|\]\)|\[\"|\"\]|\{\"|\(\)",
        r" +",
        r"\n",
        r"[^\sA-Za-z0-9_]",
        r"\s",
        r"_",
    ]
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
