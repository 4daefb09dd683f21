"""The manifest in a canonical file, when the file comes again or when somebody wrote it by hand."""

from __future__ import annotations

import safetensors.torch


def test_stated_beats_assumed_when_a_canonical_file_comes_again(convert, save, mlp):
    first = convert(save(mlp()), architecture="mlp")
    again = convert(first.content, hyperparameters={"activation": "relu"}, transforms=[])
    assert again.checkpoint["assumed"] == ["classes"]
    assert again.digest != first.digest
    assert convert(again.content).content == again.content


def test_a_manifest_that_does_not_fit_its_tensors_is_refused(convert, save, mlp):
    content = convert(save(mlp()), architecture="mlp").content
    tensors = safetensors.torch.load(content)
    good = (
        '{"architecture":"mlp","assumed":[],"classes":null,"hyperparameters":{"hidden":[5]},'
        '"input_shape":[6],"outputs":3,"transforms":null}'
    )
    assert convert(safetensors.torch.save(tensors, {"holdout": good})).checkpoint
    for old, new, words in [
        ('"input_shape":[6]', '"input_shape":[7]', "states input shape [7]"),
        ('"input_shape":[6]', '"input_shape":[6,1]', "states input shape [6, 1]"),
        ('"hidden":[5]', '"hidden":[4]', "do not fit the tensors"),
        ('"outputs":3', '"outputs":"3"', "outputs must be an integer"),
        ('"classes":null', '"classes":["a","b"]', "3 outputs has 3 classes"),
        ('"outputs":3,', "", "exactly architecture"),
        ('"outputs":3', '"outputs":NaN', "not strict JSON"),
    ]:
        changed = good.replace(old, new)
        assert changed != good
        data = safetensors.torch.save(tensors, {"holdout": changed})
        assert words in convert(data).error["detail"]


def test_a_manifest_may_say_more_of_the_input_than_the_weights_do(convert, convnet):
    manifest = (
        '{"architecture":"convnet","assumed":["classes","transforms"],"classes":null,'
        '"hyperparameters":{"dropout":0.0,"widths":[4,6]},"input_shape":[2,8,8],"outputs":3,'
        '"transforms":null}'
    )
    answer = convert(safetensors.torch.save(convnet, {"holdout": manifest}))
    assert answer.checkpoint["input_shape"] == [2, 8, 8]
    assert convert(answer.content).content == answer.content
