"""Image data sets as uint8 tensors, and batches of them in an order that is a function of seed and step."""

from pyro_lrp.data.arrays import digits, fake, npz
from pyro_lrp.data.celeba import celeba
from pyro_lrp.data.cifar10 import cifar10
from pyro_lrp.data.conditions import Contexts, with_context
from pyro_lrp.data.dataset import Batch, Batches, ImageData, Split, Truth, at_once, chunks, divide
from pyro_lrp.data.deepfashion import deepfashion
from pyro_lrp.data.folder import folder
from pyro_lrp.data.mnist import fashion_mnist, mnist
from pyro_lrp.data.pictures import joints_beside, pictures
from pyro_lrp.data.posed_figures import posed_figures

__all__ = [
    "Batch", "Batches", "Contexts", "ImageData", "Split", "Truth", "at_once", "celeba", "chunks", "cifar10",
    "deepfashion", "digits", "divide", "fake", "fashion_mnist", "folder", "joints_beside", "mnist", "npz",
    "pictures", "posed_figures", "with_context",
]  # fmt: skip
