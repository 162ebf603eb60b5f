"""Results of many images as files that COCO's tools read."""

import json
import os
import sys

from ..deploy.naming import name_files
from ..files import write_text
from ..images import ANNOTATIONS
from .spool import DIGEST_LENGTH, SUFFIX, is_stream_id

__all__ = [
    "ImageTable",
    "collect_answers",
    "match_categories",
    "name_bitstreams",
    "open_annotations",
    "open_image_table",
    "read_annotations",
    "read_answers",
    "require_free_names",
    "write_coco_results",
    "write_image_table",
]

RESULTS, IMAGES = "results.json", "images.json"


def read_annotations(path):
    """Reads what results need of a data set in COCO's format.

    Args:
        path (str): of its file, or of a folder that may hold one.

    Returns:
        (list[dict], list[dict]): its images, with "id" and "file_name", and its categories, with "id"
        and "name"; both empty for a folder without such a file.

    Raises:
        FileNotFoundError: no such file. ValueError: it is not in COCO's format.
    """
    if os.path.isdir(path):
        path = os.path.join(path, ANNOTATIONS)
        if not os.path.isfile(path):
            return [], []
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        images, categories = data["images"], data.get("categories", [])
        if any({"id", "file_name"} - image.keys() for image in images):
            raise ValueError("an image lacks its id or its file_name")
        return images, [{"id": c["id"], "name": c["name"]} for c in categories]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path!r} is no file in COCO's format ({error})") from error


class ImageTable:
    """Gives each image the id that it has in a data set, or else one of its own.

    Args:
        images (sequence[dict]): of the data set, in COCO's format: "id", "file_name" and, where results
            have another name, "name".
    """

    def __init__(self, images=()):
        self.unknown = []  # names of images that the data set lacks
        self.entries = {}  # name -> entry, in COCO's format, of each image that was looked for
        self._images = list(images)
        self._found = {}
        for image in self._images:
            for form in _forms(image):
                self._found.setdefault(form, []).append(image)
        numbers = [image["id"] for image in self._images if isinstance(image["id"], int)]
        self._next = max([0, *numbers]) + 1

    def find(self, name, height, width, file_name=None, time=None):
        """Finds the id of an image.

        Args:
            name (str): of the image: its file's, with or without folders and suffix.
            height, width (int): in pixels.
            file_name (str or None): of an image that the data set lacks; None takes its name.
            time (float or None): of a frame of a video, seconds since its first one; None takes what the
                data set tells.

        Returns:
            int: its id; the same for the same name, of which the last size and time are kept.
        """
        if name in self.entries:
            entry = self.entries[name]
            entry |= {"height": height, "width": width} | ({} if time is None else {"time": time})
            return entry["id"]
        known = self._found.get(name, [])
        entry = {"file_name": file_name or name}
        if len(known) == 1:
            entry = {"id": known[0]["id"], "file_name": known[0]["file_name"]}
        else:
            entry = {"id": self._next, **entry}
            self._next += 1
            if self._images:
                self.unknown.append(name)
        if time is None and len(known) == 1:
            time = known[0].get("time")
        timed = {} if time is None else {"time": time}
        self.entries[name] = {**entry, "height": height, "width": width, "name": name, **timed}
        return entry["id"]

    def tells_times(self):
        """Whether some of the images are frames of videos, with their times."""
        return any("time" in entry for entry in self.entries.values())


def _forms(image):
    """Lists the names that an image may have."""
    path = image["file_name"].replace("\\", "/")
    parts = path.split("/")
    forms = {path, path.replace("/", "_"), *("_".join(parts[at:]) for at in range(len(parts)))}
    return {*forms, os.path.splitext(parts[-1])[0], image.get("name", path)}


def write_coco_results(results, categories, table, folder):
    """Writes `results.json`, all instances in COCO's result format, and `images.json`, the images and
    categories that they name: `COCO("images.json").loadRes("results.json")` reads both, and so does the
    data set's own file in the first one's place.

    Args:
        results (sequence[dict]): from :func:`make_result`, "image_id" or "name" the image's name.
        categories (sequence[dict]): "id" and "name" of each class.
        table (ImageTable): of ids.
        folder (str): where to.

    Returns:
        int: instances.
    """
    instances = []
    for result in results:
        name = result.get("name", result["image_id"])
        number = table.find(name, result["height"], result["width"])
        instances += [{**entry, "image_id": number} for entry in result.get("instances", [])]
    write_image_table(table, categories, folder)
    write_text(json.dumps(instances), os.path.join(folder, RESULTS))
    return len(instances)


def write_image_table(table, categories, folder):
    """Writes `images.json`, see :func:`write_coco_results`."""
    data = {
        "info": {"description": "images and categories of results.json"},
        "images": list(table.entries.values()),
        "annotations": [],
        "categories": list(categories),
    }
    write_text(json.dumps(data), os.path.join(folder, IMAGES))


