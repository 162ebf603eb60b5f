"""What /docs and /openapi.json say of each request and its answers."""

from .. import __version__

__all__ = ["APP", "GET", "HEALTH", "METRICS", "MODEL", "PICTURE", "PUT", "STATUS", "security"]

APP = {
    "title": "d2_featcomp cloud sub-model",
    "version": __version__,
    "description": "Takes **feature bitstreams**, which `featcomp edge` writes, and answers with what "
    "the cloud sub-model finds in them. An id is `NAME-DIGEST`: a name of at most 200 letters, digits, "
    "`_`, `.`, `=` and `-`, and the first 16 hexadecimal digits of the SHA-256 of the bytes. A "
    "bitstream that is sent again is answered from its result.",
    "openapi_tags": [
        {"name": "bitstreams", "description": "Upload, and results."},
        {"name": "server", "description": "Health, activity, metrics and the model."},
    ],
}

_EXAMPLE = {
    "id": "photo-0123456789abcdef",
    "fingerprint": "89abcdef",
    "maker": "0123456789abcdef",
    "name": "photo",
    "image_id": "photo-0123456789abcdef",
    "height": 480,
    "width": 640,
    "instances": [
        {
            "image_id": "photo-0123456789abcdef",
            "category_id": 1,
            "category": "person",
            "bbox": [12.5, 40.0, 100.0, 220.0],
            "score": 0.97,
            "segmentation": {"size": [480, 640], "counts": "..."},
        }
    ],
}
_RESULT = {
    "description": "The result. `instances` as in COCO's result format (`bbox`: x, y, width, height in "
    "pixels of the original image; `segmentation`: run-length coded), `segments` of panoptic networks, "
    "`maps`: PNG files in base64, by name.",
    "content": {"application/json": {"schema": {"type": "object"}, "example": _EXAMPLE}},
}


def _refused(description, **more):
    example = {"detail": "why", "id": "photo-0123456789abcdef", **more}
    return {
        "description": description,
        "content": {"application/json": {"schema": {"type": "object"}, "example": example}},
    }


_RETRY = "; `Retry-After` tells when to try again"
_DOCUMENT = {
    "description": "See above.",
    "content": {"application/json": {"schema": {"type": "object"}}},
}

PUT = {
    "tags": ["bitstreams"],
    "summary": "Send a bitstream; the answer is its result",
    "description": "The result is on disk before it is answered. An optional header `X-Image-Name` "
    "(percent-encoded UTF-8) gives the image's name where the id has no room for it. The header "
    "`X-Cloud-Seconds` of the answer tells how long the network took. The `reason` of a final refusal "
    "is `bad` (never taken) or `foreign model` (a server with the weights that wrote it would take it).",
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    "responses": {
        200: _RESULT,
        400: _refused("Damaged, malformed, or written by another model", reason="bad"),
        408: _refused("Did not arrive in time"),
        409: _refused("The id is that of other bytes", reason="bad"),
        413: _refused("Too large", reason="bad"),
        429: _refused(f"This client asks for more than its share{_RETRY}"),
        500: _refused("Internal error"),
        503: _refused(f"The server is busy, stopping, or cannot write results{_RETRY}"),
        504: _refused(f"It takes longer than allowed{_RETRY}"),
    },
}
GET = {
    "tags": ["bitstreams"],
    "summary": "Get a result again",
    "responses": {
        200: _RESULT,
        202: _refused(f"The bitstream waits or is computed{_RETRY}"),
        400: _refused("The id is malformed", reason="bad"),
        404: _refused("There is no result of this id"),
    },
}
PICTURE = {
    "tags": ["bitstreams"],
    "summary": "Get a picture of one of the last results",
    "description": "Boxes, masks and maps are drawn over the features: the image never reaches the "
    "server. Only the last results of each client are kept for it, those at `/v1/status`.",
    "responses": {
        200: {"description": "The picture.", "content": {"image/webp": {}}},
        404: _refused("Not among the last results"),
        503: _refused(f"It cannot be drawn now, e.g. since many others are{_RETRY}"),
    },
}
HEALTH = {
    "tags": ["server"],
    "summary": "Tell whether the server can work",
    "description": "For load balancers; needs no token.",
    "responses": {
        200: {"description": "ok", "content": {"application/json": {"example": {"status": "ok"}}}},
        503: {
            "description": "Stopping, or results cannot be written",
            "content": {"application/json": {"example": {"status": "failing", "detail": "why"}}},
        },
    },
}
STATUS = {
    "tags": ["server"],
    "summary": "Get the data of the page at /",
    "description": "Rates over 10 s, quantiles of the latency over 60 s (from a bitstream's arrival to "
    "its result on disk), each of the last 120 s, counts since the start, the queue, clients, the last "
    "results and the last failures.",
    "responses": {200: _DOCUMENT},
}
MODEL = {
    "tags": ["server"],
    "summary": "Get what is served",
    "description": "The fingerprint of the edge sub-model whose bitstreams are taken, its split and "
    "codec, the names of the classes, and limits.",
    "responses": {200: _DOCUMENT},
}
METRICS = {
    "tags": ["server"],
    "summary": "Get the metrics for Prometheus",
    "responses": {
        200: {"description": "Prometheus' text format, or OpenMetrics.", "content": {"text/plain": {}}}
    },
}


def security(tokens):
    """The dependencies by which /docs knows that a token is needed; `AccessControl` checks it.

    Args:
        tokens (Tokens or None): of the server.

    Returns:
        list: for FastAPI.
    """
    if tokens is None:
        return []
    from fastapi import Depends
    from fastapi.security import HTTPBearer

    return [Depends(HTTPBearer(auto_error=False, description="One of the server's tokens."))]
