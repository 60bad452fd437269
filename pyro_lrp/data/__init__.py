"""Image data sets as uint8 tensors, and batches of them in an order that is a function of seed and step."""

from pyro_lrp.data.arrays import digits, fake, from_arrays, from_dataset, npz
from pyro_lrp.data.batch import Batch, no_context
from pyro_lrp.data.batches import Batches
from pyro_lrp.data.celeba import celeba
from pyro_lrp.data.cifar10 import cifar10
from pyro_lrp.data.conditions import (
    Attributes,
    Condition,
    Labels,
    NoCondition,
    condition_for,
    condition_kinds,
    condition_of,
    with_context,
)
from pyro_lrp.data.dataset import ImageData, Split, at_once, chunks
from pyro_lrp.data.deepfashion import deepfashion
from pyro_lrp.data.folder import folder
from pyro_lrp.data.mnist import fashion_mnist, mnist
from pyro_lrp.data.parts import divide
from pyro_lrp.data.pictures import pictures
from pyro_lrp.data.pose import Pose
from pyro_lrp.data.posed_figures import posed_figures

__all__ = [
    "Attributes",
    "Batch",
    "Batches",
    "Condition",
    "ImageData",
    "Labels",
    "NoCondition",
    "Pose",
    "Split",
    "at_once",
    "celeba",
    "chunks",
    "cifar10",
    "condition_for",
    "condition_kinds",
    "condition_of",
    "deepfashion",
    "digits",
    "divide",
    "fake",
    "fashion_mnist",
    "folder",
    "from_arrays",
    "from_dataset",
    "mnist",
    "no_context",
    "npz",
    "pictures",
    "posed_figures",
    "with_context",
]
