"""The loop: every network learns, what is random is seeded, what diverges says where."""

import numpy as np
import pytest
import torch

from models import chains, feeding, runtime
from models.losses import functions
from models.optimization import optimizers, stopping
from models.optimization.schedules import Schedule
from models.report import EvaluationError
from models.spec import Component, EarlyStopping, steps_per_epoch
from models.training import Diverged, Recipe, TooFewExamples, Trainee, batch_sizes, train
from tests.models.test_architectures import built, drawn, every_case

METRICS = {"loss": 1.0, "accuracy": 0.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
CUDA = pytest.param(
    "cuda:0",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible"),
    ],
)


@pytest.fixture(autouse=True)
def configured():
    before = torch.get_deterministic_debug_mode()
    runtime.configure("cpu", 1)
    yield
    torch.set_deterministic_debug_mode(before)


class Case:
    """A network, examples and everything around them."""

    def __init__(self, model, x, y, *, outputs, device="cpu", epochs=2, batch_size=8, **options):
        loss = "cross_entropy" if outputs > 1 else "binary_cross_entropy_with_logits"
        optimizer = options.pop("optimizer", Component(name="AdamW", parameters={"lr": 0.01}))
        self.device, self.examples = device, len(x)
        self.model = model.to(device)
        made = optimizers.build(optimizer, self.model)
        steps = len(batch_sizes(len(x), batch_size))
        self.trainee = Trainee(
            model=self.model,
            optimizer=made,
            schedule=Schedule(
                made,
                None,
                lower_is_better=True,
                warmup_epochs=0,
                epochs=epochs,
                steps_per_epoch=steps,
            ),
            best=stopping.Best("loss"),
            stopping=stopping.EarlyStopping(options.pop("early", None), "loss"),
        )
        augmentations = [Component(name=name) for name in options.pop("augmentations", ())]
        self.recipe = Recipe(
            epochs=epochs,
            batch_size=batch_size,
            seed=3,
            loss=functions.build(
                Component(name=loss),
                task="multiclass" if outputs > 1 else "binary",
                classes=[str(index) for index in range(max(outputs, 2))],
                counts=[1] * max(outputs, 2),
                device=device,
            ),
            augmentations=chains.augmentations(augmentations, pointer=""),
            **options,
        )
        self.source = feeding.open_source(
            x, y, [], device=device, most_bytes=2**30, augmented=bool(augmentations)
        )

    def run(self, judge=lambda model: (METRICS, None)):
        return list(
            train(
                self.trainee,
                self.source,
                self.examples,
                self.recipe,
                judge=judge,
                device=self.device,
            )
        )


def case_of(name, hyperparameters, input_shape, outputs, **options):
    torch.manual_seed(0)
    _, chosen, model = built(name, hyperparameters, input_shape, outputs)
    x = drawn(name, chosen, input_shape, 22, seed=1).numpy()
    y = np.arange(22) % max(outputs, 2)
    return Case(model, x, y, outputs=outputs, **options)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@every_case
def test_every_network_is_trained_alike_twice(
    name, hyperparameters, input_shape, outputs, precision, device
):
    if precision == "bfloat16" and device == "cpu" and name not in ("mlp", "vit"):
        pytest.skip("convolutions in bfloat16 take minutes on CPUs that only emulate it")
    found = []
    for _ in range(2):
        torch.rand(3)  # nothing that happened before counts
        case = case_of(
            name, hyperparameters, input_shape, outputs, precision=precision, device=device
        )
        rows = case.run()
        state = {key: one.cpu() for key, one in case.model.state_dict().items()}
        found.append(([(row.train_loss, row.gradient_norm) for row in rows], state))
        assert all(torch.isfinite(one).all() for one in state.values())
    assert found[0][0] == found[1][0]
    for key, one in found[0][1].items():
        assert torch.equal(one, found[1][1][key]), key


def blobs(count=60):
    """Examples of three classes that a linear network tells apart."""
    random = np.random.default_rng(0)
    y = np.arange(count) % 3
    x = random.normal(size=(count, 4)) + 4 * np.eye(3, 4)[y]
    return x.astype(np.float32), y


def linear(**options):
    torch.manual_seed(0)
    return Case(torch.nn.Linear(4, 3), *blobs(), outputs=3, **options)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_every_optimizer_learns(name):
    case = linear(epochs=15, optimizer=Component(name=name, parameters={"lr": 0.05}))
    rows = case.run()
    assert rows[-1].train_loss < 0.5 * rows[0].train_loss
    x, y = blobs()
    with torch.no_grad():
        guessed = case.model(torch.from_numpy(x)).argmax(1).numpy()
    assert np.mean(guessed == y) > 0.9


