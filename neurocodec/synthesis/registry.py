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
    "superresolution": Entry(
        "superresolution.SuperResolution", ("MODEL", "IN"), "2 or 4 times as large (SRResNet, SRGAN, ESRGAN 2017-18)"
    ),
    "artefacts": Entry("artefacts.Artefacts", ("MODEL", "IN"), "JPEG artefacts or noise removed (DnCNN 2017)"),
    "pix2pix": Entry("pix2pix.Pix2Pix", ("MODEL", "IN"), "a photograph from its edges (Isola 2017)"),
    "faststyle": Entry("faststyle.FastStyle", ("MODEL", "IN"), "one painting's style in one pass (Johnson 2016)"),
    "cyclegan": Entry("cyclegan.CycleGan", ("MODEL", "IN"), "one kind of pictures to another, unpaired (Zhu 2017)"),
    "spade": Entry("spade.SpadeSystem", ("MODEL", "IN"), "a photograph from a layout of labels (Park 2019)"),
    "dcgan": Entry("dcgan.Dcgan", ("MODEL", "SEED"), "pictures from noise (Radford 2015)"),
    "latent": Entry("latent.Latent", ("MODEL", "IN"), "what a DCGAN makes of a picture (Zhu 2020, PULSE 2020)"),
    "video": Entry("video.Video", ("IN",), "frames to a .nicv file, or back (after Rippel 2019, Lu 2019)"),
    "action": Entry("action.Action", ("MODEL", "IN"), "what moves in a video, from its motion vectors (Wu 2018)"),
}


def system(name: str) -> type[System[Any, Any]]:
    """The class of a system. Raises ConfigError for an unknown name."""
    if name not in SYSTEMS:
        raise ConfigError(f"no system {name!r}; the systems are {', '.join(SYSTEMS)}.")
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
