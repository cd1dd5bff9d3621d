"""A program that torch exported, as TensorFlow's SavedModel: torchax says it in JAX, and JAX's jax2tf in TensorFlow.

    python -m ssl_pipeline.export.tensorflow_convert PROGRAM OUTPUT

In a process of its own: torch (with Triton) and TensorFlow each bring LLVM, and the process ends where torch loads its own
second. So here torch is done before TensorFlow is imported. What is written needs TensorFlow alone.
"""

from __future__ import annotations

import sys

import torch


def convert(program: str, output: str) -> None:
    from torchax.export import exported_program_to_jax

    exported = torch.export.load(program)
    (inputs,) = exported.example_inputs[0]  # type: ignore[index]
    dtype, shape = str(inputs.dtype).removeprefix("torch."), [None, *inputs.shape[1:]]
    weights, function = exported_program_to_jax(exported)

    import tensorflow as tf
    from jax.experimental import jax2tf

    model = tf.Module()
    model.weights = tf.nest.map_structure(
        tf.Variable, weights
    )  # variables are saved beside the graph, constants within it
    converted = jax2tf.convert(
        lambda weights, stored: function(weights, (stored,))[0],
        polymorphic_shapes=[None, "(batch, ...)"],
        native_serialization_platforms=("cpu", "cuda", "tpu"), with_gradient=False,
    )  # fmt: skip
    model.embed = tf.function(
        lambda stored: {"embeddings": converted(model.weights, stored)},
        input_signature=[tf.TensorSpec(shape, dtype, name="stored")], autograph=False,
    )  # fmt: skip
    tf.saved_model.save(model, output, signatures={"serving_default": model.embed})


if __name__ == "__main__":
    convert(*sys.argv[1:])
