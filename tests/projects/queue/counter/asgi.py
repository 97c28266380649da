import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter.settings")
pages = get_asgi_application()


async def application(scope, receive, send):
    """Pages, and a WebSocket that answers what it hears with the release that hears it."""
    if scope["type"] != "websocket":
        await pages(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (heard := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{os.environ['RELEASE']} {heard['text']}"})
