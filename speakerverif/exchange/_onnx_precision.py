"""An ONNX graph with smaller weights: halved, or in eight bits with products of eight bits."""

import io
import tempfile
from pathlib import Path
from typing import Any

# What is quantised; what has no such name (features, pooling, batch norms) stays float32.
PRODUCTS = ("MatMul", "Gemm", "Conv")
FLOAT32_PARTS = ("/features/", "/pooling/")
LEAST_WEIGHTS = 1024  # smaller tensors save too little


def halved(graph: Any) -> Any:
    """Return a graph that keeps its encoder's weights as float16 and computes with them in float32.

    A processor has no arithmetic on halves, and a graph of halves is full of conversions there. Runtimes widen
    these weights once, when they load the file.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    features = {name for node in graph.graph.node if "/features/" in node.name for name in node.input}
    widened = []
    for weights in graph.graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.dtype != np.float32 or values.size < LEAST_WEIGHTS or weights.name in features:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue  # a weight that float16 can't hold
        name = weights.name
        weights.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/float16"))
        widened.append(
            helper.make_node("Cast", [weights.name], [name], f"{name}/float32", to=TensorProto.FLOAT)
        )
    nodes = [*widened, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def quantised(graph: Any) -> Any:
    """Return a graph whose encoder multiplies 8-bit integers, with scales taken from each input.

    No recordings are needed to choose scales by. (One scale per tensor: with one per channel the sums of products
    saturate on processors without VNNI.)
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kept = [node.name for node in graph.graph.node if any(part in node.name for part in FLOAT32_PARTS)]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "int8.onnx"
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=list(PRODUCTS),
            per_channel=False,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
        )
        return onnx.load(path)


def folded(graph: Any) -> Any:
    """Return a graph with all that depends on weights alone computed in advance: batch norms folded into kernels."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    given = io.BytesIO()
    onnx.save(graph, given)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(given.getvalue(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)
