from dataclasses import replace
from typing import Any

import pytest

from deepseek_edge.errors import TrainingError, UsageError
from deepseek_edge.training import TrainConfig, TrainingData, cross_entropy, predict, train

torch = pytest.importorskip("torch")
small = pytest.importorskip("tests.training.small_models")
pytestmark = pytest.mark.torch

CONFIG = TrainConfig(epochs=3, batch_size=12, warmup_epochs=0.0, device="cpu")


def half_square(model: Any, inputs: Any, _labels: Any) -> Any:
    return 0.5 * model(inputs).square().mean()


class TestTrain:
    def test_takes_one_step_as_computed_by_hand(self) -> None:
        model = torch.nn.Linear(1, 1, bias=False)
        model.weight.data.fill_(1.0)
        data = TrainingData(torch.tensor([[1.0], [3.0]]), torch.zeros(2, dtype=torch.int64))
        config = TrainConfig(
            epochs=1, batch_size=2, learning_rate=0.1, weight_decay=0.0, warmup_epochs=0.0
        )
        result = train(model, data, config, loss=half_square)
        # Gradient (1 + 9) / 2; Nesterov's first step is 1.9 times the plain one.
        assert model.weight.item() == pytest.approx(1 - 0.1 * 1.9 * 5)
        assert result.losses == (2.5,)
        assert (result.steps, result.epochs) == (1, 1)
        assert result.samples_per_s == pytest.approx(2 / result.seconds)

    def test_learns_and_leaves_a_model_to_use(self) -> None:
        model, data = small.perceptron(), small.vectors()
        before = (predict(model, data.inputs) == data.labels).float().mean()
        result = train(model, data, replace(CONFIG, epochs=30))
        assert before < 0.6
        assert (predict(model, data.inputs) == data.labels).float().mean() > 0.9
        assert result.losses[-1] < 0.5 * result.losses[0]
        assert not model.training
        assert all(p.grad is None for p in model.parameters())

    @pytest.mark.parametrize("kind", ["sgd", "adamw"])
    def test_repeats_itself_bit_for_bit(self, kind: Any) -> None:
        models = [small.blocks(), small.blocks()]
        config = replace(CONFIG, optimizer=kind, average=0.9, learning_rate=0.01)
        for model in models:
            train(model, small.images(), config)
        assert small.same(*models)
        assert not small.same(models[0], small.blocks())

    def test_parts_of_a_batch_give_exactly_the_gradient_of_the_whole(self) -> None:
        # Whole numbers: no sum is rounded, so that the order of summing shows nothing.
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randint(-4, 5, (16, 3), generator=generator).float()
        data = TrainingData(inputs, torch.zeros(16, dtype=torch.int64))
        weights = []
        for accumulate in (1, 2, 8):
            model = torch.nn.Linear(3, 2, bias=False)
            model.weight.data.copy_(torch.tensor([[1.0, -2.0, 3.0], [2.0, 0.0, -1.0]]))
            config = replace(CONFIG, epochs=1, batch_size=16, accumulate=accumulate)
            calls: list[int] = []

            def loss(model: Any, x: Any, y: Any, calls: list[int] = calls) -> Any:
                calls.append(len(x))
                return half_square(model, x, y)

            train(model, data, config, loss=loss)
            assert calls == [16 // accumulate] * accumulate
            weights.append(model.weight.detach())
        assert torch.equal(weights[0], weights[1])
        assert torch.equal(weights[0], weights[2])

    def test_computing_activations_again_changes_no_bit(self) -> None:
        models = [small.blocks(), small.blocks()]
        for model, again in zip(models, (False, True), strict=True):
            train(model, small.images(), replace(CONFIG, checkpoint_activations=again))
        assert small.same(*models)
        assert models[1][1][0].passes == 2 * models[0][1][0].passes

    def test_computes_in_bfloat16_but_keeps_float32_weights(self) -> None:
        seen = []

        def loss(model: Any, inputs: Any, labels: Any) -> Any:
            logits = model(inputs)
            seen.append(logits.dtype)
            return torch.nn.functional.cross_entropy(logits.float(), labels)

        model = small.perceptron()
        train(model, small.vectors(), replace(CONFIG, precision="bfloat16"), loss=loss)
        assert set(seen) == {torch.bfloat16}
        assert {p.dtype for p in model.parameters()} == {torch.float32}

    def test_ends_with_the_average_and_the_models_own_buffers(self) -> None:
        plain, averaged = small.blocks(), small.blocks()
        train(plain, small.images(), CONFIG)
        train(averaged, small.images(), replace(CONFIG, average=0.99))
        assert all(map(torch.equal, plain.buffers(), averaged.buffers()))
        assert not torch.equal(plain[4].weight, averaged[4].weight)

    def test_clipping_limits_what_a_wild_gradient_does(self) -> None:
        def wild(model: Any, inputs: Any, labels: Any) -> Any:
            return 1e6 * cross_entropy(model, inputs, labels)

        config = replace(CONFIG, epochs=1, batch_size=48, weight_decay=0.0)
        model = small.perceptron()
        before = model[0].weight.detach().clone()
        train(model, small.vectors(), replace(config, clip_factor=0.01), loss=wild)
        moved = (model[0].weight.detach() - before).norm(dim=1) / before.norm(dim=1)
        assert float(moved.max()) <= 0.1 * 1.9 * 0.01 * 1.001

    def test_tells_each_step_and_lets_the_caller_change_parameters(self) -> None:
        model = small.perceptron()
        told: list[tuple[str, int, int]] = []

        def mask(done: int, total: int) -> None:
            assert total == 12 and 1 <= done <= 12
            model[0].weight.data[0] = 0

        train(
            model, small.vectors(), CONFIG, on_step=mask, progress=lambda *state: told.append(state)
        )
        assert told == [("train", done, 12) for done in range(1, 13)]
        assert bool((model[0].weight[0] == 0).all()) and bool((model[0].weight[1] != 0).all())

    def test_draws_no_random_numbers_of_the_callers(self) -> None:
        model, before = small.blocks(), torch.get_rng_state()
        train(model, small.images(), CONFIG)
        assert torch.equal(torch.get_rng_state(), before)

    def test_refuses_a_gpu_that_is_not_there(self) -> None:
        with pytest.raises(UsageError, match="no device cuda:99"):
            train(small.perceptron(), small.vectors(), replace(CONFIG, device="cuda:99"))


class TestFailures:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_loss_that_is_no_number_stops_at_its_step_with_the_last_good_weights(
        self, value: float
    ) -> None:
        calls: list[float] = []
        epochs: list[Any] = []

        def loss(model: Any, inputs: Any, labels: Any) -> Any:
            calls.append(value if len(calls) == 6 else 1.0)
            return calls[-1] * cross_entropy(model, inputs, labels)

        model = small.blocks()
        with pytest.raises(TrainingError, match=f"the loss is {value} at step 7") as caught:
            train(
                model,
                small.images(),
                CONFIG,
                loss=loss,
                on_step=lambda _done, _: epochs.append(small.parameters(model)),
            )
        assert calls[6] is value  # the fault happened
        assert caught.value.hint is not None
        assert "learning rate" in caught.value.hint and "clip_factor" in caught.value.hint
        assert all(map(torch.equal, small.parameters(model), epochs[3]))
        assert not model.training

    def test_weights_that_are_no_numbers_stop_it_even_if_no_loss_shows_them(self) -> None:
        model = small.perceptron()
        first = small.parameters(model)

        def spoil(done: int, _total: int) -> None:
            if done == 4:
                model[0].weight.data[0, 0] = float("inf")

        with pytest.raises(TrainingError, match="weights are not finite at step 4"):
            train(model, small.vectors(), CONFIG, on_step=spoil)
        assert all(map(torch.equal, small.parameters(model), first))

    def test_too_little_memory_says_which_settings_need_less(self) -> None:
        def loss(_model: Any, _inputs: Any, _labels: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nMore")

        with pytest.raises(TrainingError, match=r"Tried to allocate 20 GiB\.$") as caught:
            train(small.perceptron(), small.vectors(), replace(CONFIG, accumulate=2), loss=loss)
        assert caught.value.hint is not None
        for setting in ("accumulate (it is 2)", "checkpoint_activations", "batch_size (it is 12)"):
            assert setting in caught.value.hint


class TestPredict:
    def test_gives_the_class_with_the_largest_logit_whatever_the_batches(self) -> None:
        model, inputs = small.perceptron().eval(), small.vectors(50).inputs
        expected = model(inputs).argmax(1)
        assert torch.equal(predict(model, inputs, batch_size=7, device="cpu"), expected)
