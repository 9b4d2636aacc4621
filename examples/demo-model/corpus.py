"""Writes the text the demo model is trained on.

The sentences stand in corpus/*.txt. The format of these files:

    ## name weight [table]     starts an intent: one thing a user may want
    ? a {question|query}?      a question; {a|b} is a choice
    @ a router|the router      a thing to explain: put into every FRAME below
    = an answer                one of the possible answers (more lines follow
                               it until the next mark: they belong to it)
    > more                     the answer to "tell me more" after this intent
    + and $N?                  a follow-up, asked only right after the intent

$NAME is a placeholder that the intent's table (tables.py) fills, with the same
value in question and answer. Names are of capital letters only, and none begins
with another one. `python corpus.py check` makes sure of both, and that no mark
of this format is left in the text.

A part of the wordings is held out by a hash of the question, so that training
never sees them; they make the text for measuring.
"""
import pathlib
import random
import re
import sys
import zlib
from dataclasses import dataclass, field

import tables

HERE = pathlib.Path(__file__).parent
SYSTEMS = ["You are a helpful assistant.", "You are a small demo model.", "Answer in short sentences.",
           "You are a helpful assistant. Answer briefly.", "You help people who use moe-offload.",
           "You are a friendly chat model.", "Be brief.", "You are an AI assistant."]
MORE = ["tell me more", "more please", "go on", "can you tell me more", "more", "and then", "explain more",
        "tell me more about that", "what else", "more details please", "can you explain that further"]
ORDERS = re.compile(r"(?:tell|explain|define|describe|name|add|calculate|compute|give|list|show|keep|put|offload|"
                    r"introduce|summari|recommend|please|i don't)", re.I)
FRAMES = ["{what is|what's|whats|what is meant by|what do you mean by|what exactly is} {@}?",
          "{explain|define|describe|tell me about|please explain|explain to me|i don't understand} {@}?",
          "{can you explain|could you explain|can you tell me what is|do you know what is|i want to know what is} {@}?",
          "{and|what about|how about|and what about|and what is} {@}?",
          "what does {@} {mean|do}?", "explain {@} {to me|in simple words|briefly|in short}?"]
OPENERS = ["please ", "can you tell me ", "so ", "ok, ", "hi, ", "hello, ", "one question: ", "i want to know: ",
           "tell me, ", "well, ", "hey, ", "another question: ", "and ", "now ", "quick question: ", "do you know "]
CLOSERS = [" please", " thanks", " exactly", " then", " in short", ", please"]


@dataclass
class Intent:
    name: str
    weight: float
    table: str = ""
    questions: list = field(default_factory=list)
    answers: list = field(default_factory=list)
    more: list = field(default_factory=list)
    follow: list = field(default_factory=list)


def load():
    intents = []
    for path in sorted((HERE / "corpus").glob("*.txt")):
        target = None
        for line in path.read_text(encoding="utf-8").splitlines():
            mark, rest = line[:2], line[2:].strip()
            if line.startswith("## "):
                name, weight, *table = line[3:].split()
                intents.append(Intent(name, float(weight), *table))
            elif mark == "@ ":
                intents[-1].questions += [frame.replace("@", rest) for frame in FRAMES]
            elif mark in ("? ", "= ", "> ", "+ "):
                now = intents[-1]
                target = {"?": now.questions, "=": now.answers, ">": now.more, "+": now.follow}[mark[0]]
                target.append(rest)
            elif line and not line.startswith("#"):
                target[-1] += "\n" + line
    return intents


def choose(rng, text, canonical=False):
    """Settles every {a|b}; the canonical form takes the first choice."""
    def pick(match):
        options = match.group(1).split("|")
        return options[0] if canonical else rng.choice(options)
    return re.sub(r"\{([^{}]*)\}", pick, text)


def fill(text, values):
    text = re.sub(r"\$([A-Z]+)", lambda m: values[m.group(1)], text)
    if text.endswith("?") and ORDERS.match(text):
        text = text[:-1] + "."
    return re.sub(r" +([?.!,]|$)", r"\1", re.sub(r"  +", " ", text))


def draw_values(rng, intent):
    values = tables.common(rng)
    if intent.table in tables.TABLES:
        values.update(tables.TABLES[intent.table](rng))
    return values


def plain_key(text):
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def held_out(text):
    return zlib.crc32(plain_key(text).encode()) % 10 == 0


def typo(rng, text):
    """One slip of the fingers in a word of letters, never in a number or a policy."""
    words = list(re.finditer(r"(?<![\w:=-])[A-Za-z]{4,}(?![\w:=-])", text))
    if not words:
        return text
    word = rng.choice(words)
    i = rng.randrange(word.start() + 1, word.end() - 1)
    kind = rng.random()
    if kind < 0.4:
        return text[:i] + text[i + 1:]
    if kind < 0.7:
        return text[:i] + text[i + 1] + text[i] + text[i + 2:]
    return text[:i] + text[i] + text[i:]


