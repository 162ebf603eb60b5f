"""Edge and cloud as programs: files, a server, and a client that loses nothing.

The cloud's side needs PyTorch, and is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from ..deprecation import make_getattr
from ..lazy_names import make_lazy_getattr
from .access import TokenFile, Tokens, read_tokens
from .client import AccessDeniedError, CloudClient, RefusedError, ServerFaultError, WrongServerError
from .coco_results import (
    ImageTable,
    collect_answers,
    match_categories,
    name_bitstreams,
    open_annotations,
    open_image_table,
    read_annotations,
    require_free_names,
    write_coco_results,
    write_image_table,
)
from .inputs import list_inputs, name_inputs, read_all_frames, read_frames
from .link import Link
from .pipeline import run_ahead
from .protocol import BusyError, ForeignModelError
from .sender import Sender
from .spool import Spool, make_stream_id
from .transport import ClientTls

if TYPE_CHECKING:
    from .needs_torch import *

_RENAMED = {
    "all_frames": "read_all_frames",
    "class_names": "find_class_names",
    "frames_of": "read_frames",
    "result_of": "make_result",
    "stream_id": "make_stream_id",
}

__getattr__ = make_lazy_getattr(__name__, make_getattr(__name__, _RENAMED))
