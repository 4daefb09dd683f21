"""What a spec may say of arrays, of tables and of images, before a file is decoded."""

import pytest

from models.catalog import FORMATS
from models.datasets.kinds import KINDS, check
from models.spec import Component, DatasetSpec, SpecError


def spec(*transforms, **given):
    chain = tuple(Component.from_json({"name": name, **more}) for name, more in transforms)
    return DatasetSpec(name="d", split="test", transforms=chain, **given)


RESIZE = ("resize", {"size": 8})
IMPUTE = ("impute", {"values": {}})


def test_every_format_holds_one_of_the_kinds():
    assert {FORMATS[name].kind for name in FORMATS} == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "wanted", "pointer", "words"),
    [
        ("array", spec(label="y"), "/label", "label belongs to tables; this file holds arrays: x"),
        ("array", spec(features=("x",)), "/features", "features belongs to tables"),
        ("array", spec(mode="grey"), "/mode", "mode belongs to images"),
        ("array", spec(("to_float", {}), IMPUTE), "/transforms/1/name", "impute belongs to tables"),
        ("table", spec(mode="grey"), "/mode", "mode belongs to images; this file holds a table"),
        ("table", spec(RESIZE), "/transforms/0/name", "resize belongs to images; this file holds"),
        ("image", spec(label="y"), "/label", "the label of each is the name of its folder"),
        ("image", spec(groups=("g",)), "/groups", "groups belongs to arrays and tables"),
        ("image", spec(task="multilabel"), "/task", "'multilabel' belongs to arrays and tables"),
        ("image", spec(RESIZE, ("standardize", {})), "/transforms/1/name", "standardize belongs"),
    ],
)
def test_what_belongs_to_another_kind_is_refused(kind, wanted, pointer, words):
    with pytest.raises(SpecError) as caught:
        check(wanted, kind)
    assert caught.value.pointer == pointer
    assert words in caught.value.detail


def test_what_a_kind_takes_is_taken():
    check(spec(RESIZE, ("to_float", {}), groups=("g",), task="multilabel"), "array")
    check(spec(IMPUTE, label="y", features=("x",), groups=("g",), task="multilabel"), "table")
    check(spec(RESIZE, ("to_float", {}), mode="grey", task="binary"), "image")
