#!/usr/bin/env python3
"""Makes tests/data/tiny.safetensors and tests/data/sharded/ with the safetensors package.

The files are committed, so that the tests need neither Python packages nor this script. To make them again:

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install safetensors numpy ml_dtypes
    /tmp/venv/bin/python scripts/make_test_safetensors.py

tests/kernels/safetensors_test.cpp repeats the formulas below: change both.
"""

import json
import pathlib

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data"


def ramp(rows, columns, first):
    """Element (i, j) is first + i - j / 8: exact in every one of the three types."""
    i, j = np.indices((rows, columns))
    return (first + i - j / 8).astype(np.float32)


def halves():
    """The corner cases, then every 37th finite half from +0 up and from -0 up."""
    corners = np.array([0x0001, 0x03FF, 0x0400, 0x7BFF], np.uint16)
    codes = np.arange(0, 0x7C00, 37, dtype=np.uint16)
    return np.concatenate([corners, codes, codes | 0x8000]).view(np.float16).reshape(-1, 10)


def main():
    (DATA / "sharded").mkdir(parents=True, exist_ok=True)
    tiny = {
        "layer.f32": ramp(6, 8, 1),
        "layer.f16": ramp(5, 8, -2).astype(np.float16),
        "layer.bf16": ramp(3, 8, 4).astype(ml_dtypes.bfloat16),
        "halves.f16": halves(),
        "bfloats.bf16": np.array([0x0001, 0x8001, 0x007F, 0x0080, 0x3F80, 0xBF80, 0x7F7F, 0xFF7F], np.uint16)
        .view(ml_dtypes.bfloat16)
        .reshape(2, 4),
        "vector.f32": np.arange(8, dtype=np.float32),
        "codes.i8": np.arange(16, dtype=np.int8).reshape(2, 8),
    }
    save_file(tiny, DATA / "tiny.safetensors", metadata={"format": "np"})

    shards = {
        "model-00001-of-00002.safetensors": {
            "model.layers.0.self_attn.q_proj.weight": ramp(8, 8, 0).astype(ml_dtypes.bfloat16),
            "model.layers.0.self_attn.k_proj.weight": ramp(4, 8, 10).astype(ml_dtypes.bfloat16),
        },
        "model-00002-of-00002.safetensors": {
            "model.layers.0.self_attn.v_proj.weight": ramp(4, 8, 20).astype(ml_dtypes.bfloat16),
            "model.layers.0.mlp.down_proj.weight": ramp(8, 16, -5),
        },
    }
    for name, tensors in shards.items():
        save_file(tensors, DATA / "sharded" / name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(t.nbytes for tensors in shards.values() for t in tensors.values())},
        "weight_map": {tensor: name for name, tensors in shards.items() for tensor in sorted(tensors)},
    }
    text = json.dumps(index, indent=2) + "\n"
    (DATA / "sharded" / "model.safetensors.index.json").write_text(text)


if __name__ == "__main__":
    main()
