"""Trains the demo model and writes demo-moe.gguf and eval.txt beside this file.

Everything follows from the seed: the text, the tokenizer, the first weights and
the order of training. Run it with no arguments for the committed model.
"""
import argparse
import json
import pathlib
import pickle
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import export
import model
import tokens
from corpus import Corpus, check, evaluation_text

HERE = pathlib.Path(__file__).parent
# The last part of training reads long rows, so that long chats work too; most
# of it reads short ones, because attention over them costs much less.
SHORT, LONG, LONG_PART = 256, 1024, 0.12
BALANCE = 0.01


def options():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--steps", type=int, default=3200)
    p.add_argument("--batch", type=int, default=2048, help="tokens per step")
    p.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    p.add_argument("--out", type=pathlib.Path, default=HERE, help="folder for the results")
    p.add_argument("--work", type=pathlib.Path, help="folder for checkpoints (default: a temporary one)")
    return p.parse_args()


def optimizer(args):
    warmup = min(100, args.steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.rate, warmup, args.steps, args.rate * 0.01)
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    return optax.chain(optax.clip_by_global_norm(1.0),
                       optax.adamw(schedule, b1=0.9, b2=0.98, weight_decay=0.1, mask=matrices))


def make_step(cfg, opt):
    def objective(params, ids, weight):
        loss, balance, shares = model.losses(cfg, params, ids, weight)
        return loss + BALANCE * balance, (loss, shares)

    @jax.jit
    def step(params, state, ids, weight):
        grads, (loss, shares) = jax.grad(objective, has_aux=True)(params, ids, weight)
        updates, state = opt.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, shares

    return step


def fit(args, cfg, tok, work):
    """Trains, and returns the weights and the mean loss of the last steps."""
    params = model.init(cfg, args.seed)
    opt = optimizer(args)
    state, step = opt.init(params), make_step(cfg, opt)
    corpus = Corpus(args.seed)
    long_from = args.steps - int(args.steps * LONG_PART)
    recent, began = [], time.time()
    for i in range(args.steps):
        length = LONG if i >= long_from else SHORT
        ids, weight = tokens.rows(tok, corpus, max(1, args.batch // length), length, args.seed * 1000003 + i)
        params, state, loss, shares = step(params, state, ids, weight)
        recent = (recent + [float(loss)])[-50:]
        if (i + 1) % 50 == 0:
            low, high = float(shares.min()), float(shares.max())
            print(f"step {i + 1:5d}  loss {np.mean(recent):.4f}  expert share {low:.3f} to {high:.3f}  "
                  f"{time.time() - began:.0f} s", flush=True)
        if (i + 1) % 400 == 0 and i + 1 < args.steps:
            save(work, params, cfg, tok)
    return jax.tree.map(np.asarray, params), float(np.mean(recent))


def save(work, params, cfg, tok):
    params = jax.tree.map(np.asarray, params)
    (work / "weights.pickle").write_bytes(pickle.dumps(params))
    export.write(work / "checkpoint.gguf", cfg, params, tok)


def mean_loss(cfg, params, ids, weight):
    """Mean loss as inference computes it: no expert is ever full."""
    total, parts, shares = 0.0, 0.0, 0.0
    for row, w in zip(ids, weight):
        loss, _, share = model.losses(cfg, params, row[None], w[None], True)
        total, parts, shares = total + float(loss) * float(w[1:].sum()), parts + float(w[1:].sum()), shares + share
    return total / parts, shares / len(ids)


def text_loss(cfg, params, tok, text):
    """Loss per token over a text, read in rows of 512 tokens."""
    ids = tok.encode(text, add_special_tokens=False).ids
    count = (len(ids) - 1) // 512
    rows = np.array([ids[i * 512:i * 512 + 513] for i in range(count)], np.int32)
    return mean_loss(cfg, params, rows, np.ones(rows.shape, np.float32))[0]


def measure(cfg, params, tok, eval_text, seed):
    """All figures are of the weights as stored, that is after Q8_0."""
    params = jax.tree.map(jnp.asarray, export.as_stored(params))
    seen = tokens.rows(tok, Corpus(seed + 1), 40, 512, 7)
    unseen = tokens.rows(tok, Corpus(seed + 2, evaluation=True), 40, 512, 8)
    answers = lambda pair: (pair[0], (pair[1] > 0.5).astype(np.float32))
    train, _ = mean_loss(cfg, params, *answers(seen))
    held, shares = mean_loss(cfg, params, *answers(unseen))
    text = text_loss(cfg, params, tok, eval_text)
    return {"answers, wordings of training": train, "answers, held-out wordings": held, "eval.txt": text,
            "eval.txt perplexity": float(np.exp(text)),
            "expert shares": [[round(float(s), 3) for s in layer] for layer in shares]}


def main():
    args = options()
    work = args.work or pathlib.Path(tempfile.mkdtemp(prefix="demo-moe-"))
    work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    cfg = model.Config()
    check(5000)
    sample = Corpus(args.seed + 100)
    tok = tokens.train_tokenizer("".join(sample.document() for _ in range(8000)), cfg.vocab)
    tok.save(str(work / "tokenizer.json"))
    eval_text = evaluation_text(16000, args.seed + 200)
    (args.out / "eval.txt").write_text(eval_text, encoding="utf-8")

    began = time.time()
    params, loss = fit(args, cfg, tok, work)
    save(work, params, cfg, tok)
    target = args.out / "demo-moe.gguf"
    export.write(target, cfg, params, tok)
    report = {"parameters": model.count(params), "bytes": target.stat().st_size,
              "seconds": round(time.time() - began), "last training loss": loss,
              **measure(cfg, params, tok, eval_text, args.seed)}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
