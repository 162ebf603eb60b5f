"""The cloud's side of this package, which needs PyTorch."""

from .app import build_app
from .deployment import find_class_names, load_service, ray_app
from .http_server import TlsFiles, run_server
from .results import draw_result, make_result, read_result, write_result
from .server import CloudService
from .settings import ServiceSettings
