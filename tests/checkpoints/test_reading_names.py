"""Finding the state dict, naming its tensors, and deciding which network they are."""

from __future__ import annotations

import pytest
import torch


def pointers(answer):
    return [one["pointer"] for one in answer.error["errors"]]


def details(answer):
    return [one["detail"] for one in answer.error["errors"]]


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_nested_state_dict_is_found_and_reported(convert, save, mlp, key):
    answer = convert(save({key: mlp(), "epoch": 3, "loss": torch.tensor(0.5)}), architecture="mlp")
    assert answer.checkpoint["adjustments"] == [f"took the state dict under '{key}'"]
    assert answer.checkpoint["tensors"] == 9


def test_nesting_is_descended_repeatedly(convert, save, mlp):
    answer = convert(save({"model": {"state_dict": {"model": mlp()}}}), architecture="mlp")
    assert answer.checkpoint["adjustments"] == [
        "took the state dict under 'model'",
        "took the state dict under 'state_dict'",
        "took the state dict under 'model'",
    ]


def test_of_a_configuration_and_a_state_dict_the_one_with_tensors_is_taken(convert, save, mlp):
    answer = convert(save({"model": {"width": 5}, "state_dict": mlp()}), architecture="mlp")
    assert answer.checkpoint["adjustments"] == ["took the state dict under 'state_dict'"]


def test_two_state_dicts_are_one_too_many(convert, save, mlp):
    answer = convert(save({"model": mlp(), "state_dict": mlp(seed=1)}), architecture="mlp")
    assert "save only one of them" in answer.error["detail"]


def test_a_state_dict_that_holds_itself_is_refused(convert, save):
    endless = {}
    endless["model"] = endless
    assert "without end" in convert(save(endless), architecture="mlp").error["detail"]


@pytest.mark.parametrize(
    ("prefix", "adjustments"),
    [
        ("module.", ["stripped prefix 'module.' from 9 names"]),
        ("_orig_mod.", ["stripped prefix '_orig_mod.' from 9 names"]),
        ("model.", ["stripped prefix 'model.' from 9 names"]),
        (
            "_orig_mod.module.model.module.",
            [
                "stripped prefix '_orig_mod.' from 9 names",
                "stripped prefix 'module.' from 9 names",
                "stripped prefix 'model.' from 9 names",
                "stripped prefix 'module.' from 9 names",
            ],
        ),
    ],
)
def test_prefixes_of_wrappers_are_stripped_in_any_stack(convert, save, mlp, prefix, adjustments):
    answer = convert(save(prefixed(mlp(), prefix)), architecture="mlp")
    assert answer.checkpoint["adjustments"] == adjustments
    assert answer.digest == convert(save(mlp()), architecture="mlp").digest


def test_a_prefix_that_one_name_lacks_is_not_stripped(convert, save, mlp):
    state = prefixed(mlp(), "module.")
    state["layers.0.bias"] = state.pop("module.layers.0.bias")
    error = convert(save(state), architecture="mlp").error
    assert "'module.layers.0.weight'" in error["detail"]


def test_data_parallel_and_compiled_modules_are_read(convert, save):
    network = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(4, 2)])})
    wrapped = torch.nn.DataParallel(network)
    answer = convert(save({"model_state_dict": wrapped.state_dict()}), architecture="mlp")
    assert answer.checkpoint["adjustments"] == [
        "took the state dict under 'model_state_dict'",
        "stripped prefix 'module.' from 2 names",
    ]


def test_key_map_renames_whole_segments_after_stripping(convert, save, mlp):
    names = {"layers.0": "net.1", "layers.1": "net.10", "norms.0": "bn"}
    state = {}
    for name, tensor in mlp().items():
        head, _, leaf = name.rpartition(".")
        state[f"module.{names[head]}.{leaf}"] = tensor
    key_map = {"net.1": "layers.0", "net.10": "layers.1", "bn": "norms.0"}
    answer = convert(save(state), architecture="mlp", key_map=key_map)
    assert answer.checkpoint["adjustments"] == [
        "stripped prefix 'module.' from 9 names",
        "renamed 'net.1' to 'layers.0' (2 tensors)",
        "renamed 'net.10' to 'layers.1' (2 tensors)",
        "renamed 'bn' to 'norms.0' (5 tensors)",
    ]
    assert answer.digest == convert(save(mlp()), architecture="mlp").digest


