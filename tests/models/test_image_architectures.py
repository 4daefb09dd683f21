"""The networks that torchvision has too: their tensors, and what they compute."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from models import parameters
from models.catalog import ARCHITECTURES
from models.layouts import mobilenet
from models.spec import SpecError
from tests.models import reference_networks


def layout_of(name, input_shape=(3, None, None), outputs=1000, **hyperparameters):
    entry = ARCHITECTURES[name]
    chosen = parameters.build(entry.parameters, hyperparameters)
    return entry.layout.tensors(chosen, input_shape, outputs)


def shapes_of(name, *args, **hyperparameters):
    found = layout_of(name, *args, **hyperparameters)
    return {key: spec.shape for key, spec in found.items()}


def network_of(name, input_shape, outputs, **hyperparameters):
    """In evaluation mode, as after a training: no layer is idle, batch norms have seen images."""
    torch.manual_seed(0)
    entry = ARCHITECTURES[name]
    network = entry.load()(
        parameters.build(entry.parameters, hyperparameters), input_shape, outputs
    )
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    with torch.no_grad():
        for key, tensor in network.named_parameters():
            if key in ("class_token", "encoder.pos_embedding"):
                tensor.normal_(std=0.01)  # so little that the eps of the first norm shows
            elif tensor.dim() > 1:
                tensor.normal_(std=math.sqrt(2 / tensor[0].numel()))
            elif key.endswith("bias"):
                tensor.normal_(std=0.5)
            else:
                tensor.uniform_(0.5, 1.5)
        for norm in norms:
            norm.momentum = 1.0
        network(images(16, *input_shape))
    return network.eval()


def assert_computes(network, reference, x, **options):
    """The network in float32 what the reference computes in float64."""
    state = {key: tensor.double() for key, tensor in network.state_dict().items()}
    with torch.inference_mode():
        wanted = reference(state, x.double(), **options)
        found = network(x)
    scale = wanted.abs().max().item()
    assert wanted.std(dim=0).mean() > 0.05 * scale, "the logits hardly depend on the images"
    # 50 layers in float32 differ by 2.4e-5 of the scale on a CPU without AVX-512
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4 * scale)


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "input_shape", "entries", "learned"),
    [
        ("resnet18", (3, None, None), 122, 11_689_512),
        ("resnet34", (3, None, None), 218, 21_797_672),
        ("resnet50", (3, None, None), 320, 25_557_032),
        ("mobilenet_v3_small", (3, None, None), 244, 2_542_856),
        ("vit", (3, 224, 224), 152, 86_567_656),
    ],
)
def test_the_tensors_are_as_many_as_the_published_ones(name, input_shape, entries, learned):
    found = shapes_of(name, input_shape)
    measured = ("running_mean", "running_var", "num_batches_tracked")
    assert len(found) == entries
    assert learned == sum(
        math.prod(shape) for key, shape in found.items() if not key.endswith(measured)
    )


@pytest.mark.parametrize(
    ("name", "input_shape", "known"),
    [
        (
            "resnet18",
            (3, None, None),
            {
                "conv1.weight": (64, 3, 7, 7),
                "bn1.running_var": (64,),
                "layer1.0.conv1.weight": (64, 64, 3, 3),
                "layer2.0.conv1.weight": (128, 64, 3, 3),
                "layer2.0.downsample.0.weight": (128, 64, 1, 1),
                "layer2.0.downsample.1.num_batches_tracked": (),
                "layer4.1.bn2.bias": (512,),
                "fc.weight": (1000, 512),
                "fc.bias": (1000,),
            },
        ),
        (
            "resnet34",
            (3, None, None),
            {"layer3.5.conv2.weight": (256, 256, 3, 3), "layer4.2.bn1.weight": (512,)},
        ),
        (
            "resnet50",
            (3, None, None),
            {
                "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                "layer1.1.conv1.weight": (64, 256, 1, 1),
                "layer3.0.conv2.weight": (256, 256, 3, 3),
                "layer4.2.conv3.weight": (2048, 512, 1, 1),
                "fc.weight": (1000, 2048),
            },
        ),
        (
            "mobilenet_v3_small",
            (3, None, None),
            {
                "features.0.0.weight": (16, 3, 3, 3),
                "features.1.block.0.0.weight": (16, 1, 3, 3),
                "features.1.block.1.fc1.weight": (8, 16, 1, 1),
                "features.1.block.2.1.running_mean": (16,),
                "features.2.block.2.0.weight": (24, 72, 1, 1),
                "features.4.block.1.0.weight": (96, 1, 5, 5),
                "features.4.block.2.fc1.bias": (24,),
                "features.5.block.2.fc1.weight": (64, 240, 1, 1),
                "features.7.block.2.fc2.weight": (120, 32, 1, 1),
                "features.11.block.3.0.weight": (96, 576, 1, 1),
                "features.12.0.weight": (576, 96, 1, 1),
                "classifier.0.weight": (1024, 576),
                "classifier.3.weight": (1000, 1024),
            },
        ),
        (
            "vit",
            (3, 224, 224),
            {
                "class_token": (1, 1, 768),
                "conv_proj.weight": (768, 3, 16, 16),
                "encoder.pos_embedding": (1, 197, 768),
                "encoder.layers.encoder_layer_0.ln_1.weight": (768,),
                "encoder.layers.encoder_layer_0.self_attention.in_proj_weight": (2304, 768),
                "encoder.layers.encoder_layer_0.self_attention.in_proj_bias": (2304,),
                "encoder.layers.encoder_layer_11.self_attention.out_proj.weight": (768, 768),
                "encoder.layers.encoder_layer_11.mlp.0.weight": (3072, 768),
                "encoder.layers.encoder_layer_11.mlp.3.bias": (768,),
                "encoder.ln.weight": (768,),
                "heads.head.weight": (1000, 768),
            },
        ),
    ],
)
def test_the_tensors_are_named_and_shaped_as_the_published_ones(name, input_shape, known):
    found = shapes_of(name, input_shape)
    assert {key: found.get(key) for key in known} == known


def test_the_squeezed_widths_of_mobilenet_are_multiples_of_eight():
    blocks = [block for block in mobilenet.blocks() if block.squeezes]
    assert [block.squeezed for block in blocks] == [8, 24, 64, 64, 32, 40, 72, 144, 144]


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (1, 1)])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_resnet18_computes_what_its_reference_does(stem, size):
    network = network_of("resnet18", (3, *size), 7, stem=stem, dropout=0.4)
    x = images(2, 3, *size)
    assert_computes(network, reference_networks.resnet, x, cifar=stem == "cifar")


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_the_deeper_resnets_compute_what_their_reference_does(name):
    network = network_of(name, (1, 40, 24), 4)
    assert_computes(network, reference_networks.resnet, images(2, 1, 40, 24))


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (1, 1)])
def test_mobilenet_computes_what_its_reference_does(size):
    network = network_of("mobilenet_v3_small", (3, *size), 7)
    assert_computes(network, reference_networks.mobilenet_v3_small, images(3, 3, *size))


@pytest.mark.parametrize(
    ("chosen", "side", "heads"),
    [
        ({"width": 128, "depth": 3, "patch_size": 8, "mlp_width": 50}, 32, 2),
        ({"width": 30, "depth": 1, "patch_size": 3, "mlp_width": 9, "heads": 5}, 9, 5),
        ({"width": 8, "depth": 2, "patch_size": 1, "mlp_width": 8, "dropout": 0.5}, 1, 1),
    ],
)
def test_vit_computes_what_its_reference_does(chosen, side, heads):
    network = network_of("vit", (3, side, side), 4, **chosen)
    x = images(3, 3, side, side)
    assert_computes(network, reference_networks.vit, x, heads=heads)


@pytest.mark.parametrize(
    ("width", "heads"), [(768, 12), (1024, 16), (1280, 16), (192, 3), (63, 1), (1, 1)]
)
def test_heads_that_nobody_states_are_those_of_the_published_vits(width, heads):
    entry = ARCHITECTURES["vit"]
    chosen = parameters.build(entry.parameters, {"width": width, "depth": 1})
    with torch.device("meta"):
        network = entry.load()(chosen, (3, 16, 16), 2)
    assert network.encoder.layers[0].self_attention.heads == heads


@pytest.mark.parametrize(
    ("input_shape", "chosen", "words"),
    [
        ((3, 32, 48), {}, "takes examples of three axes (channels, side, side), got shape"),
        ((3, None, None), {}, "got shape [3, None, None]: add a transform that makes squares"),
        ((768,), {}, "takes examples of three axes (channels, height, width)"),
        ((3, 100, 100), {}, "patch_size is 16, which does not divide the images' side 100"),
        ((3, 32, 32), {"heads": 7}, "heads is 7, which does not divide width 768"),
        ((3, 32, 32), {"width": 200}, "the 3 that are usual for width 200 do not divide it"),
    ],
)
def test_images_and_heads_that_a_vit_cannot_have_are_refused(input_shape, chosen, words):
    with pytest.raises(SpecError) as caught:
        layout_of("vit", input_shape, 2, **chosen)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "mobilenet_v3_small"])
@pytest.mark.parametrize("shape", [(64,), (None, 8, 8)])
def test_examples_that_are_no_images_are_refused(name, shape):
    with pytest.raises(SpecError, match=f"{name} takes examples of three axes"):
        layout_of(name, shape, 2)


@pytest.mark.parametrize("positions", [1, 3, 198])
def test_positions_that_make_no_square_are_no_vit(positions):
    shapes = shapes_of("vit", (3, 32, 32), 2)
    shapes["encoder.pos_embedding"] = (1, positions, 768)
    with pytest.raises(SpecError, match=r"encoder.pos_embedding with shape \(1, 1 \+ side"):
        ARCHITECTURES["vit"].layout.shown(shapes)


@pytest.mark.parametrize(
    ("name", "usual"), [("resnet50", 0.0), ("mobilenet_v3_small", 0.2), ("vit", 0.0)]
)
def test_dropout_is_as_published_and_stands_before_the_head(name, usual):
    small = {"width": 8, "depth": 1, "mlp_width": 8} if name == "vit" else {}
    entry = ARCHITECTURES[name]
    assert parameters.to_json(parameters.build(entry.parameters, {}))["dropout"] == usual
    network = network_of(name, (3, 32, 32), 4, dropout=0.5, **small)
    *_, head = (module for module in network.modules() if isinstance(module, nn.Linear))
    *_, dropout = (module for module in network.modules() if isinstance(module, nn.Dropout))
    taken = []
    head.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    x = images(8, 3, 32, 32)
    with torch.inference_mode():
        network(x)
        dropout.train()
        network(x)
    whole, halved = taken
    torch.testing.assert_close(halved[halved != 0], 2 * whole[halved != 0])
    assert 0.4 < (halved[whole != 0] == 0).float().mean() < 0.6
