"""Names of classes where a published data set has only numbers for them."""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

NUM_IMAGENET = 1000

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Nilsback and Zisserman, ICVGIP 2008, in the order of imagelabels.mat, as torchvision.datasets.Flowers102 has them
FLOWERS102 = tuple(
    """pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid,
bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris,
globe-flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower,
fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke,
sweet william, carnation, garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya,
cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia,
bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula,
sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow dahlia, cautleya spicata,
japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring crocus, bearded iris,
windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus,
toad lily, anthurium, frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen,
watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia, mallow,
mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily""".replace("\n", " ").split(", ")
)


def imagenet() -> tuple[str, ...]:
    """Returns open_clip's names of ImageNet's classes, in the order of their WordNet ids; two of them come twice.

    Raises:
        ModuleNotFoundError: open_clip isn't installed.
    """
    return tuple(_open_clip().IMAGENET_CLASSNAMES)


def imagenet_templates() -> tuple[Callable[[str], str], ...]:
    """Returns the 80 sentences around a class name of Radford et al., arXiv 2103.00020, from open_clip.

    Raises:
        ModuleNotFoundError: open_clip isn't installed.
    """
    return tuple(_open_clip().OPENAI_IMAGENET_TEMPLATES)


@functools.cache
def _open_clip() -> ModuleType:
    """Returns open_clip's one file of names and templates; the package itself would bring torch with it."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("open_clip isn't installed")
    path = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("open_clip_zero_shot_metadata", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
