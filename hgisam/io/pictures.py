"""PNG pictures -> arrays, judged by what their headers state before anything is unpacked."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hgisam.io.errors import InputError
from hgisam.limits import read_whole

MAX_PIXELS = 4096 * 4096
"""The largest picture that is read; a slice of a CT is 512 x 512, seldom 1024."""

MAX_PICTURE_BYTES = 128 * 2**20
"""The largest file of one."""

_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})


def read_picture(path: Path, mode: Literal["L", "RGB"]) -> NDArray[np.uint8]:
    """A PNG of 8 bits: [rows, columns] in grey, or [rows, columns, 3] in colours.

    Raises:
        InputError: where it cannot be read, is no PNG whatever its name says, is larger than MAX_PIXELS, or has more
            than 8 bits, which would be cut off.
    """
    try:
        content = read_whole(path, MAX_PICTURE_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a size that is judged here, and of chunks that nobody reads
            with Image.open(BytesIO(content), formats=["PNG"]) as picture:
                _check_stated(picture, path)
                return np.asarray(picture.convert(mode))
    except InputError:
        raise
    except Exception as error:  # Pillow raises anything on a hostile file
        raise InputError(f"{path}: expected a PNG picture; got '{_reason(error)}'; check the file") from error


def _check_stated(picture: Any, path: Path) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{path}: expected a picture of at most {MAX_PIXELS:,} pixels; got {width} x {height}")
    if picture.mode not in _MODES:
        raise InputError(f"{path}: expected a picture of 8 bits a channel; got mode {picture.mode}; convert it")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:160] or type(error).__name__
