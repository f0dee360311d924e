"""Pieces that work on text; knows nothing of bugs."""

from random import Random

from examples.bugfix.pieces.piece import Draw, Piece, Value, calls

WORDS = ("red", "blue", "sun", "moon", "tree", "bird", "stone", "river", "cloud", "lamp", "door")


def _words(rng: Random, low: int = 2, high: int = 3) -> list[str]:
    return rng.sample(WORDS, rng.randint(low, high))


def _text_name(d: Draw) -> str:
    return d.pick("text", "line", "title", "s")


def word_count(d: Draw) -> Piece:
    text, word = _text_name(d), d.pick("word", "wanted", "term")
    n = d.pick("n", "count", "hits")
    name = d.name("count_word", "mentions", "word_hits")
    body = d.pick(
        f"{n} = 0\nfor part in {text}.lower().split():\n    if part == {word}:\n"
        f"        {n} += 1\nreturn {n}",
        f"return {text}.lower().split().count({word})",
    )

    def sample(rng: Random) -> tuple[Value, ...]:
        words = _words(rng)
        target = rng.choice(words)
        return " ".join(words + [target.title()][: rng.randint(0, 1)]).capitalize(), target

    return d.single(
        name, f"{text}, {word}", body, f"how often {word} is in {text}, whatever the case", sample
    )


def initials(d: Draw) -> Piece:
    text, part = d.pick("name", "text", "full"), d.pick("part", "word", "p")
    name = d.name("initials", "short_name", "monogram")
    glue = d.pick("", ".", "-")
    body = f'return "{glue}".join({part}[0].upper() for {part} in {text}.split())'
    return d.single(
        name, text, body, "the first letters, in upper case", lambda r: (" ".join(_words(r)),)
    )


def parse_pairs(d: Draw) -> Piece:
    text, part = _text_name(d), d.pick("part", "field", "piece")
    outer, inner = d.rng.choice([(";", "="), (",", ":"), ("&", "="), (";", ":")])
    out = d.pick("out", "found", "result")
    name = d.name("parse_pairs", "read_fields", "parse_options")
    body = (
        f'{out} = {{}}\nfor {part} in {text}.split("{outer}"):\n'
        f'    key, value = {part}.split("{inner}")\n'
        f"    {out}[key.strip()] = int(value)\nreturn {out}"
    )

    def sample(rng: Random) -> tuple[Value, ...]:
        space = rng.choice(["", " "])
        return ((outer + space).join(f"{w}{inner}{rng.randint(1, 9)}" for w in _words(rng)),)

    return d.single(
        name, text, body, f"the numbers of a text such as a{inner}1{outer}b{inner}2", sample
    )


def parse_numbers(d: Draw) -> Piece:
    text, part = _text_name(d), d.pick("part", "p", "field")
    glue = d.pick(",", ";", "-", ":")
    name = d.name("parse_numbers", "read_numbers", "to_numbers")
    total = d.rng.random() < 0.4
    body = (
        f'return sum(int({part}) for {part} in {text}.split("{glue}"))'
        if total
        else f'return [int({part}) for {part} in {text}.split("{glue}")]'
    )
    words = "the sum of the numbers" if total else "the numbers"
    return d.single(
        name,
        text,
        body,
        f"{words} of a text such as 1{glue}2",
        lambda r: (glue.join(str(r.randint(1, 30)) for _ in range(r.randint(1, 3))),),
    )


def slug(d: Draw) -> Piece:
    text, glue = _text_name(d), d.pick("-", "_", "+")
    name = d.name("slug", "make_key", "to_slug")
    body = d.pick(
        f'return "{glue}".join({text}.lower().split())',
        f'words = {text}.strip().lower().split(" ")\nreturn "{glue}".join(words)',
    )
    return d.single(
        name,
        text,
        body,
        f"the words in lower case with {glue} between",
        lambda r: (r.choice(["", " "]) + " ".join(_words(r)).title(),),
    )


def count_letters(d: Draw) -> Piece:
    text, ch, n = _text_name(d), d.pick("ch", "c", "letter"), d.pick("n", "count", "found")
    name = d.name("count_vowels", "vowels", "vowel_total")
    body = d.pick(
        f'{n} = 0\nfor {ch} in {text}.lower():\n    if {ch} in "aeiou":\n        {n} += 1\n'
        f"return {n}",
        f'return sum(1 for {ch} in {text}.lower() if {ch} in "aeiou")',
    )
    return d.single(
        name,
        text,
        body,
        f"the number of vowels in {text}",
        lambda r: (r.choice(["", "A ", "I "]) + " ".join(_words(r, 1, 2)),),
    )


def palindrome(d: Draw) -> Piece:
    text, clean = _text_name(d), d.pick("clean", "plain", "t")
    name = d.name("is_palindrome", "reads_both_ways", "mirrored")
    body = f'{clean} = {text}.lower().replace(" ", "")\nreturn {clean} == {clean}[::-1]'
    return d.single(
        name,
        text,
        body,
        f"whether {text} reads the same backwards",
        lambda r: (
            r.choice(
                [
                    "Anna",
                    "Level",
                    "no on",
                    "stone",
                    "Top spot",
                    "moon",
                    "Otto",
                    "civic",
                    "river",
                    "step on no pets",
                    "Bob",
                ]
            ),
        ),
    )


