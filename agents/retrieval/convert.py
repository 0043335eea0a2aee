"""A sentence encoder (BERT in safetensors) to ONNX, quantized to int8 and checked against torch.

Runs as a child process, `python -m agents.retrieval.convert SOURCE TARGET`, so that torch never enters the process that asks.
Why, and what was measured: docs/decisions/0002-retrieval.md.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np

from adaptrag.common.processes import die_with_parent

OPSET = 20
MODEL, MANIFEST = "model.onnx", "manifest.json"
# Mean cosine to torch's vectors. A float graph below its bound is wrong; int8 below its bound (a processor whose int8
# arithmetic saturates) is left aside and the float graph is kept. Measured: 1.0000 and 0.994.
LEAST_FLOAT, LEAST_INT8 = 0.9999, 0.98
PROBES = (
    "How long does the virus survive on plastic?",
    "The quick brown fox jumps over the lazy dog.",
    "Mother-to-child transmission is the main cause of HIV-1 infection in children worldwide. " * 6,
    "Invoices are due within 30 days; after 45 days a fee of 2.5 % is charged.",
    "naïve café, 北京, \N{SNOWMAN}",
)


def main(source: Path, target: Path) -> None:
    """Write `model.onnx` and `manifest.json` into the empty folder `target`. Raises ValueError if the graph is wrong."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from agents.retrieval.encoders import OnnxEmbedder, TorchEmbedder

    logging.getLogger().setLevel(logging.ERROR)  # the quantizer's advice about preprocessing, which this graph doesn't need
    expected = TorchEmbedder(source).embed(PROBES)
    path = target / MODEL
    with tempfile.TemporaryDirectory(dir=target) as folder:
        exact, small = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(build_graph(source), str(exact))
        cosine = _cosine(OnnxEmbedder(source, exact).embed(PROBES), expected)
        if cosine < LEAST_FLOAT:
            raise ValueError(f"the ONNX graph of {source} gives other vectors than torch (cosine {cosine:.5f})")
        quantize_dynamic(
            str(exact), str(small), weight_type=QuantType.QInt8, per_channel=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
        small_cosine = _cosine(OnnxEmbedder(source, small).embed(PROBES), expected)
        kept, form = (small, "int8") if small_cosine >= LEAST_INT8 else (exact, "float32")
        kept.replace(path)
    manifest = {
        "weights_sha256": hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest(),
        "form": form,
        "cosine": {"float32": round(cosine, 6), "int8": round(small_cosine, 6)},
    }
    (target / MANIFEST).write_text(json.dumps(manifest, indent=2))


def _cosine(vectors: np.ndarray, expected: np.ndarray) -> float:
    return float((vectors * expected).sum(axis=1).mean())


def build_graph(source: Path):
    """The float ONNX model of `source`: (input_ids, attention_mask), int64 (batch, tokens) -> vectors, float32 (batch, hidden).

    BERT (Devlin et al., 2019); the output is mean-pooled over the mask and L2-normalised (Reimers & Gurevych, 2019). Token
    types are all zero, so their embedding is folded into the positions; attention is ONNX Runtime's own fused operator.
    """
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    config = json.loads((source / "config.json").read_text())
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise ValueError(f"{source} is not a BERT encoder with GELU; set ADAPTRAG_EMBEDDING_BACKEND=torch to use it")
    tensors = load_file(source / "model.safetensors")
    weights = {
        name.removeprefix("bert."): value.astype(np.float32) for name, value in tensors.items() if value.dtype.kind == "f"
    }
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    epsilon = config["layer_norm_eps"]
    nodes: list = []
    constants: dict[str, np.ndarray] = {}

    def constant(name: str, value: np.ndarray) -> str:
        constants[name] = np.ascontiguousarray(value)
        return name

    def node(op: str, *inputs: str, name: str, **attributes) -> str:
        nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def linear(value: str, matrix: np.ndarray, bias: np.ndarray, name: str) -> str:
        product = node("MatMul", value, constant(f"{name}.weight", matrix.T), name=f"{name}.product")
        return node("Add", product, constant(f"{name}.bias", bias), name=name)

    def normalised(value: str, key: str, name: str) -> str:
        scale, shift = constant(f"{name}.scale", weights[f"{key}.weight"]), constant(f"{name}.shift", weights[f"{key}.bias"])
        return node("LayerNormalization", value, scale, shift, name=name, axis=-1, epsilon=epsilon)

    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    zero, one, last = (constant(name, np.array([value], np.int64)) for name, value in (("zero", 0), ("one", 1), ("last", -1)))
    words = node("Gather", constant("words", weights["embeddings.word_embeddings.weight"]), "input_ids", name="embedded")
    length = node("Shape", "input_ids", name="length", start=1, end=2)
    places = node("Slice", constant("positions", positions), zero, length, zero, name="places")
    state = normalised(node("Add", words, places, name="placed"), "embeddings.LayerNorm", "state")

    keys_present = node("Cast", "attention_mask", name="keys_present", to=TensorProto.INT32)

    for index in range(config["num_hidden_layers"]):
        key, name = f"encoder.layer.{index}", f"layer{index}"
        parts = [f"{key}.attention.self.{part}" for part in ("query", "key", "value")]
        matrix = np.concatenate([weights[f"{part}.weight"] for part in parts])
        offset = np.concatenate([weights[f"{part}.bias"] for part in parts])
        mixed = linear(state, matrix, offset, f"{name}.qkv")
        outputs = [f"{name}.{part}" for part in ("q", "k", "v")]
        nodes.append(helper.make_node("Split", [mixed], outputs, name=f"{name}.split", axis=2, num_outputs=3))
        attention = helper.make_node(
            "MultiHeadAttention",
            [*outputs, "", keys_present],
            [f"{name}.context"],
            name=f"{name}.attention",
            domain="com.microsoft",
            num_heads=heads,
        )
        nodes.append(attention)
        context = f"{name}.context"
        dense = f"{key}.attention.output.dense"
        attended = linear(context, weights[f"{dense}.weight"], weights[f"{dense}.bias"], f"{name}.out")
        summed = node("Add", attended, state, name=f"{name}.residual1")
        state = normalised(summed, f"{key}.attention.output.LayerNorm", f"{name}.normal1")
        wide = linear(
            state, weights[f"{key}.intermediate.dense.weight"], weights[f"{key}.intermediate.dense.bias"], f"{name}.wide"
        )
        wide = node("Gelu", wide, name=f"{name}.gelu")
        narrow = linear(wide, weights[f"{key}.output.dense.weight"], weights[f"{key}.output.dense.bias"], f"{name}.narrow")
        summed = node("Add", narrow, state, name=f"{name}.residual2")
        state = normalised(summed, f"{key}.output.LayerNorm", f"{name}.normal2")

    mask = node("Cast", "attention_mask", name="mask", to=TensorProto.FLOAT)
    column = node("Unsqueeze", mask, last, name="mask_column")
    total = node("ReduceSum", node("Mul", state, column, name="kept"), one, name="total", keepdims=0)
    count = node("ReduceSum", mask, one, name="count", keepdims=1)
    mean = node("Div", total, count, name="mean")
    norm = node("ReduceL2", mean, one, name="norm", keepdims=1)
    node("Div", mean, norm, name="vectors")

    shape = ["batch", "tokens"]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", hidden])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)], ir_version=10
    )


if __name__ == "__main__":
    die_with_parent()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
