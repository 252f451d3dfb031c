"""Pictures, recordings and films as parts of a prompt: loaders that turn files, bytes, data URLs and arrays into what
the model sees and hears. Decoding needs the packages of the extra `media`; arrays need none.
"""

from .audio import Audio
from .image import Image
from .video import Video

__all__ = ["Audio", "Image", "Video"]
