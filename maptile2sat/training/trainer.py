"""What every adversarial training run has: two networks, two optimizers, one step on devices."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from maptile2sat.training.config import TrainConfig
from maptile2sat.training.data import Batch
from maptile2sat.training.devices import Devices
from maptile2sat.training.samples import Generate

# Adam with one fused operation per variable


class FusedAdam(keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) that updates a variable in one pass.

    Keras composes the update of a dozen operations, each of which reads and writes arrays as
    large as the weights: memory is what a U-Net's 57 million of them wait for. TensorFlow has
    one that does all of it. State, its names and the formula are those of Keras.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update `variable` and its two moments in place."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, tf.float32),
        )


def make_adam(
    rate: float, beta_1: float, beta_2: float, name: str, variables: list[Any], scaled: bool
) -> Any:
    """Make the optimizer of one network.

    Args:
        rate: Learning rate.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        name: Part of the names of its variables, and so of a checkpoint's.
        variables: What it will update.
        scaled: Whether the loss is scaled up, by a factor that follows what float16 can hold.

    Returns:
        A Keras optimizer whose `scale_loss` must be applied to the loss.
    """
    optimizer = FusedAdam(rate, beta_1=beta_1, beta_2=beta_2, name=name)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name=f"{name}_scale")
    optimizer.build(variables)
    return optimizer


Tensor = Any


class Losses(NamedTuple):
    """What one step computes, each a mean over its crops.

    Attributes:
        critic: What the discriminator minimises.
        generator: What the generator minimises.
        figures: What a log shows, by name.
    """

    critic: Tensor
    generator: Tensor
    figures: dict[str, Tensor]


class Trainer(abc.ABC):
    """Generator, its weight average, discriminator, optimizers, and the step that moves them.

    Subclasses build the networks and say what the losses are.

    Attributes:
        config: The run's configuration.
        generator: Keras model that is trained.
        average: Its weight average, or the generator itself if `config.ema` is 0.
        critic: The discriminator.
    """

    chance: float
    """The discriminator's loss if it tells nothing apart."""

    def __init__(self, config: TrainConfig, devices: Devices) -> None:
        self.config = config
        self.strategy = devices.strategy()
        self.replicas = len(devices.names)
        with self.strategy.scope():
            self.generator = self.build_generator()
            self.average = self.build_generator() if config.ema else self.generator
            self.critic = self.build_critic()
            betas = (config.beta_1, config.beta_2)
            scaled = config.precision == "float16"
            # names are part of a checkpoint's; Keras would count them up within a process
            self.generator_optimizer = make_adam(
                config.generator_rate, *betas, "adam", self.generator.trainable_variables, scaled
            )
            self.critic_optimizer = make_adam(
                config.critic_rate, *betas, "adam_1", self.critic.trainable_variables, scaled
            )
        self.restart_average()
        # sums of several gradients are otherwise taken in the order in which they get ready
        self._executor = "SINGLE_THREADED_EXECUTOR" if config.deterministic else None
        self._compiled = tf.function(self._step)

    @abc.abstractmethod
    def build_generator(self) -> Any:
        """Build a generator; the same initial weights at every call."""

    @abc.abstractmethod
    def build_critic(self) -> Any:
        """Build the discriminator."""

    @abc.abstractmethod
    def losses(self, batch: Batch) -> Losses:
        """Compute the losses of a batch of tensors, on one device."""

    @abc.abstractmethod
    def generate(self) -> Generate:
        """Return a function that generates images with the weights that would be shipped."""

    @abc.abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Return the generator's architecture, as a bundle describes it."""

    def restart_average(self) -> None:
        """Let the average start from the generator's present weights."""
        if self.average is not self.generator:
            self.average.set_weights(self.generator.get_weights())

    def variables(self) -> dict[str, Any]:
        """Return every variable of the run's state under a stable name, part and path.

        Dropout has none: its masks follow from seed and step.
        """
        parts = {
            "generator": self.generator.weights,
            "average": [] if self.average is self.generator else self.average.weights,
            "critic": self.critic.weights,
            "generator_optimizer": self.generator_optimizer.variables,
            "critic_optimizer": self.critic_optimizer.variables,
        }
        return {
            f"{part}/{variable.path}": variable
            for part, variables in parts.items()
            for variable in variables
        }

    def parameters(self) -> dict[str, tuple[int, int]]:
        """Return (all, trainable) parameters of both networks."""
        return {
            name: (
                model.count_params(),
                sum(int(np.prod(w.shape)) for w in model.trainable_weights),
            )
            for name, model in (("generator", self.generator), ("discriminator", self.critic))
        }

    def step(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Train on `batch` as step `number`; return the losses as scalar tensors."""
        scale = self.config.learning_scale(number)
        self.generator_optimizer.learning_rate = self.config.generator_rate * scale
        self.critic_optimizer.learning_rate = self.config.critic_rate * scale
        # the average follows closely at first, so that early samples are not the start
        decay = min(self.config.ema, (number + 1) / (number + 10))
        self._seed_dropout(number)
        with tf.experimental.function_executor_type(self._executor):
            return self._compiled(  # type: ignore[no-any-return]
                self._shared_out(batch), tf.constant(decay, tf.float32)
            )

    def _seed_dropout(self, number: int) -> None:
        for layer in self.generator.layers:
            if hasattr(layer, "seed_generator"):
                layer.seed_generator.state.assign([layer.seed, number])

    def _shared_out(self, batch: Batch) -> Any:
        """Give each device its part of the batch."""
        if self.replicas == 1:
            return batch
        share = self.config.batch_size // self.replicas

        def part(context: Any) -> Batch:
            first = context.replica_id_in_sync_group * share
            return Batch(*(tf.constant(values[first : first + share]) for values in batch))

        return self.strategy.experimental_distribute_values_from_function(part)

    def _step(self, batch: Any, decay: Tensor) -> dict[str, Tensor]:
        figures = self.strategy.run(self._replica_step, args=(batch, decay))
        return {
            name: self.strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
            for name, value in figures.items()
        }

    def _replica_step(self, batch: Batch, decay: Tensor) -> dict[str, Tensor]:
        with tf.GradientTape(persistent=True) as tape:
            losses = self.losses(batch)
            # gradients of all devices are added up
            critic_loss = self.critic_optimizer.scale_loss(losses.critic / self.replicas)
            generator_loss = self.generator_optimizer.scale_loss(losses.generator / self.replicas)
        critic, generator = self.critic.trainable_variables, self.generator.trainable_variables
        # both before either moves: the generator answers to the discriminator that it met
        critic_gradients = tape.gradient(critic_loss, critic)
        generator_gradients = tape.gradient(generator_loss, generator)
        self.critic_optimizer.apply(self._agreed(critic_gradients), critic)
        self.generator_optimizer.apply(self._agreed(generator_gradients), generator)
        if self.average is not self.generator:
            for mean, weight in zip(self.average.weights, self.generator.weights, strict=True):
                mean.assign(weight + decay * (mean - weight))
        return losses.figures

    def _agreed(self, gradients: list[Tensor]) -> list[Tensor]:
        """Let a gradient that is not finite on one device be so on all.

        Each decides by its own gradients whether to skip a step that float16 spoilt.
        """
        if self.config.precision != "float16" or self.replicas == 1:
            return gradients
        spoilt = tf.reduce_any([tf.reduce_any(~tf.math.is_finite(g)) for g in gradients])
        everywhere = tf.distribute.get_replica_context().all_reduce(
            "SUM", tf.cast(spoilt, tf.float32)
        )
        first = tf.where(everywhere > 0, tf.fill(gradients[0].shape, np.nan), gradients[0])
        return [first, *gradients[1:]]