def test_the_longest_entry_of_key_map_wins_and_an_empty_one_takes_the_prefix_away(
    convert, save, mlp
):
    state = prefixed(mlp(), "trunk.")
    state["trunk.head.weight"] = state.pop("trunk.layers.1.weight")
    state["trunk.head.bias"] = state.pop("trunk.layers.1.bias")
    key_map = {"trunk": "", "trunk.head": "layers.1"}
    answer = convert(save(state), architecture="mlp", key_map=key_map)
    assert answer.digest == convert(save(mlp()), architecture="mlp").digest


def test_an_entry_of_key_map_that_matches_nothing_is_an_error_that_lists_what_is_there(
    convert, save, mlp
):
    answer = convert(save(mlp()), architecture="mlp", key_map={"a/b~c": "x", "layer": "y"})
    assert pointers(answer) == ["/key_map/a~1b~0c", "/key_map/layer"]
    assert all("'layers.0.weight', 'layers.0.bias'" in detail for detail in details(answer))


def test_names_that_key_map_makes_equal_are_refused(convert, save, mlp):
    answer = convert(save(mlp((4, 4, 4))), architecture="mlp", key_map={"layers.1": "layers.0"})
    assert pointers(answer) == ["/key_map"]
    assert (
        "'layers.0.weight' and 'layers.1.weight' both become 'layers.0.weight'"
        in answer.error["detail"]
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], "holds a list, not a state dict"),
        (torch.zeros(3), "holds a tensor, not a state dict"),
        ({}, "holds no tensors"),
        ({"epoch": 1, "weights": {"a": torch.zeros(1)}}, "it holds 'epoch' (a int), 'weights'"),
        ({"state_dict": {"a": torch.zeros(1), "b": 3}}, "beside its tensors the state dict holds"),
        ({0: torch.zeros(1)}, "a key that is no text (a tensor)"),
        ({"x" * 2000: torch.zeros(1)}, "more than 1000 characters"),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_holds(convert, save, value, words):
    assert words in convert(save(value), architecture="mlp").error["detail"]


def test_without_an_architecture_the_error_names_those_that_fit(convert, save, mlp, convnet):
    answer = convert(save(mlp()))
    assert pointers(answer) == ["/architecture"]
    assert "known: mlp, convnet" in answer.error["detail"]
    assert "fit mlp with hidden [5], batch_norm True." in answer.error["detail"]
    assert "fit convnet with widths [4, 6]." in convert(save(convnet)).error["detail"]
    assert "fit" not in convert(save({"a": torch.zeros(1)})).error["detail"]


def test_an_unknown_architecture_lists_the_known_ones(convert, save, mlp):
    answer = convert(save(mlp()), architecture="resnte")
    assert pointers(answer) == ["/architecture"]
    assert "known: mlp, convnet" in answer.error["detail"]


def test_a_key_map_may_be_written_as_the_file_writes_its_names(convert, save):
    weights = {"net.0.weight": torch.ones(3, 2), "net.0.bias": torch.ones(3)}
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}
    plain = convert(save(wrapped), architecture="mlp", key_map={"net.0": "layers.0"})
    whole = {"module._orig_mod.net.0": "layers.0"}
    answer = convert(save(wrapped), architecture="mlp", key_map=whole)
    assert answer.checkpoint == plain.checkpoint
    missing = convert(save(wrapped), architecture="mlp", key_map={"module.other": "layers.0"})
    assert "no name starts with 'module.other'" in missing.error["detail"]


def test_tensors_of_another_architecture_are_recognised(convert, save, convnet):
    answer = convert(save(convnet), architecture="mlp")
    assert pointers(answer) == ["/file"]
    assert "fit convnet with widths [4, 6]" in answer.error["detail"]


def test_missing_unexpected_and_misshapen_tensors_are_listed_together(convert, save, mlp):
    state = mlp((6, 5, 4, 3))
    del state["layers.1.bias"]
    state["layers.0.bias"] = torch.zeros(9)
    state["extra.weight"] = torch.zeros(2)
    answer = convert(save(state), architecture="mlp")
    assert pointers(answer) == ["/file"] * 3
    assert details(answer) == [
        "missing (1): 'layers.1.bias'",
        "unexpected (1): 'extra.weight'",
        "misshapen (1): 'layers.0.bias' has shape [9], expected [5]",
    ]


