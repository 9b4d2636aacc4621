"""The tokenizer, and the rows of tokens that training reads."""
import random

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Loss weight of the text a user types; answers count fully.
ASKING = 0.3


def train_tokenizer(text, vocab):
    """Byte-level BPE that never merges digits, so that a number is always read
    digit by digit and can be copied. Afterwards the pre-tokenizer is the plain
    GPT-2 one, which is what llama.cpp runs for `tokenizer.ggml.pre = gpt-2`."""
    tok = Tokenizer(models.BPE())
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    tok.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=SPECIALS, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tok.pre_tokenizer, tok.decoder = gpt2, decoders.ByteLevel()
    assert tok.get_vocab_size() == vocab
    return tok


def weights(tok, ids):
    """1 for the tokens of an answer, including its end mark; less elsewhere."""
    start, end = tok.token_to_id(SPECIALS[1]), tok.token_to_id(SPECIALS[2])
    if start not in ids:
        return [0.6] * len(ids)
    assistant = tok.encode("assistant\n", add_special_tokens=False).ids
    head, out, answer = len(assistant), [], False
    for i, token in enumerate(ids):
        if i > head and ids[i - head - 1] == start and ids[i - head:i] == assistant:
            answer = True
        out.append(1.0 if answer else ASKING)
        if token == end:
            answer = False
    return out


def rows(tok, corpus, count, length, seed):
    """`count` rows of `length` + 1 tokens, each full of whole documents. Half
    the rows start at a document, as a chat does; the others start inside one,
    so that cut-off history does not confuse the model."""
    rng = random.Random(seed)
    ids = np.zeros((count, length + 1), np.int32)
    weight = np.zeros((count, length + 1), np.float32)
    for r in range(count):
        row, loss = [], []
        while len(row) < length + 1:
            new = tok.encode(corpus.document(), add_special_tokens=False).ids
            w = weights(tok, new)
            cut = rng.randrange(len(new)) if not row and rng.random() < 0.5 else 0
            row += new[cut:]
            loss += w[cut:]
        ids[r], weight[r] = row[:length + 1], loss[:length + 1]
    return ids, weight
