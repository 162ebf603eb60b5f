"""Scenes with exact instance masks, semantic maps and disparity, drawn from a seed."""

from .composer import Background, Scene, SceneComposer, SceneObject
from .cutouts import CutoutObjects, PhotoBackgrounds, list_cutouts, list_photos
from .procedural import ProceduralBackgrounds, ProceduralObjects
from .store import MANIFEST, ensure_scenes, is_complete, read_manifest, write_scenes