def last_first(d: Draw) -> Piece:
    text, order = d.pick("name", "full", "text"), d.pick("parts", "words")
    glue = d.pick(", ", "/", " - ")
    name = d.name("last_first", "sort_name", "formal_name")
    body = (
        f"{order} = {text}.split()\nlast = {order}[-1]\n"
        f'return last.title() + "{glue}" + {order}[0].title()'
    )
    return d.single(
        name,
        text,
        body,
        "the last word, then the first, both as titles",
        lambda r: (" ".join(_words(r)),),
    )


def with_prefix(d: Draw) -> Piece:
    many, x = d.domain.many, d.pick("x", "word", "name")
    kind, where = d.rng.choice([("startswith", "start"), ("endswith", "end")])
    mark = d.pick("mark", "sign", "part")
    name = d.name(f"{many}_with", "matching", "pick_names")
    body = d.pick(
        f"return [{x} for {x} in {many} if {x}.{kind}({mark})]",
        f"out = []\nfor {x} in {many}:\n    if {x}.{kind}({mark}):\n        out.append({x})\n"
        f"return out",
    )

    def sample(rng: Random) -> tuple[Value, ...]:
        words = _words(rng, 2, 4)
        word = rng.choice(words)
        return words, rng.choice([word[0], word[-1]])

    return d.single(name, f"{many}, {mark}", body, f"the {many} that {where} with {mark}", sample)


def mask(d: Draw) -> Piece:
    text, keep = d.pick("code", "number", "text"), d.rng.choice([2, 3, 4])
    sign = d.pick("*", "x", "#")
    name = d.name("mask", "hide_code", "masked")
    body = d.pick(
        f'return "{sign}" * (len({text}) - {keep}) + {text}[-{keep}:]',
        f'hidden = len({text}) - {keep}\nreturn "{sign}" * hidden + {text}[hidden:]',
    )
    return d.single(
        name,
        text,
        body,
        f"{text} with all but the last {keep} as {sign}",
        lambda r: (str(r.randint(10000, 99999999)),),
        keep_doc=True,
    )


def truncate(d: Draw) -> Piece:
    text, n = _text_name(d), d.pick("n", "size", "width")
    dots = d.pick("...", "~", "+")
    name = d.name("shorten", "cut_text", "truncate")
    body = f'if len({text}) <= {n}:\n    return {text}\nreturn {text}[:{n}] + "{dots}"'

    def sample(rng: Random) -> tuple[Value, ...]:
        word = rng.choice(WORDS) + rng.choice(["", "s"])
        return word, rng.choice([len(word), len(word) - 1, 3])

    return d.single(
        name, f"{text}, {n}", body, f"the first {n} letters and {dots}, if {text} is longer", sample
    )


def longest_word(d: Draw) -> Piece:
    text, best, word = _text_name(d), d.pick("best", "longest"), d.pick("word", "w", "part")
    name = d.name("longest_word", "widest_word", "big_word")
    body = d.pick(
        f'{best} = ""\nfor {word} in {text}.split():\n    if len({word}) > len({best}):\n'
        f"        {best} = {word}\nreturn {best}",
        f"return max({text}.split(), key=len)",
    )
    return d.single(
        name, text, body, f"the longest word of {text}", lambda r: (" ".join(_words(r, 2, 4)),)
    )


def full_label(d: Draw) -> Piece:
    one, n = d.domain.one, d.pick("n", "count", "number")
    helper = d.name("plural", "noun", "word_form")
    name = d.name(f"{one}_label", f"describe_{d.domain.many}", "amount_text")
    first = d.function(
        helper,
        f"word, {n}",
        f'if {n} == 1:\n    return word\nreturn word + "s"',
        "The word, with an s unless there is one.",
    )
    second = d.function(
        name,
        f"word, {n}",
        f'return str({n}) + " " + {helper}(word, {n})',
        "The number and the word.",
    )
    return Piece(
        (first, second),
        name,
        "the number and the word, with an s unless it is 1",
        calls(name, lambda r: (r.choice(WORDS), r.choice([1, 1, 0, 2, 7]))),
    )


def table_line(d: Draw) -> Piece:
    text, cells = d.pick("row", "record"), d.pick("cells", "columns", "parts")
    split, glue = d.rng.choice([(",", " | "), (";", ","), (",", "/"), (":", " ")])
    name = d.name("format_row", "table_line", "show_row")
    body = f'{cells} = [c.strip() for c in {text}.split("{split}")]\nreturn "{glue}".join({cells})'

    def sample(rng: Random) -> tuple[Value, ...]:
        return ((split + rng.choice([" ", ""])).join(_words(rng)),)

    return d.single(name, text, body, "the trimmed cells, joined", sample)


def domain_part(d: Draw) -> Piece:
    text = d.pick("address", "path", "ref")
    sign = d.pick("@", "/", ":")
    at, word = d.rng.choice([(0, "before"), (-1, "after")])
    name = d.name("part_of", f"{d.domain.one}_part", "cut_at")
    low = d.pick(".lower()", ".upper()", "")
    body = d.pick(
        f'return {text}.split("{sign}")[{at}]{low}',
        f'parts = {text}.split("{sign}")\nreturn parts[{at}]{low}',
    )
    case = {".lower()": " in lower case", ".upper()": " in upper case", "": ""}[low]
    return d.single(
        name,
        text,
        body,
        f"what is {word} the {sign}{case}",
        lambda r: (sign.join(_words(r, 2, 2)).title(),),
    )


PIECES = (
    word_count,
    initials,
    parse_pairs,
    parse_numbers,
    slug,
    count_letters,
    palindrome,
    last_first,
    with_prefix,
    mask,
    truncate,
    longest_word,
    full_label,
    table_line,
    domain_part,
)
