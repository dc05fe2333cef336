"""Reads tensors from checkpoints in PyTorch's legacy serialization (before 1.6), without PyTorch.

Such a file is a row of pickles (magic number, protocol, facts about the machine, the object, the keys of its storages)
followed by the storages, each an element count and raw little-endian values. Pickles may run any code when they are
loaded; this reader resolves only the handful of names that a dictionary of tensors needs and refuses every other.
"""

import collections
import pickle
import struct
import sys

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
ELEMENTS = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
}


class Storage:
    """A block of values that tensors are views of; filled after the pickle that names it."""

    def __init__(self, kind, size):
        self.dtype, self.size, self.values = np.dtype(ELEMENTS[kind]), size, None


class View:
    """A tensor before its storage is read."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self):
        """The values, copied. Raises ValueError if the view reaches past its storage."""
        if any(s < 0 for s in (*self.shape, *self.strides, self.offset)):
            raise ValueError(f"a tensor of shape {self.shape} has negative strides or offset")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides))
        if 0 not in self.shape and last >= self.storage.size:
            raise ValueError(f"a tensor of shape {self.shape} reaches past its storage of {self.storage.size} values")
        item = self.storage.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(
            self.storage.values[self.offset :], self.shape, [s * item for s in self.strides]
        )
        return view.copy()


class Unpickler(pickle.Unpickler):
    """Knows tensors and ordered dictionaries, nothing else."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return lambda storage, offset, shape, strides, *_: View(storage, offset, shape, strides)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda view, *_: view
        if module == "torch" and name in ELEMENTS:
            return name
        raise ValueError(f"the checkpoint asks for {module}.{name}, which a dictionary of tensors does not need")

    def persistent_load(self, pid):
        kind, storage, key, _device, size, view = pid
        if kind != "storage" or view is not None:
            raise ValueError(f"unknown persistent object {kind!r}")
        return self.storages.setdefault(key, Storage(storage, size))


def load(path):
    """Name -> array of the tensors in a checkpoint. Raises ValueError with the reason if it is not of this form."""
    with open(path, "rb") as file:
        try:
            head = [Unpickler(file).load() for _ in range(3)]
            if head[0] != MAGIC or head[1] != PROTOCOL or not head[2].get("little_endian"):
                raise ValueError("not a checkpoint in PyTorch's legacy serialization, little endian")
            unpickler = Unpickler(file)
            tensors, keys = unpickler.load(), Unpickler(file).load()
        except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, IndexError) as e:
            raise ValueError(f"{path}: not a checkpoint in PyTorch's legacy serialization ({e})") from e
        for key in keys:
            storage = unpickler.storages[key]
            (size,) = struct.unpack("<q", file.read(8))
            raw = file.read(storage.size * storage.dtype.itemsize)
            if size != storage.size or len(raw) != storage.size * storage.dtype.itemsize:
                raise ValueError(f"{path}: storage {key} is cut off")
            storage.values = np.frombuffer(raw, storage.dtype)
    return {name: view.array() for name, view in tensors.items()}


if __name__ == "__main__":
    for name, array in load(sys.argv[1]).items():
        zeros = int((array == 0).sum())
        print(f"{name:32} {str(array.shape):20} {array.min():12.6g} … {array.max():12.6g}  {zeros} zeros")
