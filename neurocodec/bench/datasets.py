"""Pictures to measure on: Kodak and CLIC by name, with checksums, licence and download, or any folder.

A name is a promise: every picture of a named data set is compared with the SHA-256 of its 8-bit RGB pixels below, so
that a recompressed PNG is the same picture and a resized one is not. The table was made from the 24 PNG files of
Kodak as r0k.us serves them, whose own SHA-256 is the second table, and from twelve pictures of CLIC 2025 validation.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurocodec import files, image
from neurocodec.collection import picture_suffixes
from neurocodec.errors import ConfigError, ImageError


@dataclass(frozen=True)
class Source:
    """A named data set. pixels: of each picture, in the order of the set, the SHA-256 of its uint8 (H, W, 3) RGB.
    files: the SHA-256 of the file at url + name, where there is one."""

    title: str
    licence: str
    pixels: dict[str, str]
    url: str = ""
    files: dict[str, str] = field(default_factory=dict)
    advice: str = ""


@dataclass(frozen=True)
class Dataset:
    """Pictures to measure on, by the names that results give them, in order."""

    name: str
    pictures: dict[str, Path]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.pictures.values())


def load_dataset(source: str, images: int | None = None, *, download: bool = False) -> Dataset:
    """A data set by name, or all pictures of any folder; the first `images` of them.

    A named one is looked for in NEUROCODEC_DATA/name, or in the user's cache if that is not set; `download` fetches
    there what is missing. Raises ConfigError if there is no such folder, a picture is missing, or
    there are fewer than asked for. Pixels are compared with the table by `describe`, which reads them anyway.
    """
    if source in SOURCES:
        return _named(source, images, download)
    folder = Path(source)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give one of {', '.join(SOURCES)}, or a folder of pictures")
    paths = _pictures_in(folder)
    if not paths:
        raise ConfigError(f"{folder} holds no pictures: give a folder of PNG or other picture files")
    if images is not None and not 1 <= images <= len(paths):
        raise ConfigError(f"found {len(paths)} pictures in {folder}, expected --images from 1 to {len(paths)}")
    return Dataset(folder.resolve().name, {path.name: path for path in paths[:images]})


def describe(dataset: Dataset) -> list[dict[str, Any]]:
    """Of each picture name, width, height and the SHA-256 of the file, as results hold them.

    Raises ImageError for a picture that cannot be read, ConfigError for one that is not what the data set's name says.
    """
    found = []
    known = SOURCES[dataset.name].pixels if dataset.name in SOURCES else {}
    for name, path in dataset.pictures.items():
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}: give a picture that can be read") from error
        rgb = image.load(path).rgb
        if name in known and hashlib.sha256(rgb.tobytes()).hexdigest() != known[name]:
            raise ConfigError(
                f"{path} does not hold the pixels of {name} in {dataset.name}: replace it, or give the path of a "
                "folder with another name"
            )
        sha256 = hashlib.sha256(data).hexdigest()
        found.append({"name": name, "width": rgb.shape[1], "height": rgb.shape[0], "sha256": sha256})
    return found


def cache_folder() -> Path:
    """Where named data sets are kept without NEUROCODEC_DATA."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurocodec"


def _named(name: str, images: int | None, download: bool) -> Dataset:
    source = SOURCES[name]
    names = list(source.pixels)
    if images is not None and not 1 <= images <= len(names):
        raise ConfigError(f"found --images {images}, expected a number from 1 to {len(names)}, the pictures of {name}")
    names = names[:images]
    given = os.environ.get("NEUROCODEC_DATA")
    folder = (Path(given) if given else cache_folder()) / name
    pictures = _present(folder, names)
    missing = [wanted for wanted in names if wanted not in pictures]
    if missing and download and source.url:
        print(f"neurocodec: {len(missing)} files of {source.title} ({source.licence}) to {folder}", file=sys.stderr)
        for wanted in missing:
            pictures[wanted] = folder / wanted
            try:
                files.download(source.url + wanted, source.files[wanted], pictures[wanted])
            except OSError as error:
                raise ConfigError(f"{source.url}{wanted} cannot be had: {error}; put {wanted} into {folder}") from error
    elif missing:
        how = f"--download fetches them from {source.url}" if source.url else source.advice
        raise ConfigError(
            f"{len(missing)} of {len(names)} pictures of {name}, such as {missing[0]}, are not in {folder}"
            f"{'' if given else ', as NEUROCODEC_DATA is not set'}: {how}"
        )
    return Dataset(name, {wanted: pictures[wanted] for wanted in names})


def _pictures_in(folder: Path) -> list[Path]:
    suffixes = picture_suffixes()
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()
    )


