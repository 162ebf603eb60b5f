"""Edge and cloud as programs: files, a server, and a client that loses nothing."""

from .app import build_app
from .client import CloudClient, RefusedError, ServerFaultError, WrongServerError
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
from .deployment import class_names, load_service, ray_app
from .http_server import run_server
from .inputs import all_frames, frames_of, list_inputs, name_inputs
from .link import Link
from .pipeline import run_ahead
from .results import draw_result, read_result, result_of, write_result
from .sender import Sender
from .server import BusyError, CloudService, ForeignModelError, ServiceSettings
from .spool import Spool, stream_id
