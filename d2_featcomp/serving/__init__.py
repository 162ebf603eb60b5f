"""Edge and cloud as programs: files, a server, and a client that loses nothing."""

from .client import CloudClient, RefusedError, ServerFaultError
from .deployment import class_names, load_service, ray_app
from .inputs import all_frames, frames_of, list_inputs
from .link import Link
from .pipeline import run_ahead
from .results import draw_result, read_result, result_of, write_result
from .server import BusyError, CloudService, ServiceSettings, build_app
from .spool import Spool, stream_id
