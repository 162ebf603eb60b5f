"""Edge and cloud as programs: files, a server, and a client that loses nothing."""

from ..deprecation import make_getattr
from .access import Tokens, read_tokens
from .app import build_app
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
from .deployment import find_class_names, load_service, ray_app
from .http_server import TlsFiles, run_server
from .inputs import list_inputs, name_inputs, read_all_frames, read_frames
from .link import Link
from .pipeline import run_ahead
from .results import draw_result, make_result, read_result, write_result
from .sender import Sender
from .server import BusyError, CloudService, ForeignModelError
from .settings import ServiceSettings
from .spool import Spool, make_stream_id
from .transport import ClientTls

_RENAMED = {
    "all_frames": "read_all_frames",
    "class_names": "find_class_names",
    "frames_of": "read_frames",
    "result_of": "make_result",
    "stream_id": "make_stream_id",
}

__getattr__ = make_getattr(__name__, _RENAMED)
