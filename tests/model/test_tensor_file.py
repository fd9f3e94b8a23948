"""The safetensors format: what is written is what the library reads, and damage is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qwen3.model import tensor_file

A, B = {"a": ("F32", [2], [0, 8])}, {"b": ("F32", [2], [8, 16])}


def rows(**tensors):
    return {
        name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        for name, (dtype, shape, offsets) in tensors.items()
    }


def file_of(tmp_path, header, data=16):
    """A file with this header (JSON or its text) and `data` bytes."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(data)))
    return path


def test_a_header_says_where_each_tensor_lies(tmp_path):
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(3, np.float16)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    stored = tensor_file.read_header(tmp_path / "x.safetensors")
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stored[name].dtype == tensor.dtype and stored[name].nbytes == tensor.nbytes
        np.testing.assert_array_equal(stored[name].map(), tensor)


def test_rows_and_shapes_of_a_tensor_are_tensors_of_the_same_file(tmp_path):
    tensor = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    save_file({"x": np.zeros(5, np.float32), "y": tensor}, tmp_path / "x.safetensors")
    stored = tensor_file.read_header(tmp_path / "x.safetensors")["y"]
    np.testing.assert_array_equal(stored.rows(1, 2).map(), tensor[1:2])
    np.testing.assert_array_equal(stored.reshape(6, 4).rows(2, 5).map(), tensor.reshape(6, 4)[2:5])


def test_a_written_file_is_what_the_library_reads(tmp_path):
    tensors = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(3, np.float16)}
    sizes = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    tensor_file.write(tmp_path / "x.safetensors", sizes, iter(tensors.items()))
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(loaded[name], tensor)


HOSTILE = {
    "overlap": rows(**A, b=("F32", [2], [4, 12])),
    "hole": rows(**A, b=("F32", [1], [12, 16])),
    "negative offset": rows(a=("F32", [2], [-8, 0]), b=("F32", [4], [0, 16])),
    "beyond the end": rows(**A, b=("F32", [4], [8, 24])),
    "bytes left over": rows(**A),
    "too few bytes for the shape": rows(a=("F32", [3], [0, 8]), **B),
    "huge shape": rows(a=("F32", [2**40, 2**40], [0, 8]), **B),
    "negative shape": rows(a=("F32", [-2], [0, 8]), **B),
    "float shape": rows(a=("F32", [2.0], [0, 8]), **B),
    "string offset": rows(a=("F32", [2], ["0", 8]), **B),
    "three offsets": rows(a=("F32", [2], [0, 4, 8]), **B),
    "list dtype": rows(a=(["F32"], [2], [0, 8]), **B),
    "unknown dtype": rows(a=("X32", [2], [0, 8]), **B),
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "a number for a tensor": {"a": 5},
    "a list for a header": [1, 2],
    "metadata is a number": {"__metadata__": 5, **rows(**A, **B)},
    "not JSON": "{broken header}",
    "deep nesting": '{"a":' * 100_000,
    "NaN": '{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}',
    "not text": "\udcff",
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_is_refused_by_the_name_of_its_file(tmp_path, header):
    if header == "\udcff":
        path = tmp_path / "x.safetensors"
        path.write_bytes((4).to_bytes(8, "little") + b"\xff\xfe{}" + bytes(16))
    else:
        path = file_of(tmp_path, header)
    with pytest.raises(ValueError, match="x.safetensors: truncated or damaged"):
        tensor_file.read_header(path)


@pytest.mark.parametrize("other", [("F32", [2], [0, 8]), ("F16", [4], [0, 8])])
def test_a_name_that_stands_twice_is_refused(tmp_path, other):
    first, second, last = (json.dumps(rows(**t))[1:-1] for t in (A, {"a": other}, B))
    path = file_of(tmp_path, f"{{{first}, {second}, {last}}}")
    with pytest.raises(ValueError, match="x.safetensors: the header holds 'a' twice"):
        tensor_file.read_header(path)


@pytest.mark.parametrize("code", ["F64", "I8", "F8_E4M3"])
def test_a_dtype_that_no_model_here_has_is_named_with_its_tensor(tmp_path, code):
    size = {"F64": 8, "I8": 1, "F8_E4M3": 1}[code]
    path = file_of(tmp_path, rows(a=(code, [16 // size], [0, 16])))
    with pytest.raises(ValueError, match=f"a is {code}; known: BF16, F16, F32"):
        tensor_file.read_header(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 20, (2**40).to_bytes(8, "little")])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"damaged safetensors file of {len(content)} bytes"):
        tensor_file.read_header(path)


def test_bytes_flipped_anywhere_in_a_header_raise_nothing_but_a_value_error(tmp_path):
    save_file({"a": np.ones((2, 3), np.float32)}, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(0, len(whole) - 24)] = rng.integers(0, 256)
        (tmp_path / "x.safetensors").write_bytes(damaged)
        try:
            tensor_file.read_header(tmp_path / "x.safetensors")
        except ValueError:
            refused += 1
    assert refused > 200  # the others changed a letter of the name or nothing
