"""Train a small Keras model with a deformable layer on handwritten digits.

KERAS_BACKEND=jax python examples/keras_digits.py

The layer stands where a Conv2D would. It predicts its own offsets, which begin at zero and learn
with the rest; the backend may be tensorflow, jax or torch.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's messages about itself

import keras
import numpy as np
from sklearn.datasets import load_digits

from cudeform.keras import DeformConv2D


def main() -> None:
    keras.utils.set_random_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8, 1).astype("float32") / 16
    deformable = DeformConv2D(32, 3, padding="same", activation="relu")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            deformable,
            keras.layers.AveragePooling2D(4),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    history = model.fit(images[:1500], labels[:1500], batch_size=50, epochs=3, verbose=0)
    _, accuracy = model.evaluate(images[1500:], labels[1500:], verbose=0)

    first, *_, last = history.history["loss"]
    moved = np.abs(keras.ops.convert_to_numpy(deformable.offset_kernel)).max()
    print(f"{keras.config.backend()}: loss {first:.3f} -> {last:.3f}, offsets learn ({moved:.3f})")
    print(f"{accuracy:.1%} of 297 digits that it has not seen are right")
    assert last < first / 2, "it did not learn"
    assert moved > 0


if __name__ == "__main__":
    main()
