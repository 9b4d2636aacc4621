"""Writes the model as a GGUF file that llama.cpp runs."""
import json

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import quants

from tokens import SPECIALS

TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
            "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def named(params):
    """Every tensor under its GGUF name. A norm, and the router as in
    llama.cpp's own converter, stays F32."""
    for name in ("token_embd", "output_norm", "output"):
        yield f"{name}.weight", np.asarray(params[name]), name != "output_norm"
    for i, block in enumerate(params["blk"]):
        for name, value in block.items():
            small = name.endswith("norm") or name == "ffn_gate_inp"
            yield f"blk.{i}.{name}.weight", np.asarray(value), not small


def as_stored(params):
    """The weights as the file holds them: through Q8_0 and back."""
    def through(name, value):
        if name.endswith("norm") or name == "ffn_gate_inp":
            return value
        value = np.asarray(value)
        return quants.dequantize(quants.quantize(value, Kind.Q8_0), Kind.Q8_0).reshape(value.shape)

    stored = {k: through(k, v) for k, v in params.items() if k != "blk"}
    stored["blk"] = [{k: through(k, v) for k, v in b.items()} for b in params["blk"]]
    return stored


def add_model_keys(writer, cfg):
    writer.add_name("moe-offload demo model")
    writer.add_description("A tiny mixture-of-experts chat model for trying out the crate moe-offload.")
    writer.add_license("MIT OR Apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(cfg.vocab)
    writer.add_context_length(cfg.context)
    writer.add_embedding_length(cfg.width)
    writer.add_block_count(cfg.layers)
    writer.add_feed_forward_length(cfg.ff)
    writer.add_expert_feed_forward_length(cfg.ff)
    writer.add_expert_count(cfg.experts)
    writer.add_expert_used_count(cfg.used)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.heads)
    writer.add_layer_norm_rms_eps(cfg.eps)
    writer.add_rope_dimension_count(cfg.head_dim)
    writer.add_rope_freq_base(cfg.rope_base)


def add_tokenizer_keys(writer, tok):
    model = json.loads(tok.to_str())["model"]
    names = [tok.id_to_token(i) for i in range(tok.get_vocab_size())]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([control if n in SPECIALS else normal for n in names])
    # Older versions of the package keep a merge as one string.
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_bos_token_id(names.index(SPECIALS[0]))
    writer.add_eos_token_id(names.index(SPECIALS[2]))
    writer.add_pad_token_id(names.index(SPECIALS[0]))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def write(path, cfg, params, tok):
    writer = gguf.GGUFWriter(path, "llama")
    add_model_keys(writer, cfg)
    add_tokenizer_keys(writer, tok)
    for name, value, quantised in named(params):
        if quantised:
            data = quants.quantize(value.astype(np.float32), Kind.Q8_0)
            writer.add_tensor(name, data, raw_dtype=Kind.Q8_0)
        else:
            writer.add_tensor(name, value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
