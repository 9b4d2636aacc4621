"""The demo model: a small mixture-of-experts transformer in the form that
llama.cpp calls "llama" with experts (the Mixtral form).

Weights are kept in the layout GGUF stores, one row per output feature, so that
export.py can write them without transposing anything.
"""
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Config:
    vocab: int = 1280
    layers: int = 4
    width: int = 192
    heads: int = 6
    head_dim: int = 32
    experts: int = 8
    used: int = 2
    ff: int = 128
    context: int = 1024
    rope_base: float = 10000.0
    eps: float = 1e-5
    # Room per expert in training, as a multiple of an even share.
    capacity: float = 1.5


def init(cfg, seed):
    rng = np.random.default_rng(seed)

    def normal(*shape, std=0.02):
        return (rng.standard_normal(shape) * std).astype(np.float32)

    d, f, e = cfg.width, cfg.ff, cfg.experts
    inner = cfg.heads * cfg.head_dim
    # Projections back into the residual stream start smaller with depth.
    out_std = 0.04 / np.sqrt(2 * cfg.layers)
    params = {
        "token_embd": normal(cfg.vocab, d, std=0.05),
        "output": normal(cfg.vocab, d),
        "output_norm": np.ones(d, np.float32),
        "blk": [],
    }
    for _ in range(cfg.layers):
        params["blk"].append({
            "attn_norm": np.ones(d, np.float32),
            "attn_q": normal(inner, d, std=0.04),
            "attn_k": normal(inner, d, std=0.04),
            "attn_v": normal(inner, d, std=0.04),
            "attn_output": normal(d, inner, std=out_std),
            "ffn_norm": np.ones(d, np.float32),
            "ffn_gate_inp": normal(e, d),
            "ffn_gate_exps": normal(e, f, d, std=0.05),
            "ffn_up_exps": normal(e, f, d, std=0.05),
            "ffn_down_exps": normal(e, d, f, std=out_std),
        })
    return jax.tree.map(jnp.asarray, params)


def count(params):
    return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))


def rms_norm(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * weight


def rope_tables(cfg, length):
    inv = cfg.rope_base ** (-np.arange(0, cfg.head_dim, 2) / cfg.head_dim)
    angle = np.arange(length)[:, None] * inv[None, :]
    return jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)


def rope(x, cos, sin):
    """Rotates the pairs (2i, 2i+1): the interleaved form that llama.cpp uses
    for this architecture. x is [batch, time, head, head_dim]."""
    pair = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pair[..., 0], pair[..., 1]
    c, s = cos[None, :, None, :], sin[None, :, None, :]
    return jnp.stack([a * c - b * s, a * s + b * c], -1).reshape(x.shape)


def attention(cfg, p, x, cos, sin):
    b, t, _ = x.shape
    split = lambda y: y.reshape(b, t, cfg.heads, cfg.head_dim)
    q = rope(split(x @ p["attn_q"].T), cos, sin)
    k = rope(split(x @ p["attn_k"].T), cos, sin)
    v = split(x @ p["attn_v"].T)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(cfg.head_dim)
    mask = np.tril(np.ones((t, t), bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), -1)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, t, -1)
    return y @ p["attn_output"].T


def pad_row(x):
    """Appends a row of zeros, which the index "no row" points at."""
    return jnp.concatenate([x, jnp.zeros_like(x[:1])])


# Moving tokens into the experts' buffers and back is a permutation with gaps.
# Both directions and both gradients are written as gathers, because the
# scatter that automatic differentiation would emit is very slow on a CPU.
@jax.custom_vjp
def permute(x, index, inverse):
    return pad_row(x)[index]


def permute_fwd(x, index, inverse):
    return permute(x, index, inverse), inverse


def permute_bwd(inverse, grad):
    return pad_row(grad)[inverse], None, None


permute.defvjp(permute_fwd, permute_bwd)


def route(cfg, p, flat):
    """Softmax over all experts, the best `used` of them, weights renormalised
    to sum to one: what llama.cpp does for this architecture."""
    probs = jax.nn.softmax(flat @ p["ffn_gate_inp"].T, -1)
    top, chosen = jax.lax.top_k(probs, cfg.used)
    return probs, top / top.sum(-1, keepdims=True), chosen


def swiglu(p, x):
    gate = jnp.einsum("ecd,efd->ecf", x, p["ffn_gate_exps"])
    up = jnp.einsum("ecd,efd->ecf", x, p["ffn_up_exps"])
    return jnp.einsum("ecf,edf->ecd", jax.nn.silu(gate) * up, p["ffn_down_exps"])


def experts(cfg, p, x, exact):
    """The expert layer. In training each expert has a buffer of fixed size and
    a token that finds it full skips that expert; `exact` gives every expert
    room for every token, which is what inference computes."""
    flat = x.reshape(-1, x.shape[-1])
    n, k, e = flat.shape[0], cfg.used, cfg.experts
    probs, weight, chosen = route(cfg, p, flat)
    room = n if exact else int(np.ceil(n * k / e * cfg.capacity))
    pick = chosen.reshape(-1)
    onehot = jax.nn.one_hot(pick, e, dtype=jnp.int32)
    place = jnp.take_along_axis(jnp.cumsum(onehot, 0) - 1, pick[:, None], 1)[:, 0]
    # slot: where each (token, choice) goes; source: which one fills each slot.
    slot = jnp.where(place < room, pick * room + place, e * room)
    source = jnp.full(e * room + 1, n * k, jnp.int32)
    source = source.at[slot].set(jnp.arange(n * k, dtype=jnp.int32))[:-1]
    copies = jnp.repeat(flat[:, None], k, 1).reshape(n * k, -1)
    buffer = permute(copies, source, slot).reshape(e, room, -1)
    out = permute(swiglu(p, buffer).reshape(e * room, -1), slot, source)
    y = (out.reshape(n, k, -1) * weight[..., None]).sum(1)
    share = onehot.mean(0, dtype=jnp.float32)
    balance = e * jnp.sum(share * probs.mean(0))
    return y.reshape(x.shape), balance, share


def forward(cfg, params, tokens, exact=False):
    """Logits [batch, time, vocab], the balance loss, and the share of choices
    each expert of each layer got."""
    cos, sin = rope_tables(cfg, tokens.shape[1])
    x = params["token_embd"][tokens]
    balance, shares = 0.0, []
    for p in params["blk"]:
        x = x + attention(cfg, p, rms_norm(x, p["attn_norm"], cfg.eps), cos, sin)
        y, b, share = experts(cfg, p, rms_norm(x, p["ffn_norm"], cfg.eps), exact)
        x, balance = x + y, balance + b / cfg.layers
        shares.append(share)
    x = rms_norm(x, params["output_norm"], cfg.eps)
    return x @ params["output"].T, balance, jnp.stack(shares)


@partial(jax.jit, static_argnums=(0, 4))
def losses(cfg, params, tokens, weight, exact=False):
    """Weighted mean cross entropy of the next token, balance loss, shares."""
    logits, balance, shares = forward(cfg, params, tokens[:, :-1], exact)
    logp = jax.nn.log_softmax(logits, -1)
    nll = -jnp.take_along_axis(logp, tokens[:, 1:, None], -1)[..., 0]
    w = weight[:, 1:]
    return (nll * w).sum() / w.sum(), balance, shares
