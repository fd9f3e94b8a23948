"""generation_config.json: end tokens and sampling defaults as folders write them."""

import json
import warnings

import pytest

from qwen3.model import hf_generation


@pytest.fixture
def folder(tmp_path):
    """folder(settings, config): a folder with these two files, None for none."""

    def write(settings, config=None):
        for name, value in (("generation_config.json", settings), ("config.json", config)):
            if value is not None:
                (tmp_path / name).write_text(json.dumps(value))
        return tmp_path

    return write


@pytest.mark.parametrize(
    "settings, config, ids",
    [
        ({"eos_token_id": [5, 3]}, {"eos_token_id": 9}, (5, 3)),
        ({"eos_token_id": 5}, None, (5,)),
        ({"temperature": 1}, {"eos_token_id": 9}, ()),
        (None, {"eos_token_id": [9]}, (9,)),
        (None, {"eos_token_id": None}, ()),
        (None, None, ()),
    ],
)
def test_end_tokens_are_those_of_the_generation_config_else_of_the_config(
    folder, settings, config, ids
):
    assert hf_generation.stop_ids(folder(settings, config)) == ids


@pytest.mark.parametrize("value", ["5", [1, "2"], True, -1, 2.0, {"a": 1}])
def test_an_end_token_that_is_no_id_is_refused(folder, value):
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id .*wanted a token"):
        hf_generation.stop_ids(folder({"eos_token_id": value}))


def test_a_file_that_is_no_object_is_refused(folder):
    with pytest.raises(ValueError, match="generation_config.json holds a list"):
        hf_generation.read(folder([1]))


@pytest.mark.parametrize(
    "settings, fields",
    [
        ({"temperature": 0.7, "top_p": 0.8, "top_k": 20}, {}),
        ({"min_p": 0.1, "repetition_penalty": 1.05, "top_k": None}, {"top_k": None}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"do_sample": False, "temperature": 0.6}, {"do_sample": None, "temperature": 0.0}),
        ({"do_sample": True, "eos_token_id": 3}, {"do_sample": None, "eos_token_id": None}),
        ({}, {}),
    ],
)
def test_the_sampling_that_a_folder_names(settings, fields):
    wanted = {name: value for name, value in (settings | fields).items() if value is not None}
    assert hf_generation.sampling(settings) == wanted


def test_what_is_not_followed_is_said_in_one_line(folder):
    settings = {"num_beams": 4, "max_new_tokens": 2048, "length_penalty": 1.0, "temperature": 0.6}
    path = folder(settings)
    with pytest.warns(UserWarning) as told:
        hf_generation.warn_of_others(path, settings)
    (line,) = [str(warning.message) for warning in told]
    assert line.endswith(
        "generation_config.json: not followed: num_beams = 4, max_new_tokens = 2048"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hf_generation.warn_of_others(path, {"temperature": 0.6, "transformers_version": "5.0.0"})