def test_the_network_is_in_training_mode_also_after_somebody_judged_it():
    seen = []

    class Watched(torch.nn.Linear):
        def forward(self, x):
            seen.append(self.training)
            return super().forward(x)

    def judge(model):
        model.eval()
        return METRICS, None

    case = Case(Watched(4, 3), *blobs(), outputs=3)
    case.run(judge)
    assert all(seen)


def test_a_clipped_step_of_plain_descent_is_no_longer_than_the_rate_times_the_norm():
    sgd = Component(name="SGD", parameters={"lr": 1.0})
    case = linear(epochs=1, batch_size=60, optimizer=sgd, gradient_clip_norm=0.01)
    before = [one.clone() for one in case.model.parameters()]
    (row,) = case.run()
    moved = [after - one for after, one in zip(case.model.parameters(), before, strict=True)]
    length = torch.cat([one.flatten() for one in moved]).norm().item()
    assert length == pytest.approx(0.01, rel=1e-3)
    assert row.gradient_norm > 0.01  # before clipping


def test_a_loss_that_is_not_finite_is_named_with_epoch_and_step():
    x, y = blobs()
    torch.manual_seed(0)

    class Breaking(torch.nn.Linear):
        steps = 0

        def forward(self, x):
            self.steps += 1
            return super().forward(x) * (float("nan") if self.steps == 11 else 1.0)

    case = Case(Breaking(4, 3), x, y, outputs=3, epochs=5)
    with pytest.raises(Diverged) as failed:
        case.run()
    assert (failed.value.epoch, failed.value.step) == (2, 3)
    assert case.trainee.epoch == 1


def test_outputs_that_are_not_finite_in_validation_are_a_divergence():
    def judge(model):
        raise EvaluationError("the output is not finite", reason="non_finite_logits")

    with pytest.raises(Diverged, match="epoch 1, step 8"):
        linear().run(judge)


def test_another_error_of_the_judge_stays_what_it_is():
    def judge(model):
        raise EvaluationError("too few", reason="wrong_count")

    with pytest.raises(EvaluationError, match="too few"):
        linear().run(judge)


def test_it_stops_early_and_says_so():
    case = linear(epochs=9, early=EarlyStopping(patience=2))
    rows = case.run()
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert (case.trainee.stopped, case.trainee.best.epoch) == ("early_stopping", 1)
    assert case.run() == []


def test_a_batch_of_classes_without_weight_changes_nothing_and_is_no_divergence():
    case = linear(epochs=1, optimizer=Component(name="SGD", parameters={"lr": 1.0}))
    weights = {"0": 1.0, "1": 0.0, "2": 0.0}
    loss = functions.build(
        Component(name="cross_entropy", parameters={"class_weights": weights}),
        task="multiclass",
        classes=["0", "1", "2"],
        counts=[1, 1, 1],
        device="cpu",
    )
    x, _ = blobs()
    case.source = feeding.open_source(
        x, np.ones(60, np.int64), [], device="cpu", most_bytes=2**30, augmented=False
    )
    object.__setattr__(case.recipe, "loss", loss)
    before = case.model.weight.clone()
    (row,) = case.run()
    assert (row.train_loss, row.gradient_norm) == (0.0, 0.0)
    assert torch.equal(case.model.weight, before)


def test_a_single_example_for_batch_normalization_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    with pytest.raises(TooFewExamples, match="batch_size of at least 2"):
        Case(model, *blobs(), outputs=3, batch_size=1).run()


def test_progress_counts_the_examples_of_the_whole_training():
    told = []
    case = linear(epochs=2)
    rows = train(
        case.trainee,
        case.source,
        60,
        case.recipe,
        judge=lambda model: (METRICS, None),
        device="cpu",
        progress=told.append,
    )
    assert [row.epoch for row in rows] == [1, 2]
    assert told[0] == 8
    assert told[-1] == 120
    assert told == sorted(told)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 16])
def test_the_steps_of_an_epoch_are_counted_as_they_are_taken(batch_size):
    for examples in range(1, 70):
        sizes = batch_sizes(examples, batch_size)
        assert len(sizes) == steps_per_epoch(examples, batch_size)
        assert sum(sizes) == examples
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        assert 1 not in sizes or batch_size == 1 or examples == 1
