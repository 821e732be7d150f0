"""What the layers do under TensorFlow alone."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from support.kerascases import IMAGES, SHIFTED, model, quiet

from cudeform.keras import BACKEND, DeformConv2D

if BACKEND != "tensorflow":
    pytest.skip("needs tensorflow as Keras's backend", allow_module_level=True)

import tensorflow as tf

from cudeform.interop.tensorflow import deform_conv2d

pytestmark = quiet


def test_tensorflow_does_not_compile_it():
    made = model()
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        made.compile("adam", "mse", jit_compile=True)
    made.fit(IMAGES, SHIFTED, epochs=1, verbose=0)


@pytest.mark.slow
def test_another_process_cannot_run_an_exported_model(tmp_path):
    made = model()
    made.export(tmp_path, verbose=False)
    code = (
        "import tensorflow as tf; "
        f"model = tf.saved_model.load({str(tmp_path)!r}); model.serve(tf.zeros((1, 10, 9, 3)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Could not find callback with key=pyfunc_" in done.stderr


def test_the_functions_read_variables_of_keras():
    kernel = keras.Variable(np.ones((1, 1, 3, 2)), dtype="float32")
    with tf.GradientTape() as tape:
        output = deform_conv2d(tf.constant(IMAGES), tf.zeros((32, 10, 9, 2)), kernel)
    np.testing.assert_allclose(output[..., 0], IMAGES.sum(-1), rtol=1e-5, atol=1e-5)
    assert tape.gradient(output, kernel.value).shape == kernel.shape


def test_steps_in_one_execution_and_a_pipeline():
    trained = model()
    trained.compile("adam", "mse", steps_per_execution=3)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, SHIFTED)).shuffle(32).batch(5).prefetch(1)
    losses = trained.fit(data, epochs=3, verbose=0).history["loss"]
    assert losses[2] < losses[0]


def test_same_with_strides_needs_a_size():
    strided = DeformConv2D(4, 3, strides=2, padding="same")
    strided.build((None, None, None, 3))
    images = tf.TensorSpec([None, None, None, 3], "float32")
    with pytest.raises(ValueError, match="whose height and width are known"):
        tf.function(strided.call).get_concrete_function(images)