def require_free_names(names):
    """Raises ValueError if the result of an image would have the name of one of these two files."""
    taken = {os.path.splitext(file)[0] for file in (RESULTS, IMAGES)} & {name.lower() for name in names}
    if taken:
        raise ValueError(
            f"an image is called {taken.pop()!r}: its result would replace that of all images; rename it"
        )


def match_categories(categories, listed):
    """Gives classes the ids that a data set has for them, if it knows all their names.

    Args:
        categories, listed (sequence[dict]): of a network, and of a data set: "id" and "name" of each.

    Returns:
        list[dict]: as `categories`.
    """
    ids = {category["name"]: category["id"] for category in listed}
    if not all(category["name"] in ids for category in categories):
        return list(categories)
    return [{"id": ids[category["name"]], "name": category["name"]} for category in categories]


def name_bitstreams(paths):
    """Names bitstreams by their files, without ".d2fc", no two equal: see :func:`name_files`."""
    names = name_files(paths)
    short = [name.removesuffix(SUFFIX) for name in names]
    return short if len({name.lower() for name in short}) == len(names) else names


def open_annotations(path, inputs=(), images=None):
    """Finds the data set that bitstreams are of.

    Args:
        path (str or None): of its file, in COCO's format.
        inputs (sequence[str]): files and folders of bitstreams; of these, one may hold `images.json`.
        images (str or None): folder of the original images, which may hold annotations.

    Returns:
        (ImageTable, list[dict]): ids of images, and the categories; of `path`, or else of what the
        others hold, or else new ones and [].

    Raises:
        FileNotFoundError, ValueError: see :func:`read_annotations`.
    """
    beside = [os.path.join(entry, IMAGES) for entry in inputs if os.path.isdir(entry)]
    beside = [entry for entry in beside if os.path.isfile(entry)]
    found = path or (beside[0] if len(beside) == 1 else images)
    known, categories = read_annotations(found) if found else ([], [])
    return ImageTable(known), categories


def open_image_table(inputs, folder):
    """Goes on with the table in a folder of results, by the ids of the data set that is given.

    Args:
        inputs (sequence[str]): files and folders; of these, one may hold annotations.
        folder (str or None): where :func:`write_image_table` wrote before, or will.

    Returns:
        (ImageTable, list[dict]): the table, and the categories of the data set; [] if there is none.
    """
    annotated = [read_annotations(entry) for entry in inputs if os.path.isdir(entry)]
    annotated = [found for found in annotated if found[0]]
    # Two data sets count their images alike: then none of their ids would tell an image.
    images, categories = annotated[0] if len(annotated) == 1 else ([], [])
    path = os.path.join(folder or ".", IMAGES)
    before, categories_before = read_annotations(path) if folder and os.path.isfile(path) else ([], [])
    known = {(image["id"], image["file_name"]) for image in images}
    more = [image for image in before if (image["id"], image["file_name"]) not in known]
    table = ImageTable([*images, *more])
    for image in before:
        table.find(image.get("name", image["file_name"]), image.get("height"), image.get("width"))
    return table, categories or categories_before


def read_answers(folder, tell=None):
    """Yields (name of an image, answer) for each image of which a server's answers, ID.json, lie in a
    folder: of several, of other rates or weights, the newest. `tell` (callable or None: prints it) takes
    a message for each file that is none."""
    tell = tell or _tell
    newest = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: (entry.stat().st_mtime_ns, entry.name)):
        stem, suffix = os.path.splitext(entry.name)
        if suffix == ".json" and is_stream_id(stem):
            newest[stem[: -DIGEST_LENGTH - 1]] = entry.path
    for path in newest.values():
        try:
            with open(path, encoding="utf-8") as file:
                answer = json.load(file)
            _require_answer(answer)
        except (OSError, ValueError) as error:
            tell(f"{path!r} is no answer of a server ({error}): it is left out; remove it")
            continue
        yield answer.get("name", answer["image_id"]), answer


def _tell(message):
    print(message, file=sys.stderr)


def _require_answer(answer):
    """Raises ValueError if data lack what is read of an answer."""
    needed = {"image_id", "height", "width"}
    good = isinstance(answer, dict) and needed <= answer.keys()
    found = answer.get("instances", []) if good else None
    good = isinstance(found, list) and all(isinstance(entry, dict) for entry in found)
    if not good or not all("category_id" in entry for entry in found):
        raise ValueError("image_id, height, width or a category_id is missing")


def collect_answers(folder, table, categories=()):
    """Gathers the answers of a server that lie in a folder, ID.json, see :func:`write_coco_results`.

    Args:
        folder (str): of the answers.
        table (ImageTable): of ids.
        categories (sequence[dict]): that are known, "id" and "name" of each; more are read from answers.

    Returns:
        int: instances.
    """
    answers, found = [], {category["id"]: category for category in categories}
    for _, answer in read_answers(folder):
        answers.append({key: value for key, value in answer.items() if key != "maps"})
        for entry in answer.get("instances", []):
            number = entry["category_id"]
            found.setdefault(number, {"id": number, "name": entry.get("category", str(number))})
    return write_coco_results(answers, list(found.values()), table, folder)
