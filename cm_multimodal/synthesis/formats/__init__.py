r"""How generated samples lie on the disk: in one of the forms that other models are trained from.

    folder      a file each, in a folder for each class: data/cat/000012.png
    npz         data/00000.npz with `x`, `label`, `sample_id`, `seed`, and what the modality adds
    webdataset  data/00000.tar with 000012.png beside 000012.cls
    parquet     data/00000.parquet with the bytes of each file, or the text, and its class; needs pyarrow
    jsonl       data/00000.jsonl with a text and its class a line; of texts alone

The same samples are the same bytes, whenever and by whomever they are written: no form holds a time or an owner.

References:
    | WebDataset: https://github.com/webdataset/webdataset
    | Hugging Face's features of pictures and sounds in Parquet: a struct of bytes and path
"""

__all__ = ["FORMATS", "Format", "make_format"]

from ...errors import UsageError, nearest
from ...modality import Modality
from ...registry import discover
from .base import Format

FORMATS: dict[str, type[Format]] = discover(__name__, __path__, Format)


def make_format(name: str, modality: Modality, kind: str | None, classes: tuple[str, ...], seed: int) -> Format:
    """Returns a form by its name.

    Raises:
        UsageError: There is no such form or kind of file, it does not suit, or something is not installed.
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise UsageError(f"There is no format '{name}'; {nearest(str(name), FORMATS)}")
    if kind is not None and kind not in modality.kinds:
        raise UsageError(
            f"There is no kind={kind} of files of the modality '{modality.name}'; {nearest(str(kind), modality.kinds)}"
        )
    made = FORMATS[name](modality, kind or modality.kinds[0], classes, seed)
    made.check()
    modality.check_kind(made.kind)
    return made
