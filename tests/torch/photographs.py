"""Real photographs, cropped to many sizes: a data set of images for the collators."""

import functools

import numpy as np
import torch
from sklearn.datasets import load_sample_images


@functools.cache
def photographs():
    """Return the sample images of scikit-learn, uint8[3, 427, 640] each."""
    return [np.ascontiguousarray(each.transpose(2, 0, 1)) for each in load_sample_images().images]


class Crops(torch.utils.data.Dataset):
    """Crops of the photographs: {"image": uint8[3, h, w], "label": which photograph}."""

    def __init__(self, count=80, *, seed=0, shortest=20, longest=200):
        rng = np.random.default_rng(seed)
        self.sizes = rng.integers(shortest, longest + 1, (count, 2))
        self.corners = [[rng.integers(0, 427 - h), rng.integers(0, 640 - w)] for h, w in self.sizes]
        self.label = rng.integers(0, 2, count)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        (top, left), (height, width) = self.corners[index], self.sizes[index]
        label = int(self.label[index])
        image = photographs()[label][:, top : top + height, left : left + width]
        return {"image": image, "label": label, "index": index}