def test_of_many_differences_the_first_twenty_are_listed_with_their_number(convert, save, mlp):
    state = mlp()
    for number in range(50):
        state[f"blocks.{number}.weight"] = torch.zeros(1)
    (detail,) = details(convert(save(state), architecture="mlp"))
    assert detail.startswith("unexpected (50): 'blocks.0.weight'")
    assert detail.endswith("'blocks.19.weight', and 30 more")


def test_a_stated_hyperparameter_that_the_shapes_contradict_is_pointed_at(convert, save, mlp):
    answer = convert(
        save(mlp()), architecture="mlp", hyperparameters={"hidden": [6], "batch_norm": False}
    )
    assert pointers(answer) == ["/hyperparameters/hidden", "/hyperparameters/batch_norm"]
    assert details(answer)[0] == "hidden is stated as [6], but the shapes show [5]"
    assert "those that fit are hidden [5], batch_norm True" in answer.error["detail"]


def test_stated_hyperparameters_that_agree_are_taken(convert, save, mlp):
    answer = convert(
        save(mlp()),
        architecture="mlp",
        hyperparameters={"hidden": [5], "activation": "tanh", "dropout": 0.5},
    )
    assert answer.checkpoint["hyperparameters"] == {
        "hidden": [5],
        "activation": "tanh",
        "dropout": 0.5,
        "batch_norm": True,
    }
    assert answer.checkpoint["assumed"] == ["classes", "transforms"]


@pytest.mark.parametrize(
    ("hyperparameters", "pointer"),
    [
        ({"hidden": 5}, "/hyperparameters/hidden"),
        ({"hidden": [0]}, "/hyperparameters/hidden/0"),
        ({"activation": "swish"}, "/hyperparameters/activation"),
        ({"width": 5}, "/hyperparameters/width"),
        ({"dropout": 1.0}, "/hyperparameters/dropout"),
        ([], "/hyperparameters"),
    ],
)
def test_a_hyperparameter_that_cannot_be_is_pointed_at(
    convert, save, mlp, hyperparameters, pointer
):
    answer = convert(save(mlp()), architecture="mlp", hyperparameters=hyperparameters)
    assert pointers(answer) == [pointer]


@pytest.mark.parametrize(
    ("field", "value", "pointer"),
    [
        ("architecture", 3, "/architecture"),
        ("classes", ["a", "b"], "/classes"),
        ("classes", ["a", "b", "b"], "/classes"),
        ("classes", ["a", "b", ""], "/classes/2"),
        ("classes", "abc", "/classes"),
        ("classes", [0, 1, 2], "/classes"),
        ("transforms", [{"name": "blur"}], "/transforms/0/name"),
        ("transforms", [{"name": "normalize", "mean": [0]}], "/transforms/0/std"),
        ("transforms", [{}], "/transforms/0/name"),
        ("transforms", ["flatten"], "/transforms"),
        ("key_map", [], "/key_map"),
        ("key_map", {"a": 1}, "/key_map"),
    ],
)
def test_a_wrong_declaration_is_pointed_at(convert, save, mlp, field, value, pointer):
    answer = convert(save(mlp()), **{"architecture": "mlp", field: value})
    assert pointers(answer) == [pointer]


def test_classes_and_transforms_are_kept_with_defaults_filled_in(convert, save, mlp):
    answer = convert(
        save(mlp()),
        architecture="mlp",
        classes=["a", "b", "c"],
        transforms=[{"name": "to_float"}, {"name": "normalize", "mean": [1], "std": [2]}],
    )
    assert answer.checkpoint["classes"] == ["a", "b", "c"]
    assert answer.checkpoint["transforms"] == [
        {"name": "to_float", "scale": None},
        {"name": "normalize", "mean": [1.0], "std": [2.0]},
    ]
    assert answer.checkpoint["assumed"] == ["activation"]


