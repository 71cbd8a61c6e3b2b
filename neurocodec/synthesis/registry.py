"""The systems by name. Nothing of a system is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from neurocodec.errors import ConfigError

if TYPE_CHECKING:
    from neurocodec.synthesis.system import System, TrainedSystem


class Entry(NamedTuple):
    """Where a system's class is, what it is applied to (a MODEL first if it is trained), and what it does."""

    path: str
    inputs: tuple[str, ...]
    text: str


SYSTEMS = {
    "texture": Entry("gatys.Texture", ("IN",), "more of a texture, from noise (Gatys 2015)"),
    "style": Entry("gatys.Style", ("PHOTOGRAPH", "PAINTING"), "a photograph in a painting's style (Gatys 2016)"),
    "inversion": Entry("gatys.Inversion", ("IN",), "what a layer of VGG16 knows of a picture (Mahendran 2015)"),
    "pyramid": Entry("pyramid.PyramidTexture", ("IN",), "more of a texture, by band statistics (Heeger 1995)"),
    "video": Entry("video.Video", ("IN",), "frames to a .nicv file, or back (after Rippel 2019, Lu 2019)"),
    "action": Entry("action.Action", ("MODEL", "IN"), "what moves in a video, from its motion vectors (Wu 2018)"),
    "dcgan": Entry("dcgan.Dcgan", ("MODEL", "SEED"), "pictures from noise (Radford 2015)"),
}


def system(name: str) -> type[System[Any, Any]]:
    """The class of a system. Raises ConfigError for an unknown name."""
    if name not in SYSTEMS:
        raise ConfigError(f"no system {name!r}; those that work are {', '.join(SYSTEMS)}.")
    module, _, attribute = SYSTEMS[name].path.partition(".")
    kind: type[System[Any, Any]] = getattr(import_module(f"neurocodec.synthesis.{module}"), attribute)
    return kind


def trained_system(name: str) -> type[TrainedSystem[Any, Any]]:
    """The class of a system that learns. Raises ConfigError if it does not."""
    from neurocodec.synthesis.system import TrainedSystem

    kind = system(name)
    if not issubclass(kind, TrainedSystem):
        learn = ", ".join(key for key, entry in SYSTEMS.items() if entry.inputs[0] == "MODEL")
        raise ConfigError(f"{name} needs no training; those that learn are {learn}.")
    return kind
