"""What people and monitoring look at: the page at /, its data and pictures, metrics, the model."""

import asyncio
import functools
import os

from .. import __version__
from . import api_description as described
from .metrics import Metrics

__all__ = ["add_pages"]

_PAGE = os.path.join(os.path.dirname(__file__), "status_page.html")
_PAGE_HEADERS = {
    # The page is one file, asks its own server alone, and can be put into no other page.
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_PICTURE_HEADERS = {"Cache-Control": "private, max-age=600", "X-Content-Type-Options": "nosniff"}
_DRAWING_LIMIT = 60.0  # seconds


@functools.cache
def _read_page():
    with open(_PAGE, encoding="utf-8") as file:
        return file.read()


def add_pages(app, service, clients, gallery):
    """Adds GET /, /v1/status, /v1/model, /v1/bitstreams/ID/picture and /metrics to an application.

    Args:
        app (FastAPI): gets them.
        service (CloudService): that is shown.
        clients (ClientTable): its clients.
        gallery (Gallery): its last results.
    """
    import fastapi
    from fastapi.responses import HTMLResponse, JSONResponse, Response

    metrics = Metrics(service, clients)

    @app.get("/", include_in_schema=False)
    async def get_page():
        return HTMLResponse(_read_page(), headers=_PAGE_HEADERS)

    @app.get("/v1/status", **described.STATUS)
    async def get_status():
        health = await asyncio.to_thread(service.find_health)
        return JSONResponse(
            {
                **health,
                **service.activity.recent(),
                "counts": service.activity.counts(),
                "queue": {**service.queue(), "size": service.settings.queue_size},
                "clients": clients.rows(),
                "results": gallery.rows(),
                "failures": clients.failures(),
            },
            headers={"Cache-Control": "no-store"},
        )

    @app.get("/v1/model", **described.MODEL)
    async def get_model():
        settings = service.settings
        return JSONResponse(
            {
                **service.about,
                "version": __version__,
                "classes": [
                    entry["name"] if isinstance(entry, dict) else entry for entry in service.class_names
                ],
                "score_threshold": settings.score_threshold,
                "max_batch": settings.max_batch,
                "max_bytes": settings.max_bytes,
                "max_image_pixels": settings.limits.max_image_pixels,
            }
        )

    @app.get("/v1/bitstreams/{identity}/picture", **described.PICTURE)
    async def get_picture(identity: str, threshold: float = fastapi.Query(0.5, ge=0, le=1)):
        try:
            waiting = asyncio.wrap_future(gallery.picture(identity, threshold))
            data = await asyncio.wait_for(asyncio.shield(waiting), _DRAWING_LIMIT)
        except KeyError:
            about = {"detail": "it is not among the results at /v1/status", "id": identity}
            return JSONResponse(about, 404)
        except Exception:  # too many others, too long, a damaged result
            about = {"detail": "it cannot be drawn now: ask again", "id": identity}
            return JSONResponse(about, 503, {"Retry-After": "3"})
        return Response(data, media_type="image/webp", headers=_PICTURE_HEADERS)

    @app.get("/metrics", **described.METRICS)
    async def get_metrics(request: fastapi.Request):
        text, content_type = metrics.write(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})