def test_one_output_has_two_classes_or_is_one_label(convert, save, mlp):
    data = save(mlp((4, 1)))
    for classes in (["no", "yes"], ["smiling"]):
        answer = convert(data, architecture="mlp", classes=classes)
        assert (answer.checkpoint["outputs"], answer.checkpoint["classes"]) == (1, classes)
    for classes in ([], ["a", "b", "c"]):
        answer = convert(data, architecture="mlp", classes=classes)
        assert pointers(answer) == ["/classes"]
    answer.assert_refused("1 output has 1 class, or 2 for a binary task, but 3 are stated")


def test_stating_no_transforms_is_not_the_same_as_not_stating_them(convert, save, mlp):
    answer = convert(save(mlp()), architecture="mlp", transforms=[])
    assert answer.checkpoint["transforms"] == []
    assert "transforms" not in answer.checkpoint["assumed"]
    assert answer.digest != convert(save(mlp()), architecture="mlp").digest


def test_what_a_torch_file_states_of_itself_is_taken(convert, save_somehow, mlp):
    stated = {
        "architecture": "mlp",
        "hyperparameters": {"activation": "gelu", "dropout": 0.1, "lr": 0.001},
        "classes": ("x", "y", "z"),
        "transforms": [{"name": "flatten"}],
    }
    answer = convert(save_somehow({"state_dict": mlp(), **stated}))
    assert answer.checkpoint["hyperparameters"]["activation"] == "gelu"
    assert answer.checkpoint["classes"] == ["x", "y", "z"]
    assert answer.checkpoint["transforms"] == [{"name": "flatten"}]
    assert answer.checkpoint["assumed"] == []
    assert answer.checkpoint["adjustments"] == [
        "took the state dict under 'state_dict'",
        "left out hyperparameters that mlp has not: 'lr'",
    ]


def test_statements_may_stand_beside_bare_tensors(convert, save, mlp):
    assert convert(save({**mlp(), "architecture": "mlp"})).checkpoint["tensors"] == 9


def test_the_declaration_overrides_the_file_field_by_field(convert, save, mlp):
    data = save(
        {
            "state_dict": mlp(),
            "architecture": "mlp",
            "hyperparameters": {"activation": "gelu", "dropout": 0.1},
            "classes": ["x", "y", "z"],
        }
    )
    answer = convert(data, hyperparameters={"dropout": 0.3}, classes=["a", "b", "c"])
    assert answer.checkpoint["hyperparameters"]["activation"] == "gelu"
    assert answer.checkpoint["hyperparameters"]["dropout"] == 0.3
    assert answer.checkpoint["classes"] == ["a", "b", "c"]


def test_what_a_file_states_badly_is_pointed_at_unless_it_is_declared(convert, save, mlp):
    foreign = {
        "state_dict": mlp(),
        "architecture": "alexnet",
        "hyperparameters": {"activation": "gelu"},
        "classes": {"cat": 0, "dog": 1},
        "transforms": {1, 2},
    }
    data = save(foreign)
    assert pointers(convert(data)) == ["/classes"]
    assert pointers(convert(data, classes=["a", "b", "c"])) == ["/transforms"]
    declared = {"classes": ["a", "b", "c"], "transforms": []}
    assert pointers(convert(data, **declared)) == ["/architecture"]
    answer = convert(data, architecture="mlp", **declared)
    # The file's hyperparameters were another architecture's.
    assert answer.checkpoint["hyperparameters"]["activation"] == "relu"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, {"a": {1}}], "holds a set"),
        ({1: 2}, "a key that is no plain text"),
        ({"a\x00b": 2}, "a key that is no plain text"),
        ([2**70], "holds a int"),
        ([[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]], "nested too deeply"),
    ],
)
def test_what_json_does_not_have_cannot_be_stated(convert, save, mlp, value, words):
    error = convert(save({"state_dict": mlp(), "hyperparameters": value})).error
    assert words in error["detail"]
    assert error["errors"][0]["pointer"] == "/hyperparameters"


def test_a_statement_that_unfolds_without_end_is_refused(convert, save, mlp):
    laughs = ["ha"]
    for _ in range(14):
        laughs = [laughs] * 30
    error = convert(save({"state_dict": mlp(), "classes": laughs})).error
    assert "too large" in error["detail"]
