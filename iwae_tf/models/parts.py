"""What Keras needs to save the parts of a model, and to make them again."""

import collections
import contextlib
import functools
import inspect
import numbers
from collections.abc import Iterator, Sequence

import keras
from keras.src.backend.common import global_state

from iwae_tf.errors import UsageError


class Part(keras.layers.Layer):
    """A layer that Keras can save: it remembers what it was made with.

    Arguments may be whatever Keras can serialise: numbers, texts, arrays, initialisers,
    layers, and sequences of these. A subclass that is registered with
    `keras.saving.register_keras_serializable` needs nothing else.
    """

    def __new__(cls, *args, **kwargs):
        """Keeps the arguments of the constructor."""
        part = super().__new__(cls, *args, **kwargs)
        with contextlib.suppress(TypeError):  # which the constructor will tell
            bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
            given = dict(list(bound.arguments.items())[1:])
            given |= given.pop("kwargs", {})
            # Keras would take layers in a dictionary for more sub-layers.
            vars(part)["_arguments"] = functools.partial(dict, **given)
        return part

    def get_config(self) -> dict:
        """The arguments that this part was made with, as Keras serialises them."""
        config = {
            name: keras.saving.serialize_keras_object(value)
            for name, value in self._arguments().items()
        }
        if not self.trainable:
            config |= {"trainable": False}
        if self.dtype_policy.name != "float32":
            config |= {"dtype": self.dtype_policy.name}
        return config

    def get_build_config(self) -> None:
        """Nothing: a part is built by the model that it is made for."""

    @classmethod
    def from_config(cls, config: dict):
        """Makes a part from what `get_config` has returned."""
        with first_names(), precision(config.get("dtype", "float32")):
            given = {
                name: keras.saving.deserialize_keras_object(value)
                for name, value in config.items()
                if name != "dtype"
            }
            trainable = given.pop("trainable", True)
            part = cls(**given)
        part.trainable = trainable
        return part


def check_one_a_layer(
    n_latent: Sequence[int],
    widths: Sequence[Sequence[int]],
    networks: Sequence[keras.layers.Layer] | None,
) -> None:
    """Checks that a chain is given its sizes, and one network for each layer.

    Raises:
      UsageError: if it is not, or if both widths and networks are given.
    """
    sizes = n_latent if isinstance(n_latent, Sequence) else ()
    if not sizes or not all(isinstance(d, numbers.Integral) and d > 0 for d in sizes):
        raise UsageError(
            "n_latent: must be the sizes of one latent or more, bottom-up, such as "
            f"(100, 50), got {n_latent!r}"
        )
    if (networks is None) == (not widths):
        found = "neither" if networks is None else "both"
        raise UsageError(f"networks: must be given, or else widths, got {found}")
    name, given = ("widths", widths) if networks is None else ("networks", networks)
    if not isinstance(given, Sequence) or len(given) != len(sizes):
        found = len(given) if isinstance(given, Sequence) else type(given).__name__
        raise UsageError(
            f"{name}: must be one for each of {len(sizes)} layers, got {found}"
        )
    for network in networks or ():
        if not isinstance(network, keras.layers.Layer):
            raise UsageError(
                "networks: must be layers or models of Keras, got "
                f"{type(network).__name__}"
            )


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Has Keras make layers with a policy, such as mixed_bfloat16."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class _Counts(collections.defaultdict):
    """Counts that start anew."""


@contextlib.contextmanager
def first_names() -> Iterator[None]:
    """Has Keras name layers as in a new process, whatever was made before.

    Keras counts the layers of a process in their names. Without XLA, TensorFlow adds
    three or more gradients of one tensor in the order of their names, and `dense_10`
    comes before `dense_9`. So the last bits of a run would depend on earlier models.
    """
    key = "object_name_uids"
    before = global_state.get_global_attribute(key)
    if isinstance(before, _Counts):  # within what is being made
        yield
        return
    global_state.set_global_attribute(key, _Counts(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(key, before)