def _present(folder: Path, names: list[str]) -> dict[str, Path]:
    """Those of the pictures that lie in the folder, under their name or a longer one, and as any kind of picture."""
    found: dict[str, Path] = {}
    files = _pictures_in(folder) if folder.is_dir() else []
    for name in names:
        exact = folder / name
        similar = [path for path in files if path.name.startswith(Path(name).stem)]
        if exact in files or similar:
            found[name] = exact if exact in files else similar[0]
    return found


_KODAK = {
    "kodim01.png": "a00210743353594464ac67e680a41710f484444ca5f9dfddeb570de25c428273",
    "kodim02.png": "ae5a495df4ec40e0941265440ccf98973915b4190ab803e37a23ca93dd43a07e",
    "kodim03.png": "234e61f585503f2a44400f5561131e8a512ef2c15328cd83d5cdbf10e2616cf2",
    "kodim04.png": "e88e788fca00e6c723bb66ff45edb8cb56091ee284dcb73e3909834f2c96eeb6",
    "kodim05.png": "ed3d1ee770909d3b27903b52ce19ee59a9bf24621a7bf1fb57b90677da880cb6",
    "kodim06.png": "7f45158999fa297d1cfbd292b3e2f3f5b27770701c3473155c211c3f512cc97f",
    "kodim07.png": "4e3664bf6fe865b49f15f7b554efa7dbecaf73ae0e8699f2e307bf07849f1264",
    "kodim08.png": "889c3740e4ed54ca53d11ae735a44d15fa24fe312b3bd1609a80618a4092c208",
    "kodim09.png": "f8453140e63a42301a6dbebb849a3cc40d34e4e59580eb1f372f7f5460df0dbe",
    "kodim10.png": "fabe11b5c4f028394e093a5b5907e5fabc8072da0d5334fb3a38547a7e1be842",
    "kodim11.png": "ab4dd9bf8431e717d33892b3ba03c63bfea3c7fa72c2610010de7df3c194c075",
    "kodim12.png": "f412db2168e599949aac26bd3264f111b23a684f30a21cfd320e9e95bc69bbae",
    "kodim13.png": "875703d56fb9396f478b5d7d3b18e2b77c17147a685c6dc2567e1c574aaf01e3",
    "kodim14.png": "2bd5029ee75ac1697542e5b05624e8afe186e3250abd7513d6a806b52084c2f0",
    "kodim15.png": "b5353e7511277009922ecbdebfc6418fec53aa1b2a08d44fc957a7540825697b",
    "kodim16.png": "ed21745fd32fce95cc2c6af7fc52b1b15e590c7a14ab18ab34bd65ecaf955ac7",
    "kodim17.png": "566bc866664e9b06dc86e2654051b454844efe17322dbf7e24156d8243f1943e",
    "kodim18.png": "3475af71066f3ca8206eb12cfc989ebe9c6e44820a96604e88ae018606e1f7bd",
    "kodim19.png": "7956408ef24222d37ac53f579bd24d5b2c3557b16c657e8b71c1b6ae9f18de1b",
    "kodim20.png": "666ce8f2db5566a123bb081e70618f6f4c4253df960f3b41bb9dcc3dd134f3cf",
    "kodim21.png": "2d6902daf7c4486b7c8c04d834091841a2b38c8f0c81cd7a963a6510b34a2a6a",
    "kodim22.png": "f430842120c108b67725ada96b8b7b2a914f6a0915eacd5595064c6c1a5d70a0",
    "kodim23.png": "81992a83592267e69125666f3e3e04c1819529b4c4c1e55fde0a6a741bac4219",
    "kodim24.png": "e3e3ccc3e795b82a3da66934409dfe98ce0f5aadc6d7767543c506453599bb98",
}
_KODAK_FILES = {
    "kodim01.png": "a56e27cbf5f843c048b6af1d6e090760e9c92fadba88b7dee0205918a37523bd",
    "kodim02.png": "4f4b74a79237e311d72cad958237b5f7088d8bce1c82305ebefe1a70e3022dfd",
    "kodim03.png": "e25ca1ff2f0c0cb5fdfd5f9b0a0bb21ac4c3de3c84a67f35b09a85d3306249db",
    "kodim04.png": "e3b946107c5d3441c022f678d0c3caf1e224d81b1604ba840a4f88e562de61aa",
    "kodim05.png": "10349e963c5c813d327852f82c1795fa4148d69fedffc4c589bee458e3ac3d53",
    "kodim06.png": "363510303b715d4cbc384e1ce227e466b613a09e1b71ae985882bf8e7fbd9b18",
    "kodim07.png": "b77d3f006f42414bb242222e0482e750c0fb9e5ee8d4bed2f6f11c5605fe54a4",
    "kodim08.png": "ba23983c76b4832ee0e8af0592664756841a16779acd69f792e268fb6d13d6e7",
    "kodim09.png": "6a4361c2fc194feb4edaa9f9a4a0620fb9943e460ac7fdf037fb0f6dd6607a7d",
    "kodim10.png": "9dfb70f5867c29ff9ed6313683f19b3d867849e40fbc0c4c54a4a89df341cf23",
    "kodim11.png": "7936814b58b5387fce2e4e2488b4ec830dadd95fa9520f358ddb30990b50f2b6",
    "kodim12.png": "d78c37c2f04f23761ed2367dd77e2db584ddd4c3950833fecf89f199a8126980",
    "kodim13.png": "bc34a3ce58dea09dce1704c997171602de90cb34d0c8503a988b77f473d39b08",
    "kodim14.png": "55a94550ff18f3246c4074fd32b77b0c74447c26b6ad274d564d999c0450ba6e",
    "kodim15.png": "7538cbb80cb9103606c48b806eae57d56c885c7f90b9b3be70a41160f9cbb683",
    "kodim16.png": "a89c7268ccd4718ba424a99fc4643c572cf692ca6eae887185ceb4e9f11d2e54",
    "kodim17.png": "37afcc89fbdcb76d9518e04b2fc011027e2f4cd14b3b2f83cefd721641a47c5b",
    "kodim18.png": "1a9258c365988961d87a0598725b609139c303ad48a5aad6c503c3b1a87849aa",
    "kodim19.png": "b7450b264b1b0a411390d8931b112c27905a992520fc90569dc4b920aa32bbdc",
    "kodim20.png": "3b46c71e3b92a563820ba32936be8330c586c41f938efd94be938386aae4328a",
    "kodim21.png": "ac958597c82073f6bb65129c68f72b651db5b9efd82e11547d07350214bc268b",
    "kodim22.png": "1cee58eb1f2d9c7ebb254d208a03c783ce6cf2c4d8c2cf45e235dd23b4ce1b29",
    "kodim23.png": "e3111a2fd4da24af15d6459ef9eacfe54106b38e27b4a21821b75c3f5d2d5baf",
    "kodim24.png": "1071c68372cc5a01435c2c225a5cf7d4bb803846ec08bb6b3d6721b156d7cb96",
}
_CLIC_2025 = {
    "097cb426.webp": "4ff78854b6eab3250160a79cf687d18939befb0e24bb1042e85f1be4455bb06e",
    "0c49a5cc.webp": "212131e9fafcc687b06734592a49d61e2dfed087bc7c6f6ff259eb90d0e5fa71",
    "100a02c2.webp": "fa026581657c7f35fddb4a2d6e1defb950ee37f9d179fcf7e1917dfc627d93ce",
    "100f1789.webp": "d24c09f2b35e429184bab34053e94d76122f435d740e467f4cc3931e17f57d7f",
    "11f2b039.webp": "04a80432f29bc2c29380143eaa767fae19ce083d4fee5bd0d4bb54c1abfe7600",
    "14ab4af2.webp": "17a9d7e9d69021e7eeab65baa91ea47ebab165a70b85f93b8964ff94e5567ed1",
    "22ea12c9.webp": "9881fb8806d17fa12c66fff0c566278efc3a4f934870712017be43280221e235",
    "28d24b9c.webp": "ebdb370b352ffd4ae2b5baca5872793bfb4ab125d20832aac666f8bcbd0f0701",
    "2a2420f9.webp": "01dc58577c6b7f24248dece45eb5ed74eafc96e3186711240c24ea3abf6b0027",
    "2c1f8454.webp": "25561771f93418415fa010a67120f194d09de8a0bd214239a746bd12a50352c9",
    "3140d643.webp": "c574fc54a310a0546c60e68915f2e011da6e2d9d0914a784ba9d1c454b817246",
    "4cd6910a.webp": "aaa2ab7ca9b1fb92e3536fffd09a11f2e1089397ef3d7b4db79a1129cc944694",
}

SOURCES = {
    "kodak": Source(
        "the Kodak lossless true colour image suite",
        "released by Eastman Kodak for unrestricted use",
        _KODAK,
        "https://r0k.us/graphics/kodak/kodak/",
        _KODAK_FILES,
    ),
    "clic2025-validation": Source(
        "twelve pictures of the validation set of CLIC 2025",
        "Unsplash licence",
        _CLIC_2025,
        advice="get the challenge's validation pictures from https://www.compression.cc; the first eight characters "
        "of their names are those of the files wanted here",
    ),
}
"""The data sets that have a name, which is also that of their folder."""
