r"""What a training needs, imported: the server that forks the tests' processes loads this once."""

import lightning.pytorch.loggers  # noqa: F401
import matplotlib.figure  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import toy.points  # noqa: F401

from cm_multimodal.commands import train  # noqa: F401
from cm_multimodal.config import compose
from matplotlib.backends import backend_agg  # noqa: F401
from modalities import image  # noqa: F401
from PIL import Image

Image.init()
compose("train", ["experiment=image/smoke"])
