"""Adam with one fused operation per variable."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


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
