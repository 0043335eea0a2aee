"""The layers of a Llama as an ONNX graph of quantized products, for ONNX Runtime's CPU kernels.

A layer is ten nodes. Weights are not in the graph: the session is handed the arrays of the build's safetensors by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

MICROSOFT = "com.microsoft"
EXACT = 4  # MatMulNBits: activations in 8 bits, one scale a block; sums in 32 bits
_TYPES = {"uint8": "UINT8", "float32": "FLOAT", "int64": "INT64"}


def matrices(layer: int) -> dict[str, str]:
    """Names of a layer's quantized matrices and what each of them is made of, in the order in which they compute."""
    names = {"qkv": "", "out": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    return {f"layers.{layer}.{name}": source for name, source in names.items()}


def graph(config: Any, weights: Mapping[str, np.ndarray]) -> bytes:
    """A model from embedded tokens x, shape (B, T, hidden), to the normalised last hidden states, shape (B, 1, hidden).

    B or T is 1. Keys and values, shape (B, heads, capacity, width), are int8, read and written in place, keys rotated.
    `weights` holds NAME.q, uint8 of shape (out, blocks, bytes of a block), and NAME.s, float32 of shape (out, blocks), of each
    matrix, the norms, each layer's scales of keys and values by channel, and cos and sin.
    """
    from onnx import TensorProto, helper

    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    value = helper.make_tensor_value_info
    stores = [f"{kind}{layer}" for layer in range(config.num_hidden_layers) for kind in "kv"]
    shape = ["B", kv_heads, "capacity", width]
    inputs = [value("x", TensorProto.FLOAT, ["B", "T", config.hidden_size])]
    inputs += [value("last", TensorProto.INT32, ["B"]), value("longest", TensorProto.INT32, [])]
    inputs += [value(f"past_{store}", TensorProto.INT8, shape) for store in stores]
    outputs = [value("hidden", TensorProto.FLOAT, ["B", 1, config.hidden_size])]
    outputs += [value(store, TensorProto.INT8, shape) for store in stores]
    given = [_external(name, array) for name, array in weights.items()]
    given.append(helper.make_tensor("end", TensorProto.INT64, [1], [-1]))
    made = helper.make_graph(list(_nodes(config, heads, kv_heads, weights)), "llama", inputs, outputs, given)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()


def _nodes(config: Any, heads: int, kv_heads: int, weights: Mapping[str, np.ndarray]) -> Iterator[Any]:
    from onnx import helper

    epsilon = config.rms_norm_eps

    def product(source: str, name: str, out: str) -> Any:
        rows, blocks, size = weights[f"{name}.q"].shape
        bits = 8 if blocks * size >= _reads(config, name) else 4
        return helper.make_node(
            "MatMulNBits", [source, f"{name}.q", f"{name}.s"], [out], domain=MICROSOFT, N=rows, K=_reads(config, name),
            bits=bits, block_size=size * 8 // bits, accuracy_level=EXACT,
        )  # fmt: skip

    def norm(added: str, before: str, weight: str, out: str, after: str) -> Any:
        """after = added + before; out is it, normalised."""
        return helper.make_node(
            "SkipSimplifiedLayerNormalization", [added, before, weight], [out, "", "", after], domain=MICROSOFT, epsilon=epsilon
        )

    yield helper.make_node("SimplifiedLayerNormalization", ["x", "layers.0.before"], ["n0"], epsilon=epsilon, axis=-1)
    residual = "x"
    last = config.num_hidden_layers - 1
    for layer in range(last + 1):
        at = f"layers.{layer}"
        yield product(f"n{layer}", f"{at}.qkv", f"{at}.mixed")
        yield helper.make_node(
            "GroupQueryAttention",
            [f"{at}.mixed", "", "", f"past_k{layer}", f"past_v{layer}", "last", "longest", "cos", "sin", *[""] * 3,
             f"{at}.keys", f"{at}.values"],
            [f"{at}.seen", f"k{layer}", f"v{layer}"],
            domain=MICROSOFT, num_heads=heads, kv_num_heads=kv_heads, do_rotary=1, rotary_interleaved=0,
            kv_cache_bit_width=8, k_quant_type="PER_CHANNEL", v_quant_type="PER_CHANNEL",
        )  # fmt: skip
        yield product(f"{at}.seen", f"{at}.out", f"{at}.told")
        yield norm(f"{at}.told", residual, f"{at}.within", f"{at}.m", f"{at}.r")
        yield product(f"{at}.m", f"{at}.gate", f"{at}.g")
        yield product(f"{at}.m", f"{at}.up", f"{at}.u")
        yield helper.make_node("Sigmoid", [f"{at}.g"], [f"{at}.sigmoid"])
        yield helper.make_node("Mul", [f"{at}.g", f"{at}.sigmoid"], [f"{at}.silu"])
        yield helper.make_node("Mul", [f"{at}.silu", f"{at}.u"], [f"{at}.h"])
        yield product(f"{at}.h", f"{at}.down", f"{at}.d")
        residual = f"x{layer + 1}"
        following = "norm" if layer == last else f"layers.{layer + 1}.before"
        yield norm(f"{at}.d", f"{at}.r", following, f"n{layer + 1}", residual)
    yield helper.make_node("Gather", [f"n{last + 1}", "end"], ["hidden"], axis=1)


def _reads(config: Any, name: str) -> int:
    """Length of the rows of a matrix."""
    part = name.rsplit(".", 1)[1]
    if part == "out":
        return config.num_attention_heads * config.head_dim
    return config.intermediate_size if part == "down" else config.hidden_size


def _external(name: str, array: np.ndarray) -> Any:
    from onnx import TensorProto

    tensor = TensorProto(
        name=name, data_type=getattr(TensorProto, _TYPES[str(array.dtype)]), data_location=TensorProto.EXTERNAL
    )
    tensor.dims.extend(array.shape)
    for key, text in (("location", "weights"), ("offset", "0"), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=text)
    return tensor