def style(rng, text):
    """How people really type: openings, capitals, missing marks, slips."""
    if rng.random() < 0.10 and len(text) > 12:
        text = rng.choice(OPENERS) + text
    if rng.random() < 0.04 and text.endswith("?"):
        text = text[:-1] + rng.choice(CLOSERS) + "?"
    roll = rng.random()
    if roll < 0.55:
        text = text[0].upper() + text[1:]
    elif roll < 0.75:
        text = text.lower()
    elif roll < 0.77:
        text = text.upper()
    roll = rng.random()
    if not text.strip("?.! "):
        return text
    if roll < 0.35:
        text = text.rstrip("?.!")
    elif roll < 0.39:
        text = text.rstrip("?.!") + rng.choice([" ?", "??", "...", ".", "!"])
    if rng.random() < 0.06:
        text = typo(rng, text)
    return text


class Corpus:
    def __init__(self, seed, evaluation=False):
        self.rng = random.Random(seed)
        self.evaluation = evaluation
        self.intents = load()
        self.weights = [i.weight for i in self.intents]

    def wording(self, template, values):
        """A question in the training or in the held-out part, or None. The
        first choice of every line is always for training."""
        for _ in range(6):
            text = fill(choose(self.rng, template), values)
            first = fill(choose(self.rng, template, canonical=True), values)
            if (text != first and held_out(text)) == self.evaluation:
                return text
        return None

    def turn(self, intent, follow=False):
        """One question, its answer and the values used."""
        while True:
            values = draw_values(self.rng, intent)
            lines = intent.follow if follow else intent.questions
            # Lines with more choices hold more wordings and come up more.
            weights = [1 + line.count("|") ** 0.7 for line in lines]
            text = self.wording(self.rng.choices(lines, weights)[0], values)
            if text:
                break
            if self.evaluation and self.rng.random() < 0.3:
                intent = self.pick()
                follow = False
        answer = {**values, **values.get("_answer", {})}
        reply = fill(choose(self.rng, self.rng.choice(intent.answers)), answer)
        question = text if self.evaluation else style(self.rng, text)
        return intent, question, reply, answer

    def pick(self):
        return self.rng.choices(self.intents, self.weights)[0]

    def conversation(self):
        turns = []
        length = self.rng.choices([1, 2, 3, 4, 5], [40, 25, 17, 11, 7])[0]
        while len(turns) < length:
            intent, question, reply, values = self.turn(self.pick())
            turns.append((question, reply))
            while intent.follow and self.rng.random() < 0.35:
                intent, question, reply, values = self.turn(intent, follow=True)
                turns.append((question, reply))
            if intent.more and self.rng.random() < 0.25:
                more = self.rng.choice(MORE)
                turns.append((style(self.rng, more + "?"), fill(self.rng.choice(intent.more), values)))
        return turns

    def chat(self):
        """A conversation in the ChatML form the chat template produces."""
        text = ""
        if self.rng.random() < 0.15:
            text += f"<|im_start|>system\n{self.rng.choice(SYSTEMS)}<|im_end|>\n"
        for question, reply in self.conversation():
            text += f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{reply}<|im_end|>\n"
        return text

    def plain(self):
        """The same as plain text, the form in which perplexity is measured."""
        return "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in self.conversation())

    def document(self):
        return self.plain() if self.rng.random() < 0.12 else self.chat()


def evaluation_text(size, seed):
    """Held-out wordings, each question once, as plain text."""
    corpus, seen, text = Corpus(seed, evaluation=True), set(), ""
    while len(text) < size:
        _, question, reply, _ = corpus.turn(corpus.pick())
        key = plain_key(question)
        if key not in seen:
            seen.add(key)
            text += f"Question: {question[0].upper() + question[1:]}\nAnswer: {reply}\n\n"
    return text


def check(documents=30000):
    """Fails on a placeholder that is unknown, begins another one or is left over."""
    names = set()
    for path in (HERE / "corpus").glob("*.txt"):
        names |= set(re.findall(r"\$([A-Z0-9]*)", path.read_text(encoding="utf-8")))
    assert all(name.isalpha() for name in names), names
    clash = [(a, b) for a in names for b in names if a != b and b.startswith(a)]
    assert not clash, clash
    # Every line of every intent, many times; an unknown placeholder is a KeyError.
    corpus = Corpus(5)
    held = Corpus(6, evaluation=True)
    texts = [corpus.document() for _ in range(documents)] + [held.document() for _ in range(documents // 5)]
    for intent in corpus.intents:
        for line in intent.questions + intent.answers + intent.more + intent.follow:
            for _ in range(30):
                values = draw_values(corpus.rng, intent)
                texts.append(fill(choose(corpus.rng, line), {**values, **values.get("_answer", {})}))
    marks = re.compile(r"[$@{}]|(?<!<)\|(?!>)")
    bad = [text for text in texts if marks.search(text)]
    assert not bad, bad[:3]
    print(f"{len(texts)} texts, {len(names)} placeholders, {len(corpus.intents)} intents: nothing left over")


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        check()
    else:
        sample = Corpus(1)
        for _ in range(20):
            print(sample.document())
